# One node of 4 x 80 GB, the judge elsewhere: LoRA on the language model, ZeRO-2.
#
#   LAYOUT=lora4 bash deepeyes.sh rollout    # GPU 3
#   LAYOUT=lora4 DEEPEYES_JUDGE_URLS=http://10.0.0.7:18901/v1 DEEPEYES_JUDGE_API_KEY=secret bash deepeyes.sh train    # GPUs 0-2
#
# The rollout server loads the adapter after each update: 0.3 GB go over for 7B at rank 64, not 15 GB of merged weights.
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
  --vllm_enable_lora true
  --vllm_max_lora_rank "${LORA_RANK:-64}"
)

train_command=(
  swift rlhf
  --torch_dtype bfloat16
  --tuner_type lora
  --lora_rank "${LORA_RANK:-64}"
  --lora_alpha 128
  --deepspeed zero2
  --use_vllm true
  --vllm_mode server
)
