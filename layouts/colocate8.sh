# One node of 8 x 80 GB without a rollout server, the judge elsewhere: all weights, ZeRO-3; vLLM sleeps while it trains.
#
#   LAYOUT=colocate8 DEEPEYES_JUDGE_URLS=http://10.0.0.7:18901/v1 DEEPEYES_JUDGE_API_KEY=secret bash deepeyes.sh train    # GPUs 0-7
#
# No GPU waits for another, and weights move inside a process; but rollout and training take turns. Level 1 of sleep
# moves vLLM's weights to the memory of the host: 15 GB a process for 7B.
#
# Crops are cut from the view, the picture as the model saw it: of a picture above MAX_PIXELS they show no new pixel.
# DEEPEYES_CROP_SOURCE=original, for rollout and train alike, cuts the picture itself.

# shellcheck shell=bash disable=SC2034 # deepeyes.sh reads all of it
TRAIN_GPUS="${TRAIN_GPUS:-0,1,2,3,4,5,6,7}"

train_command=(
  swift rlhf
  --torch_dtype bfloat16
  --tuner_type full
  --freeze_vit false
  --freeze_aligner false
  --deepspeed zero3
  --use_vllm true
  --vllm_mode colocate
  --vllm_gpu_memory_utilization 0.5
  --sleep_level 1
  --offload_model true
  --offload_optimizer true
)
