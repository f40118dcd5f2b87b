# One GPU of 80 GB, the judge elsewhere: LoRA on the language model; vLLM plays inside the trainer and sleeps meanwhile.
#
#   LAYOUT=one DEEPEYES_JUDGE_URLS=http://10.0.0.7:18901/v1 DEEPEYES_JUDGE_API_KEY=secret bash deepeyes.sh train    # GPU 0
#
# vLLM gets the adapter, not merged weights. Where memory is short: MAX_PIXELS, MAX_TURNS, a smaller MODEL.
#
# Crops are cut from the view, the picture as the model saw it: of a picture above MAX_PIXELS they show no new pixel.
# DEEPEYES_CROP_SOURCE=original, for rollout and train alike, cuts the picture itself.

# shellcheck shell=bash disable=SC2034 # deepeyes.sh reads all of it
TRAIN_GPUS="${TRAIN_GPUS:-0}"

train_command=(
  swift rlhf
  --torch_dtype bfloat16
  --tuner_type lora
  --lora_rank "${LORA_RANK:-64}"
  --lora_alpha 128
  --use_vllm true
  --vllm_mode colocate
  --vllm_enable_lora true
  --vllm_gpu_memory_utilization 0.45
  --vllm_max_num_seqs 64
  --sleep_level 1
)
