# One node of 8 x 80 GB with the judge on it: all weights, ZeRO-3.
#
#   bash deploy_judge.sh                     # GPUs 4-7: Qwen2.5-VL-72B-Instruct judges answers
#   LAYOUT=node8 bash deepeyes.sh rollout    # GPU 3: vLLM plays the trajectories
#   LAYOUT=node8 bash deepeyes.sh train      # GPUs 0-2: GRPO
#
# Crops are cut from the view, the picture as the model saw it: of a picture above MAX_PIXELS they show no new pixel.
# DEEPEYES_CROP_SOURCE=original, for rollout and train alike, cuts the picture itself.

# shellcheck shell=bash disable=SC2034 # deepeyes.sh reads all of it
ROLLOUT_GPUS="${ROLLOUT_GPUS:-3}"
TRAIN_GPUS="${TRAIN_GPUS:-0,1,2}"

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
