# No GPU: the trainer itself plays, slowly. For tests and tiny models.
#
#   LAYOUT=cpu DEEPEYES_JUDGE=rule MODEL=./tiny DATASET=rows.jsonl bash deepeyes.sh train
#
# Several processes: NNODES=2 with NODE_RANK, MASTER_ADDR and MASTER_PORT in each; on one host, too.
# With USE_VLLM=true a rollout server on the CPU plays instead, which has no way to take new weights.

# shellcheck shell=bash disable=SC2034 # deepeyes.sh reads all of it
ROLLOUT_GPUS="${ROLLOUT_GPUS:-none}"
TRAIN_GPUS="${TRAIN_GPUS:-none}"

rollout_command=(
  swift rollout
  --vllm_enforce_eager true
)

train_command=(
  swift rlhf
  --use_cpu true
  --tuner_type full
  --freeze_vit false
  --freeze_aligner false
  --use_vllm false
)
