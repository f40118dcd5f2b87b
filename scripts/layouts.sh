# Layouts: files that say which GPU does what, with the flags of swift that follow from it. A setting of the user wins
# over what the file says.
# shellcheck shell=bash disable=SC2034 # what is set here is read by those that source this

# The names of those that come with the project.
layout_names() {
  local file
  for file in "$HERE"/layouts/*.sh; do basename "$file" .sh; done
}

# A line each: the name, and the first line of the file.
describe_layouts() {
  local name
  for name in $(layout_names); do
    printf '  %-10s %s\n' "$name" "$(head_of "$HERE/layouts/$name.sh" | sed -n 1p)"
  done
}

# What a layout passes for vLLM inside the trainer.
readonly COLOCATE_FLAGS=(
  vllm_enable_lora vllm_gpu_memory_utilization vllm_max_num_seqs vllm_tensor_parallel_size
  sleep_level offload_model offload_optimizer
)

# Read the file that LAYOUT names, by its name or its path: GPUs, `rollout_command`, `train_command`.
load_layout() {
  local file names
  layout="${LAYOUT:-node8}"
  rollout_command=() train_command=()
  if [[ "$layout" == */* || "$layout" == *.sh ]]; then
    file="$layout"
    [[ -f "$file" ]] || die "LAYOUT=$layout is no file"
  else
    file="$HERE/layouts/$layout.sh"
    names="$(layout_names | paste -sd ' ')"
    # shellcheck disable=SC2086 # a word a name
    [[ -f "$file" ]] ||
      die "LAYOUT=$layout is unknown, did you mean $(nearest "$layout" $names)? Choose one of: $names; or the path of your own"
  fi
  # shellcheck source=layouts/node8.sh
  source "$file"
  [[ "${train_command[*]}" == @(swift|megatron)' rlhf'* ]] ||
    die "LAYOUT=$layout needs train_command=(swift rlhf ...), as layouts/node8.sh has it"
  [[ -n "${TRAIN_GPUS:-}" ]] || die "LAYOUT=$layout needs TRAIN_GPUS, as layouts/node8.sh has it"
}

# Settings that change the flags of a layout.
change_layout() {
  local trains=deepspeed plays=false
  if [[ "${train_command[0]}" == megatron ]]; then trains=megatron; fi
  if [[ "$(flag_of train_command use_vllm)" == true ]]; then plays=true; fi
  tuner="${TUNER:-$(flag_of train_command tuner_type)}"
  trainer="${TRAINER:-$trains}"
  use_vllm="${USE_VLLM:-$plays}"
  require_one_of TUNER "$tuner" full lora
  require_one_of TRAINER "$trainer" deepspeed megatron
  require_one_of USE_VLLM "$use_vllm" true false

  if [[ "$tuner" != "$(flag_of train_command tuner_type)" ]]; then
    drop_flags train_command freeze_vit freeze_aligner lora_rank lora_alpha deepspeed vllm_enable_lora
    set_flag train_command tuner_type "$tuner"
    if [[ "$tuner" == full ]]; then
      train_command+=(--freeze_vit false --freeze_aligner false --deepspeed zero3)
    else
      train_command+=(--lora_rank "${LORA_RANK:-64}" --lora_alpha 128 --deepspeed zero2)
    fi
  fi
  if [[ "$trainer" != "$trains" ]]; then
    drop_flags train_command deepspeed attention_backend recompute_granularity recompute_method recompute_num_layers
    if [[ "$trainer" == megatron ]]; then
      train_command[0]=megatron
      train_command+=(--attention_backend fused)
      train_command+=(--recompute_granularity full --recompute_method uniform --recompute_num_layers 1)
    else
      train_command[0]=swift
      set_flag train_command deepspeed "$([[ "$tuner" == full ]] && echo zero3 || echo zero2)"
    fi
  fi
  if [[ "$use_vllm" != "$plays" ]]; then
    drop_flags train_command vllm_mode "${COLOCATE_FLAGS[@]}"
    set_flag train_command use_vllm "$use_vllm"
    if [[ "$use_vllm" == true ]]; then train_command+=(--vllm_mode server); fi
  fi
  if [[ -n "${DEEPSPEED:-}" ]]; then set_flag train_command deepspeed "$DEEPSPEED"; fi
  if [[ "${DEEPSPEED:-}" == none || "$trainer" == megatron ]]; then drop_flags train_command deepspeed; fi
  if [[ -n "${TRAIN_VISION:-}" ]]; then
    require_one_of TRAIN_VISION "$TRAIN_VISION" true false
    drop_flags train_command freeze_vit freeze_aligner
    if [[ "$TRAIN_VISION" == true ]]; then train_command+=(--freeze_vit false --freeze_aligner false); fi
  fi

  send_adapters

  require_gpus TRAIN_GPUS "$TRAIN_GPUS"
  drop_flags train_command use_cpu
  if [[ "$TRAIN_GPUS" == none ]]; then
    drop_flags train_command deepspeed torch_dtype
    set_flag train_command use_cpu true # several processes would not find each other otherwise
  fi
  choose_precision train_command "$TRAIN_GPUS"
  if ((${#rollout_command[@]})); then
    require_gpus ROLLOUT_GPUS "${ROLLOUT_GPUS:-}"
    if [[ "$ROLLOUT_GPUS" == none ]]; then
      drop_flags rollout_command vllm_gpu_memory_utilization torch_dtype
      set_flag rollout_command vllm_enforce_eager true
    fi
    choose_precision rollout_command "$ROLLOUT_GPUS"
  fi
}

# With LoRA, vLLM gets the adapter rather than merged weights; not for a trained vision tower, where vLLM takes none.
send_adapters() {
  local rank
  rank="$(flag_of train_command lora_rank)"
  drop_flags rollout_command vllm_enable_lora vllm_max_lora_rank
  if [[ "$tuner" != lora || "$(flag_of train_command freeze_vit)" == false ]]; then
    drop_flags train_command vllm_enable_lora
  elif [[ "$(flag_of train_command vllm_mode)" == colocate ]]; then
    set_flag train_command vllm_enable_lora true
  elif ((${#rollout_command[@]})); then
    rollout_command+=(--vllm_enable_lora true --vllm_max_lora_rank "$rank")
  fi
  if [[ "$tuner" == lora ]]; then require_one_of LORA_RANK "$rank" 8 16 32 64 128 256 512; fi
}

# How many GPUs share one copy of the policy in vLLM, and how many copies that makes: `copies`.
split_policy() { # NAME GPUS
  local tensor_parallel="${ROLLOUT_TENSOR_PARALLEL:-1}"
  require_whole ROLLOUT_TENSOR_PARALLEL "$tensor_parallel"
  (($2 % tensor_parallel == 0)) || die "ROLLOUT_TENSOR_PARALLEL=$tensor_parallel does not divide the $2 GPUs of $1"
  copies=$(($2 / tensor_parallel))
}

# Where the rollout servers are: `hosts` and as many `ports`.
list_servers() { # HOSTS PORTS
  IFS=, read -ra hosts <<<"$1"
  IFS=, read -ra ports <<<"$2"
  require_whole ROLLOUT_PORT "${ports[@]}"
  while ((${#ports[@]} < ${#hosts[@]} && ${#ports[@]} > 0)) && [[ "$2" != *,* ]]; do ports+=("$2"); done
  ((${#ports[@]} == ${#hosts[@]})) ||
    die "ROLLOUT_HOST=$1 and ROLLOUT_PORT=$2 must name as many ports as hosts, or one port for all"
}

choose_precision() { # ARRAY GPUS: unless the layout did
  local precision=bfloat16
  if [[ "$2" == none ]]; then precision=float32; fi
  if [[ -z "$(flag_of "$1" torch_dtype)" ]]; then set_flag "$1" torch_dtype "$precision"; fi
}

count() { # how many GPUs a list names
  local -a list
  IFS=, read -ra list <<<"${1/none/}"
  printf '%s\n' "${#list[@]}"
}
