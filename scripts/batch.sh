# How much makes one update. Swift wants steps of accumulation; a researcher thinks in prompts.
# shellcheck shell=bash

# Reads PROMPTS_PER_STEP, NUM_GENERATIONS, PER_DEVICE_BATCH, NNODES and TENSOR_PARALLEL; sets `generations`, `batch`,
# `trajectories`, `accumulation`, `tensor_parallel`, `processes`, and
# says how they multiply.
size_update() { # GPUS TRAINER
  local gpus="$1" trainer="$2" prompts="${PROMPTS_PER_STEP:-24}" nodes="${NNODES:-1}"
  generations="${NUM_GENERATIONS:-16}" batch="${PER_DEVICE_BATCH:-1}" tensor_parallel="${TENSOR_PARALLEL:-$gpus}"
  require_whole PROMPTS_PER_STEP "$prompts"
  require_whole NUM_GENERATIONS "$generations"
  require_whole PER_DEVICE_BATCH "$batch"
  require_whole NNODES "$nodes"
  ((generations > 1)) || die "NUM_GENERATIONS=1 has no group to compare with; take 2 or more (the paper: 16)"

  # Those that work on different trajectories: processes, or the copies of the model over which Megatron spreads them;
  # it wants whole groups on each.
  processes=$((nodes * (gpus ? gpus : 1)))
  local copies="$processes" kind=processes group=1
  if [[ "$trainer" == megatron ]]; then
    ((gpus)) || die "TRAINER=megatron needs GPUs; TRAIN_GPUS=none names none"
    require_whole TENSOR_PARALLEL "$tensor_parallel"
    ((processes % tensor_parallel == 0)) ||
      die "TENSOR_PARALLEL=$tensor_parallel does not divide the $processes GPUs that train"
    copies=$((processes / tensor_parallel)) kind=copies group="$generations"
  fi

  trajectories=$((prompts * generations))
  local at_a_time=$((copies * batch))
  if ((trajectories / group % at_a_time)); then
    local fits="$prompts"
    while ((fits * generations / group % at_a_time)); do ((fits += 1)); done
    die "PROMPTS_PER_STEP=$prompts x NUM_GENERATIONS=$generations is $trajectories trajectories, which" \
      "$copies $kind x PER_DEVICE_BATCH=$batch do not share evenly; the next that fits is PROMPTS_PER_STEP=$fits"
  fi
  accumulation=$((trajectories / at_a_time))
  say "one update: $prompts prompts x $generations generations = $copies $kind x $batch x $accumulation steps"
  if ((prompts < 16)); then say "warning: PROMPTS_PER_STEP=$prompts; below 16 an update is mostly noise"; fi
}

# Without them each of several nodes takes itself for the first, and waits for the others for ever.
require_rank() {
  local nodes="${NNODES:-1}"
  require_whole NNODES "$nodes"
  if ((nodes > 1)) && [[ -z "${NODE_RANK:-}" || -z "${MASTER_ADDR:-}" ]]; then
    die "NNODES=$nodes needs NODE_RANK, from 0 to $((nodes - 1)) and another on each node, and MASTER_ADDR, the address of node 0"
  fi
}

# With held-out rows swift wants whole groups in an evaluation batch, and by default the 16 generations of training: one
# generation a row, and a batch that holds whole groups, unless told otherwise; Megatron takes the batch of training. The
# flags go to `evaluation`.
size_evaluation() { # ARRAY TRAINER: the flags of the user
  local generations_eval size
  evaluation=()
  if [[ -z "$(flag_of "$1" val_dataset)" && "$(flag_of "$1" split_dataset_ratio)" =~ ^0*\.?0*$ ]]; then return; fi
  generations_eval="$(flag_of "$1" num_generations_eval)"
  if [[ -z "$generations_eval" ]]; then
    generations_eval=1
    evaluation+=(--num_generations_eval 1)
  fi
  if [[ "$2" != megatron && -z "$(flag_of "$1" per_device_eval_batch_size)" ]]; then
    require_whole --num_generations_eval "$generations_eval"
    size="$batch"
    while ((size * processes % generations_eval)); do ((size += 1)); done
    evaluation+=(--per_device_eval_batch_size "$size")
  fi
}
