#!/usr/bin/env bash
# DeepEyes on ms-swift: every way to run it. `bash deepeyes.sh help` lists the commands and the layouts.
#
# No GPU, no download, some minutes: the whole loop on a tiny model.
#
#   bash deepeyes.sh demo
#
# One node of 8 x 80 GB, three terminals, started in this order; training starts when the rollout server answers.
#
#   bash deploy_judge.sh          # Qwen2.5-VL-72B-Instruct judges answers on GPUs 4-7
#   bash deepeyes.sh rollout      # vLLM plays the trajectories on GPU 3
#   bash deepeyes.sh train        # GRPO on GPUs 0-2
#
# `rollout` and `train` take these settings from the environment, and hand every further argument to swift, where it
# wins over ours. `--dry-run` prints the command instead of running it. Give both the same settings.
#
#   MODEL                  Qwen/Qwen2.5-VL-7B-Instruct   the policy: a hub id or a folder
#   LAYOUT                 node8       which GPU does what, by which flags of swift: a name in layouts/, or your file's path
#   ROLLOUT_GPUS           of LAYOUT   GPUs of the rollout server, as 6,7; none means the CPU
#   TRAIN_GPUS             of LAYOUT   GPUs of the trainer; several nodes: NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT
#   DEVICES_VARIABLE       CUDA_VISIBLE_DEVICES          the layout for Ascend has ASCEND_RT_VISIBLE_DEVICES here
#   TUNER                  of LAYOUT   full or lora
#   LORA_RANK              64          of an adapter; the rollout server is told, too
#   TRAINER                of LAYOUT   deepspeed: swift rlhf; megatron: megatron rlhf of ms-swift 4.6, which needs
#                                      megatron-core, mcore-bridge and transformer-engine
#   TENSOR_PARALLEL        TRAIN_GPUS  GPUs that share one copy of the model, for TRAINER=megatron
#   USE_VLLM               of LAYOUT   true: a rollout server plays; false: the trainer itself does, slowly
#   ROLLOUT_TENSOR_PARALLEL  1         GPUs that share one copy of the policy in vLLM: for 32B and 72B
#   ROLLOUT_HOST           127.0.0.1   where the rollout server listens and the trainer finds it; for train also several,
#                                      as 10.0.0.8,10.0.0.9
#   ROLLOUT_PORT           8001        one for all, or as many as hosts
#   DATA_DIR               ./data      the folder of the three official files
#   DATASET                all three   deepeyes_vstar deepeyes_chart deepeyes_thinklite, files or hub ids; NAME#9 takes 9 rows
#   PROMPTS_PER_STEP       24          questions behind one update (the paper: 256); below 16 the signal is noise
#   NUM_GENERATIONS        16          trajectories a question (the paper: 16)
#   PER_DEVICE_BATCH       1           trajectories a GPU holds at a time
#   MAX_TURNS              5           model turns in a trajectory
#   MAX_PIXELS             602112      the most pixels that an image is shown with: 28 x 28 of them are a token
#   MAX_COMPLETION_LENGTH  2048        tokens a turn
#   MAX_MODEL_LEN          computed    tokens a trajectory: room for MAX_TURNS full turns and images
#   LEARNING_RATE          1e-6        1e-5 for lora
#   TRAIN_VISION           of TUNER    true trains the vision tower and its projector too; default for full
#   DEEPSPEED              of LAYOUT   zero3 for full, zero2 for lora; none turns it off
#   THINK                  false       true: a model with a thinking mode thinks, in rollout and training alike
#   REPORT_TO              tensorboard, swanlab or wandb, several with a space between
#   OUTPUT_DIR             ./output
#   ROLLOUT_WAIT           900         seconds that train waits for the rollout server to load
#   DOCTOR                 true        false: start without the preflight, `bash deepeyes.sh doctor`
#   SWIFT                  the swift of .venv, else the one on PATH
#
# A run that ended goes on with `bash deepeyes.sh train --resume_from_checkpoint output/v0-.../checkpoint-20`; Megatron
# wants `--mcore_model output/v0-.../checkpoint-20 --finetune false` instead.
#
# The plugin has settings of its own, DEEPEYES_*, in docs/settings.md; set them for both commands too.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly HERE
# shellcheck source=scripts/messages.sh
source "$HERE/scripts/messages.sh"
# shellcheck source=scripts/environment.sh
source "$HERE/scripts/environment.sh"
# shellcheck source=scripts/commands.sh
source "$HERE/scripts/commands.sh"
# shellcheck source=scripts/ports.sh
source "$HERE/scripts/ports.sh"
# shellcheck source=scripts/layouts.sh
source "$HERE/scripts/layouts.sh"
# shellcheck source=scripts/batch.sh
source "$HERE/scripts/batch.sh"
# shellcheck source=scripts/refusals.sh
source "$HERE/scripts/refusals.sh"
# shellcheck source=scripts/datasets.sh
source "$HERE/scripts/datasets.sh"
# shellcheck source=scripts/checks.sh
source "$HERE/scripts/checks.sh"
# shellcheck source=scripts/programs.sh
source "$HERE/scripts/programs.sh"

# A command a line: what runs it, and what for. A function of the scripts; or a module, which `python -m` runs.
readonly COMMANDS='
train     start_training        (default) GRPO with swift rlhf
rollout   start_rollout         the server that plays the trajectories, with swift rollout
rehearse  deepeyes.rehearsal    the commands of a layout on the worst rows, before the bill
demo      deepeyes.demo         a tiny model learns to zoom by GRPO, on this machine, on the CPU: seven and a half minutes; --quick: four
doctor    deepeyes.doctor       find what would stop a run, and say how to mend it
data      deepeyes.data         download the official files and check every row; or check your own
select    deepeyes.selection    choose the rows that are worth training on
serve     deepeyes.serving      let people use a trained model
ask       deepeyes.serving.ask  ask a trained model one question
eval      deepeyes.evaluation   V*Bench, HR-Bench or own rows, with the zoom that trained the model
report    deepeyes.report       one HTML page of a run: curves and trajectories
setup     setup                 [gpu|cpu] make .venv from the locked requirements; gpu where nvidia-smi answers, else cpu
test      run_tests             set up if need be, then lint, type-check and test; arguments go to pytest
lock      lock                  pin every extra of pyproject.toml anew in requirements/; arguments go to uv
help      show_help             [COMMAND] this text, or what a command takes
'

# The settings of both sides, with their defaults, checked; and what both sides must agree on.
read_settings() {
  load_layout
  model="${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}"
  rollout_host="${ROLLOUT_HOST:-127.0.0.1}" rollout_port="${ROLLOUT_PORT:-8001}" rollout_wait="${ROLLOUT_WAIT:-900}"
  max_turns="${MAX_TURNS:-5}" max_pixels="${MAX_PIXELS:-602112}"
  max_completion_length="${MAX_COMPLETION_LENGTH:-2048}"
  doctor="${DOCTOR:-true}" think="${THINK:-false}"
  require_model MODEL "$model"
  change_layout
  list_servers "$rollout_host" "$rollout_port"
  require_whole ROLLOUT_WAIT "$rollout_wait"
  require_one_of DOCTOR "$doctor" true false
  require_one_of THINK "$think" true false
  require_whole MAX_TURNS "$max_turns"
  require_whole MAX_PIXELS "$max_pixels"
  require_whole MAX_COMPLETION_LENGTH "$max_completion_length"
  [[ -f "$HERE/deepeyes_plugin.py" ]] || die "$HERE/deepeyes_plugin.py is missing; is this a whole checkout?"

  # A question of 1536 tokens; then turns, each with an image of at most max_pixels; rounded up to a whole 1024.
  local turn=$((max_completion_length + max_pixels / 784 + 64))
  max_model_len="${MAX_MODEL_LEN:-$(((1536 + max_turns * turn + 1023) / 1024 * 1024))}"
  require_whole MAX_MODEL_LEN "$max_model_len"

  swift="$(find_swift)"
  check_plugin_settings "$swift"
  common=(
    --model "$model"
    --external_plugins "$HERE/deepeyes_plugin.py"
    --multi_turn_scheduler deepeyes_scheduler
    --max_turns "$max_turns"
  )
  if [[ "$think" == true ]]; then common+=(--enable_thinking true); fi
}

start_rollout() {
  read_words "deepeyes.sh rollout" "$@"
  if [[ "$help" == true ]]; then head_of "$HERE/deepeyes.sh" && return; fi
  read_settings
  ((${#rollout_command[@]})) || die "LAYOUT=$layout has no rollout server: the trainer itself plays"
  ((${#hosts[@]} == 1)) || die "ROLLOUT_HOST=$rollout_host names several; a server listens at one, as at 0.0.0.0"
  local recipe=(
    "${common[@]}"
    --host "$rollout_host" --port "$rollout_port"
    --vllm_use_async_engine true
    --vllm_max_model_len "$max_model_len"
  )
  local -a program=("$swift")
  if [[ "$ROLLOUT_GPUS" == none ]]; then
    program=("$(python_of_swift)" "$HERE/scripts/rollout_cpu.py") # swift itself refuses a machine without a GPU
  else
    split_policy ROLLOUT_GPUS "$(count "$ROLLOUT_GPUS")"
    recipe+=(--vllm_tensor_parallel_size "${ROLLOUT_TENSOR_PARALLEL:-1}" --vllm_data_parallel_size "$copies")
  fi
  if [[ "$dry_run" == false ]]; then
    require_free_port ROLLOUT_PORT "$rollout_port" "$rollout_host"
    preflight rollout -- "${arguments[@]}"
  fi
  run_command "$dry_run" env "${DEVICES_VARIABLE:-CUDA_VISIBLE_DEVICES}=${ROLLOUT_GPUS/none/}" MAX_PIXELS="$max_pixels" \
    "${program[@]}" rollout "${recipe[@]}" "${rollout_command[@]:2}" "${arguments[@]}"
}

start_training() {
  read_words "deepeyes.sh train" "$@"
  if [[ "$help" == true ]]; then head_of "$HERE/deepeyes.sh" && return; fi
  read_settings
  local -a program=("$swift")
  local gpus
  if [[ "$trainer" == megatron ]]; then
    program=("$(dirname "$swift")/megatron")
    [[ "$TRAIN_GPUS" == none || -x "${program[0]}" ]] ||
      die "${program[0]} is missing; TRAINER=megatron needs ms-swift 4.6 or newer"
  fi
  local -a names dataset=() reports
  read -ra names <<<"${DATASET:-deepeyes_vstar deepeyes_chart deepeyes_thinklite}"
  for name in "${names[@]}"; do dataset+=("$(dataset_file "$name")"); done
  if [[ "$dry_run" == false && " $* " != *' --dataset '* ]]; then require_files "${dataset[@]}"; fi
  if [[ "$dry_run" == false ]]; then require_rank; fi
  read -ra reports <<<"${REPORT_TO:-tensorboard}"
  gpus="$(count "$TRAIN_GPUS")"
  size_update "$gpus" "$trainer"

  local recipe=(
    --rlhf_type grpo
    "${common[@]}"
    --custom_dataset_info "$HERE/dataset_info.json"
    --columns '{"prompt": "messages"}' # for files of the official schema under any name
    --dataset "${dataset[@]}"
    --load_from_cache_file true
    --dataset_num_proc 4
    --dataloader_num_workers 4
    --reward_funcs deepeyes_reward deepeyes_accuracy deepeyes_format deepeyes_tool
    --reward_weights 1 0 0 0 # the first trains, the others are curves
    --loss_scale default     # every assistant turn learns; swift's own default is the last alone
    --num_generations "$generations"
    --max_completion_length "$max_completion_length"
    --temperature 1.0
    --beta 0
    --num_train_epochs 1
    --save_steps 20
    --save_total_limit 2
    --logging_steps 1
    --log_completions true
    --report_to "${reports[@]}"
    --output_dir "${OUTPUT_DIR:-$HERE/output}"
  )
  local rate=1e-6
  if [[ "$tuner" == lora ]]; then rate=1e-5; fi
  rate="${LEARNING_RATE:-$rate}"
  if [[ "$trainer" == megatron ]]; then
    recipe+=(
      --micro_batch_size "$batch" --global_batch_size "$trajectories"
      --lr "$rate" --lr_decay_style constant
      --tensor_model_parallel_size "$tensor_parallel"
      --max_length "$max_model_len"
    )
    if ((tensor_parallel > 1)); then recipe+=(--sequence_parallel true); fi
  else
    recipe+=(
      --per_device_train_batch_size "$batch" --gradient_accumulation_steps "$accumulation"
      --learning_rate "$rate" --lr_scheduler_type constant
    )
  fi
  size_evaluation arguments "$trainer"
  recipe+=("${evaluation[@]}")
  local -a environment=("${DEVICES_VARIABLE:-CUDA_VISIBLE_DEVICES}=${TRAIN_GPUS/none/}" MAX_PIXELS="$max_pixels")
  if ((gpus)); then environment+=(NPROC_PER_NODE="$gpus"); fi # without it, swift runs one process and no torchrun
  for name in NNODES NODE_RANK MASTER_ADDR MASTER_PORT; do    # swift hands them to torchrun
    if [[ -n "${!name:-}" ]]; then environment+=("$name=${!name}"); fi
  done
  if [[ "$(flag_of train_command vllm_mode)" == server ]]; then
    recipe+=(
      --vllm_server_host "${hosts[@]}" --vllm_server_port "${ports[@]}" --vllm_server_timeout 600
      --vllm_server_pass_dataset true # the scheduler reads a row's source and image
    )
  elif [[ "$(flag_of train_command vllm_mode)" == colocate ]]; then
    split_policy TRAIN_GPUS "$gpus"
    recipe+=(--vllm_tensor_parallel_size "${ROLLOUT_TENSOR_PARALLEL:-1}" --vllm_max_model_len "$max_model_len")
  fi
  local -a whole=("${recipe[@]}" "${train_command[@]:2}" "${arguments[@]}")
  refuse_flags whole "$(flag_of train_command lora_rank)"
  if [[ "$dry_run" == false && "$(flag_of train_command vllm_mode)" == server ]]; then
    preflight train --part before -- "${arguments[@]}"
    await_servers "$rollout_wait" hosts ports
    preflight train --part after -- "${arguments[@]}"
  elif [[ "$dry_run" == false ]]; then
    preflight train -- "${arguments[@]}"
  fi
  run_command "$dry_run" env "${environment[@]}" "${program[@]}" rlhf "${whole[@]}"
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then dispatch "$@"; fi
