# One node of 8 Ascend NPUs, the judge elsewhere: all weights, ZeRO-3. It needs torch_npu and vllm-ascend.
#
#   LAYOUT=npu8 bash deepeyes.sh rollout    # NPUs 6 and 7: two copies of the policy play
#   LAYOUT=npu8 DEEPEYES_JUDGE_URLS=http://10.0.0.7:18901/v1 DEEPEYES_JUDGE_API_KEY=secret bash deepeyes.sh train    # NPUs 0-5
#
# `setup` has no packages for NPUs: bring an environment of your own with SWIFT=/path/to/bin/swift.
#
# Crops are cut from the view, the picture as the model saw it: of a picture above MAX_PIXELS they show no new pixel.
# DEEPEYES_CROP_SOURCE=original, for rollout and train alike, cuts the picture itself.

# shellcheck shell=bash disable=SC2034 # deepeyes.sh reads all of it
DEVICES_VARIABLE=ASCEND_RT_VISIBLE_DEVICES
ROLLOUT_GPUS="${ROLLOUT_GPUS:-6,7}"
TRAIN_GPUS="${TRAIN_GPUS:-0,1,2,3,4,5}"

rollout_command=(
  swift rollout
  --torch_dtype bfloat16
  --vllm_gpu_memory_utilization 0.9
)

train_command=(
  swift rlhf
  --torch_dtype bfloat16
  --tuner_type full
  --freeze_vit false
  --freeze_aligner false
  --deepspeed zero3
  --use_vllm true
  --vllm_mode server
)
