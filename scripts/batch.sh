# How much makes one update. Swift wants steps of accumulation; a researcher thinks in prompts.
# shellcheck shell=bash

# Reads PROMPTS_PER_STEP, NUM_GENERATIONS, PER_DEVICE_BATCH, NNODES and TENSOR_PARALLEL; sets `generations`, `batch`,
# `trajectories`, `accumulation`, `tensor_parallel`, and says how they multiply.
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
  local processes=$((nodes * (gpus ? gpus : 1)))
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
