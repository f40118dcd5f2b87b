# One node of 8 x 80 GB, the judge elsewhere: all weights, Megatron with tensor parallelism.
#
#   LAYOUT=mega8 bash deepeyes.sh rollout    # GPUs 4-7: four copies of the policy play
#   LAYOUT=mega8 DEEPEYES_JUDGE_URLS=http://10.0.0.7:18901/v1 DEEPEYES_JUDGE_API_KEY=secret bash deepeyes.sh train    # GPUs 0-3
#
# It needs ms-swift 4.6 with megatron-core, mcore-bridge and transformer-engine, which `setup` leaves out. Attention is
# that of cuDNN (`fused`), which comes with transformer-engine: swift's default, `flash`, needs flash-attn besides.
#
# Crops are cut from the view, the picture as the model saw it: of a picture above MAX_PIXELS they show no new pixel.
# DEEPEYES_CROP_SOURCE=original, for rollout and train alike, cuts the picture itself.

# shellcheck shell=bash disable=SC2034 # deepeyes.sh reads all of it
ROLLOUT_GPUS="${ROLLOUT_GPUS:-4,5,6,7}"
TRAIN_GPUS="${TRAIN_GPUS:-0,1,2,3}"

rollout_command=(
  swift rollout
  --torch_dtype bfloat16
  --vllm_gpu_memory_utilization 0.9
)

train_command=(
  megatron rlhf
  --torch_dtype bfloat16
  --tuner_type full
  --freeze_vit false
  --freeze_aligner false
  --attention_backend fused
  --recompute_granularity full
  --recompute_method uniform
  --recompute_num_layers 1
  --use_vllm true
  --vllm_mode server
)
