# One node of 8 x 80 GB, the judge elsewhere: all weights, ZeRO-3.
#
#   JUDGE_HOST=0.0.0.0 JUDGE_GPUS=0,1,2,3 DEEPEYES_JUDGE_API_KEY=secret bash deploy_judge.sh    # on another host
#   LAYOUT=train8 bash deepeyes.sh rollout    # GPUs 6 and 7: two copies of the policy play
#   LAYOUT=train8 DEEPEYES_JUDGE_URLS=http://10.0.0.7:18901/v1 DEEPEYES_JUDGE_API_KEY=secret bash deepeyes.sh train    # GPUs 0-5
#
# Crops are cut from the view, the picture as the model saw it: of a picture above MAX_PIXELS they show no new pixel.
# DEEPEYES_CROP_SOURCE=original, for rollout and train alike, cuts the picture itself.

# shellcheck shell=bash disable=SC2034 # deepeyes.sh reads all of it
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
