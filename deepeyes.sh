#!/usr/bin/env bash
# DeepEyes on ms-swift: every way to run it. `bash deepeyes.sh help` lists the commands.
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
#   LAYOUT                 node8       which GPU does what, see LAYOUTS below
#   ROLLOUT_GPUS           of LAYOUT   GPUs of the rollout server, as 6,7; none means the CPU
#   TRAIN_GPUS             of LAYOUT   GPUs of the trainer; on several nodes also NNODES, NODE_RANK, MASTER_ADDR
#   TUNER                  of LAYOUT   full or lora
#   TRAINER                of LAYOUT   deepspeed: swift rlhf; megatron: megatron rlhf of ms-swift 4.6, which needs
#                                      megatron-core, mcore-bridge and transformer-engine
#   TENSOR_PARALLEL        TRAIN_GPUS  GPUs that share one copy of the model, for TRAINER=megatron
#   USE_VLLM               of LAYOUT   true: a rollout server plays; false: the trainer itself does, slowly
#   ROLLOUT_HOST           127.0.0.1   where the rollout server listens and the trainer finds it
#   ROLLOUT_PORT           8001
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
#   DEEPSPEED              of TUNER    zero3 for full, zero2 for lora; none turns it off
#   REPORT_TO              tensorboard, swanlab or wandb, several with a space between
#   OUTPUT_DIR             ./output
#   ROLLOUT_WAIT           900         seconds that train waits for the rollout server to load
#   DOCTOR                 true        false: train without the preflight, `bash deepeyes.sh doctor`
#   SWIFT                  the swift of .venv, else the one on PATH
#
# A run that ended goes on with `bash deepeyes.sh train --resume_from_checkpoint output/v0-.../checkpoint-20`; Megatron
# wants `--mcore_model output/v0-.../checkpoint-20 --finetune false` instead.
#
# The plugin has settings of its own, DEEPEYES_*, in the head of deepeyes_plugin.py; set them for both commands too.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly HERE
readonly VENV="$HERE/.venv"

# name | GPUs that play | GPUs that train | tuner | trainer | vLLM | for
readonly LAYOUTS='
node8   3        0,1,2            full  deepspeed  true   one node of 8; deploy_judge.sh has GPUs 4-7
train8  6,7      0,1,2,3,4,5      full  deepspeed  true   one node of 8; the judge is elsewhere (DEEPEYES_JUDGE_URLS)
lora4   3        0,1,2            lora  deepspeed  true   one node of 4; the judge is elsewhere
nodes   0,1      0,1,2,3,4,5,6,7  full  deepspeed  true   NNODES whole nodes train; judge and rollout on another
mega8   4,5,6,7  0,1,2,3          full  megatron   true   one node of 8, for Megatron; the judge is elsewhere
cpu     none     none             full  deepspeed  false  no GPU; for tests and tiny models
'

say() { printf '%s\n' "deepeyes: $*" >&2; }
die() {
  say "$@"
  exit 1
}

usage() {
  cat <<TEXT
usage: bash deepeyes.sh [COMMAND] [ARGUMENTS]

  train    (default) GRPO with swift rlhf; --dry-run prints the command, other arguments go to swift
  rollout  the server that plays the trajectories, with swift rollout; likewise
  data     download the official files and check every row; or check your own
  doctor   find what would stop a run, and say how to mend it
  report   one HTML page of a run: curves and trajectories
  eval     V*Bench, HR-Bench or own rows, with the zoom that trained the model
  demo     a tiny model learns to zoom by GRPO, on this machine, on the CPU: nine minutes; --quick: half of it
  setup    [gpu|cpu] make .venv from the locked requirements; gpu where nvidia-smi answers, else cpu
  test     set up if need be, then lint, type-check and test; arguments go to pytest
  lock     pin every extra of pyproject.toml anew in requirements/
  help     this text; the settings are in the head of this script

layouts (LAYOUT=name): GPUs that play, GPUs that train, tuner, trainer, vLLM
$LAYOUTS
The judge has a script of its own: bash deploy_judge.sh
TEXT
}

# ---------------------------------------------------------------------------------------------------------------------
# Small things that deploy_judge.sh shares

# The swift to run: a private environment goes before whatever is on PATH.
find_swift() {
  if [[ -n "${SWIFT:-}" ]]; then
    command -v "$SWIFT" || die "SWIFT=$SWIFT is no command"
  elif [[ -x "$VENV/bin/swift" ]]; then
    printf '%s\n' "$VENV/bin/swift"
  else
    command -v swift || die "swift is not installed; run: bash deepeyes.sh setup"
  fi
}

# The Python that runs swift: a command that pip installs has it beside itself.
python_of_swift() {
  local swift python
  swift="$(find_swift)"
  python="$(dirname "$swift")/python"
  [[ -x "$python" ]] || die "$swift has no python beside it; name a swift that has one: SWIFT=/path/to/bin/swift"
  printf '%s\n' "$python"
}

require_whole() { # NAME VALUE...: every value is a whole number above 0
  local name="$1" value
  shift
  for value in "$@"; do
    [[ "$value" =~ ^[1-9][0-9]*$ ]] || die "$name=$value must be a whole number above 0"
  done
}

require_one_of() { # NAME VALUE ALLOWED...
  local name="$1" value="$2" allowed
  shift 2
  for allowed in "$@"; do
    if [[ "$value" == "$allowed" ]]; then return; fi
  done
  die "$name=$value must be one of: $*"
}

require_gpus() { # NAME VALUE: a list as 0,1,2 or the word none
  [[ "$2" == none || "$2" =~ ^[0-9]+(,[0-9]+)*$ ]] || die "$1=$2 must list GPUs as 0,1,2 or be none"
}

# A folder must be there; anything else is a hub id, which swift resolves.
require_model() { # NAME VALUE
  if [[ "$2" == [./~]* && ! -d "$2" ]]; then die "$1=$2 is no folder"; fi
}

count() { # how many GPUs a list names
  local -a list
  IFS=, read -ra list <<<"${1/none/}"
  printf '%s\n' "${#list[@]}"
}

answers() { # HOST PORT: something accepts connections there
  (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null
}

# Swift takes the next free port in silence when it can't bind its own, and then nobody finds it. Connections to a server
# that was just stopped hold its port for a minute.
require_free_port() { # NAME PORT HOST
  local python second
  require_whole "$1" "$2"
  (("$2" < 65536)) || die "$1=$2 must be below 65536"
  python="$(python_of_swift)"
  for ((second = 0; second < 65; second++)); do
    if answers "${3/0.0.0.0/127.0.0.1}" "$2"; then break; fi
    if "$python" -c "import socket; socket.socket().bind(('', $2))" 2>/dev/null; then return; fi
    if ((second == 0)); then say "port $2 is not free yet; waiting up to a minute for it"; fi
    sleep 1
  done
  die "$1=$2 is taken: something holds that port; stop it, or set $1"
}

# Until something accepts connections there, with a line now and then.
await_port() { # HOST PORT SECONDS WHAT COMMAND
  local started=$SECONDS told=-15
  until answers "$1" "$2"; do
    if ((SECONDS - started > $3)); then die "$4 did not answer at $1:$2 within $3 seconds; start it with: $5"; fi
    if ((SECONDS - told >= 15)); then
      told=$SECONDS
      say "waiting for $4 at $1:$2; it is started with: $5"
    fi
    sleep 1
  done
}

# Print a command as one line for the shell, or become it.
run_command() { # DRY_RUN COMMAND...
  if [[ "$1" == true ]]; then
    shift
    local word line=''
    for word in "$@"; do
      if [[ ! "$word" =~ ^[][A-Za-z0-9_./:,=@%+#-]+$ ]]; then word="${word@Q}"; fi
      line+=" $word"
    done
    printf '%s\n' "${line# }"
  else
    shift
    exec "$@"
  fi
}

# ---------------------------------------------------------------------------------------------------------------------
# Training

# The settings, with their defaults, checked.
read_settings() {
  local name row names='' play='' train tune trains vllm _
  layout="${LAYOUT:-node8}"
  while read -r name row; do
    names+="${name:+ $name}"
    if [[ "$name" == "$layout" ]]; then read -r play train tune trains vllm _ <<<"$row"; fi
  done <<<"$LAYOUTS"
  [[ -n "$play" ]] || die "LAYOUT=$layout is unknown; choose one of:$names"

  model="${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}"
  rollout_gpus="${ROLLOUT_GPUS:-$play}"
  train_gpus="${TRAIN_GPUS:-$train}"
  tuner="${TUNER:-$tune}"
  trainer="${TRAINER:-$trains}"
  use_vllm="${USE_VLLM:-$vllm}"
  rollout_host="${ROLLOUT_HOST:-127.0.0.1}"
  rollout_port="${ROLLOUT_PORT:-8001}"
  rollout_wait="${ROLLOUT_WAIT:-900}"
  doctor="${DOCTOR:-true}"
  max_turns="${MAX_TURNS:-5}"
  max_pixels="${MAX_PIXELS:-602112}"
  max_completion_length="${MAX_COMPLETION_LENGTH:-2048}"

  require_model MODEL "$model"
  require_gpus ROLLOUT_GPUS "$rollout_gpus"
  require_gpus TRAIN_GPUS "$train_gpus"
  require_one_of TUNER "$tuner" full lora
  require_one_of TRAINER "$trainer" deepspeed megatron
  require_one_of USE_VLLM "$use_vllm" true false
  require_whole ROLLOUT_PORT "$rollout_port"
  require_whole ROLLOUT_WAIT "$rollout_wait"
  require_one_of DOCTOR "$doctor" true false
  require_whole MAX_TURNS "$max_turns"
  require_whole MAX_PIXELS "$max_pixels"
  require_whole MAX_COMPLETION_LENGTH "$max_completion_length"
  [[ -f "$HERE/deepeyes_plugin.py" ]] || die "$HERE/deepeyes_plugin.py is missing; is this a whole checkout?"

  # A question of 1536 tokens; then turns, each with an image of at most max_pixels; rounded up to a whole 1024.
  local turn=$((max_completion_length + max_pixels / 784 + 64))
  max_model_len="${MAX_MODEL_LEN:-$(((1536 + max_turns * turn + 1023) / 1024 * 1024))}"
  require_whole MAX_MODEL_LEN "$max_model_len"

  # What both sides must agree on.
  swift="$(find_swift)"
  common=(
    --model "$model"
    --external_plugins "$HERE/deepeyes_plugin.py"
    --multi_turn_scheduler deepeyes_scheduler
    --max_turns "$max_turns"
  )
}

rollout() { # DRY_RUN ARGUMENTS...
  local dry_run="$1"
  shift
  read_settings
  local server=("$swift") arguments=(
    "${common[@]}"
    --host "$rollout_host" --port "$rollout_port"
    --vllm_use_async_engine true
    --vllm_max_model_len "$max_model_len"
  )
  if [[ "$rollout_gpus" == none ]]; then
    server=("$(python_of_swift)" "$HERE/tools/rollout_cpu.py") # swift itself refuses a machine without a GPU
    arguments+=(--torch_dtype float32 --vllm_enforce_eager true)
  else
    arguments+=(--torch_dtype bfloat16 --vllm_data_parallel_size "$(count "$rollout_gpus")")
    arguments+=(--vllm_gpu_memory_utilization 0.9)
  fi
  if [[ "$dry_run" == false ]]; then require_free_port ROLLOUT_PORT "$rollout_port" "$rollout_host"; fi
  run_command "$dry_run" env CUDA_VISIBLE_DEVICES="${rollout_gpus/none/}" MAX_PIXELS="$max_pixels" \
    "${server[@]}" rollout "${arguments[@]}" "$@"
}

preflight() { # WANTED ARGUMENTS...
  if [[ "$1" == true ]]; then
    "$(python_of_swift)" "$HERE/tools/doctor.py" --for train "${@:2}" ||
      die "not started; mend the errors above, or train without this check: DOCTOR=false bash deepeyes.sh train"
  fi
}

# One entry of DATASET as swift is to load it: an official name becomes its file in DATA_DIR, a `#rows` stays.
dataset_file() {
  local name="${1%%#*}" rows=''
  if [[ "$1" == *'#'* ]]; then rows="#${1#*#}"; fi
  local data_dir="${DATA_DIR:-$HERE/data}"
  case "$name" in
    deepeyes_vstar) name="$data_dir/data_0.1.2_visual_toolbox_v2.parquet" ;;
    deepeyes_chart) name="$data_dir/data_v0.8_visual_toolbox_v2.parquet" ;;
    deepeyes_thinklite) name="$data_dir/data_thinklite_reasoning_acc.parquet" ;;
  esac
  printf '%s\n' "$name$rows"
}

train() { # DRY_RUN ARGUMENTS...
  local dry_run="$1"
  shift
  read_settings

  # How much makes one update. Swift wants accumulation; a researcher thinks in prompts.
  local prompts="${PROMPTS_PER_STEP:-24}" generations="${NUM_GENERATIONS:-16}" batch="${PER_DEVICE_BATCH:-1}"
  local processes gpus nodes="${NNODES:-1}"
  gpus="$(count "$train_gpus")"
  require_whole PROMPTS_PER_STEP "$prompts"
  require_whole NUM_GENERATIONS "$generations"
  require_whole PER_DEVICE_BATCH "$batch"
  require_whole NNODES "$nodes"
  ((generations > 1)) || die "NUM_GENERATIONS=1 has no group to compare with; take 2 or more (the paper: 16)"
  processes=$((nodes * (gpus ? gpus : 1)))
  # Those that work on different trajectories: processes, or the copies of the model over which Megatron spreads them;
  # it wants whole groups on each.
  local copies="$processes" kind=processes group=1 tensor_parallel="${TENSOR_PARALLEL:-$gpus}"
  if [[ "$trainer" == megatron ]]; then
    ((gpus)) || die "TRAINER=megatron needs GPUs; TRAIN_GPUS=$train_gpus names none"
    require_whole TENSOR_PARALLEL "$tensor_parallel"
    ((processes % tensor_parallel == 0)) ||
      die "TENSOR_PARALLEL=$tensor_parallel does not divide the $processes GPUs that train"
    copies=$((processes / tensor_parallel)) kind=copies group="$generations"
  fi
  local trajectories=$((prompts * generations)) at_a_time=$((copies * batch))
  if ((trajectories / group % at_a_time)); then
    local fits="$prompts"
    while ((fits * generations / group % at_a_time)); do ((fits += 1)); done
    die "PROMPTS_PER_STEP=$prompts x NUM_GENERATIONS=$generations is $trajectories trajectories, which" \
      "$copies $kind x PER_DEVICE_BATCH=$batch do not share evenly; the next that fits is PROMPTS_PER_STEP=$fits"
  fi
  local accumulation=$((trajectories / at_a_time))

  local -a dataset=() names
  local name
  read -ra names <<<"${DATASET:-deepeyes_vstar deepeyes_chart deepeyes_thinklite}"
  for name in "${names[@]}"; do dataset+=("$(dataset_file "$name")"); done
  if [[ "$dry_run" == false && " $* " != *' --dataset '* ]]; then
    for name in "${dataset[@]%%#*}"; do
      if [[ "$name" == *.@(parquet|jsonl|json|csv) && ! -f "$name" ]]; then
        die "$name is missing; DATA_DIR names the folder of the official files, DATASET the files to train on"
      fi
    done
  fi

  local -a reports
  read -ra reports <<<"${REPORT_TO:-tensorboard}"
  local arguments=(
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

  local deepspeed=zero3 vision=true rate=1e-6
  arguments+=(--tuner_type "$tuner")
  if [[ "$tuner" == lora ]]; then
    deepspeed=zero2 vision=false rate=1e-5
    arguments+=(--lora_rank 64 --lora_alpha 128)
  fi
  deepspeed="${DEEPSPEED:-$deepspeed}" vision="${TRAIN_VISION:-$vision}" rate="${LEARNING_RATE:-$rate}"
  require_one_of TRAIN_VISION "$vision" true false
  if [[ "$vision" == true ]]; then arguments+=(--freeze_vit false --freeze_aligner false); fi

  # Without NPROC_PER_NODE, swift runs one process and no torchrun.
  local environment=(CUDA_VISIBLE_DEVICES="${train_gpus/none/}" MAX_PIXELS="$max_pixels")
  if ((gpus)); then
    environment+=(NPROC_PER_NODE="$gpus")
    arguments+=(--torch_dtype bfloat16)
  else
    arguments+=(--torch_dtype float32)
  fi
  local program="$swift"
  if [[ "$trainer" == megatron ]]; then
    program="$(dirname "$swift")/megatron"
    [[ -x "$program" ]] || die "$program is missing; TRAINER=megatron needs ms-swift 4.6 or newer"
    arguments+=(
      --micro_batch_size "$batch" --global_batch_size "$trajectories"
      --lr "$rate" --lr_decay_style constant
      --tensor_model_parallel_size "$tensor_parallel"
      --recompute_granularity full --recompute_method uniform --recompute_num_layers 1
      --max_length "$max_model_len"
    )
    if ((tensor_parallel > 1)); then arguments+=(--sequence_parallel true); fi
  else
    arguments+=(
      --per_device_train_batch_size "$batch" --gradient_accumulation_steps "$accumulation"
      --learning_rate "$rate" --lr_scheduler_type constant
    )
    if ((gpus)) && [[ "$deepspeed" != none ]]; then arguments+=(--deepspeed "$deepspeed"); fi
  fi
  if [[ "$use_vllm" == true ]]; then
    arguments+=(
      --use_vllm true --vllm_mode server
      --vllm_server_host "$rollout_host" --vllm_server_port "$rollout_port" --vllm_server_timeout 600
      --vllm_server_pass_dataset true # the scheduler reads a row's source and image
    )
  else
    arguments+=(--use_vllm false)
  fi

  say "one update: $prompts prompts x $generations generations = $copies $kind x $batch x $accumulation steps"
  if ((prompts < 16)); then say "warning: PROMPTS_PER_STEP=$prompts; below 16 an update is mostly noise"; fi
  if [[ "$dry_run" == false ]]; then
    if [[ "$use_vllm" == true ]]; then
      preflight "$doctor" --part before -- "$@"
      await_port "$rollout_host" "$rollout_port" "$rollout_wait" "the rollout server" "bash deepeyes.sh rollout"
      preflight "$doctor" --part after -- "$@"
    else
      preflight "$doctor" -- "$@"
    fi
  fi
  run_command "$dry_run" env "${environment[@]}" "$program" rlhf "${arguments[@]}" "$@"
}

# ---------------------------------------------------------------------------------------------------------------------
# The environment: .venv, made from a lock with hashes. Needs bash and a Python with pip; brings uv by itself.

# The first Python that the lock has wheels for. A shim that answers nothing is passed over.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.11 python3.13 python3.10 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  die "no Python 3.10 to 3.13 found; install one, or name it: PYTHON=/path/to/python3.12 bash deepeyes.sh setup"
}

# uv: the one on PATH, else a private copy in .uv/, which pip brings from the index that pip is set up for.
find_uv() {
  local python="$1"
  if command -v uv; then return; fi
  if [[ ! -x "$HERE/.uv/bin/uv" ]]; then
    "$python" -m pip --version >/dev/null 2>&1 ||
      die "$python has no pip, which fetches uv; install it (Debian: apt-get install python3-pip) or put uv on PATH"
    say "fetching uv into .uv/"
    export PIP_USER=0 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 # pip fights --target over the first
    "$python" -m pip install --quiet --target "$HERE/.uv" 'uv>=0.8' >&2 ||
      die "pip could not fetch uv; its message is above"
  fi
  printf '%s\n' "$HERE/.uv/bin/uv"
}

# uv reads neither pip's configuration nor the system's certificates: hand over the mirror and the trust that pip has.
follow_pip() {
  local python="$1" config bundle
  pip_option() { sed -n "s/^\\(global\\|install\\)\\.$1='\\(.*\\)'\$/\\2/p" <<<"$config" | tail -n 1; }
  config="$("$python" -m pip config list 2>/dev/null || true)"

  if [[ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]]; then
    UV_DEFAULT_INDEX="${PIP_INDEX_URL:-$(pip_option index-url)}"
    if [[ -n "$UV_DEFAULT_INDEX" ]]; then export UV_DEFAULT_INDEX; else unset UV_DEFAULT_INDEX; fi
  fi
  for bundle in "${PIP_CERT:-$(pip_option cert)}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
    if [[ -z "${SSL_CERT_FILE:-}" && -f "$bundle" ]]; then export SSL_CERT_FILE="$bundle"; fi
  done
}

# The copy of the lock inside .venv says what is installed.
is_current() { # EXTRA
  local lock="$HERE/requirements/$1.txt"
  [[ -f "$lock" && -f "$VENV/deepeyes.lock" && "$(<"$lock")" == "$(<"$VENV/deepeyes.lock")" ]]
}

# setup [gpu|cpu]: make .venv what the lock says, or do nothing where it is.
setup() {
  local extra="${1:-}"
  if [[ -z "$extra" ]]; then
    extra=cpu
    if nvidia-smi --list-gpus >/dev/null 2>&1; then extra=gpu; fi
  fi
  local lock="$HERE/requirements/$extra.txt"
  [[ -f "$lock" ]] || die "unknown environment '$extra'; choose gpu or cpu"
  if is_current "$extra"; then
    say "environment is up to date ($extra)"
    return
  fi

  local python uv
  python="$(find_python)"
  uv="$(find_uv "$python")"
  follow_pip "$python"
  say "making .venv for $extra with $("$python" --version), from requirements/$extra.txt"
  rm -f "$VENV/deepeyes.lock"
  if ! "$VENV/bin/python" --version >/dev/null 2>&1; then # none yet, or the Python that it came from is gone
    rm -rf "$VENV"
    "$uv" venv --quiet --python "$python" "$VENV" || die "could not make $VENV"
  fi
  "$uv" pip sync --python "$VENV/bin/python" --require-hashes "$lock" ||
    die "the packages of requirements/$extra.txt were not all installed; mend the cause above and run it again"
  cp "$lock" "$VENV/deepeyes.lock"
  say "environment is ready: $VENV"
}

# Set up unless an environment of either kind is there and current: the choice of an earlier setup stays.
ensure_setup() {
  if ! is_current gpu && ! is_current cpu; then setup; fi
}

# lock: every version and hash, for all Pythons and machines at once, and no address: the user's index serves it.
lock() {
  local python uv extra
  python="$(find_python)"
  uv="$(find_uv "$python")"
  follow_pip "$python"
  cd "$HERE"
  for extra in gpu cpu; do
    say "locking $extra"
    UV_PYTHON_DOWNLOADS=never "$uv" pip compile --quiet --universal --python-version 3.10 --generate-hashes \
      --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'bash deepeyes.sh lock' \
      --extra "$extra" --group dev --output-file "requirements/$extra.txt" "$@" pyproject.toml
    if grep -n '://' "requirements/$extra.txt" >&2; then die "requirements/$extra.txt names an address, see above"; fi
  done
}

# ---------------------------------------------------------------------------------------------------------------------
# Development

run_tests() {
  ensure_setup
  cd "$HERE"
  export PATH="$VENV/bin:$PATH"
  local scripts=(deepeyes.sh deploy_judge.sh .ci/run)
  say "ruff"
  ruff check
  ruff format --check
  say "shellcheck and shfmt"
  shellcheck "${scripts[@]}"
  shfmt --diff --indent 2 --case-indent "${scripts[@]}"
  say "mypy"
  mypy
  say "a browser for the report page"
  "$VENV/bin/python" tools/browser.py >&2 || say "no Chromium: the tests of the report page in a browser are skipped"
  say "pytest"
  # Two files at a time: much of it waits for servers to start.
  CUDA_VISIBLE_DEVICES='' pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
}

# The other tools, run by the Python that runs swift. The demo, which is made for one environment, brings it up to date.
run_tool() { # NAME ARGUMENTS...
  local name="$1" python
  shift
  if [[ -z "${SWIFT:-}" ]] && { [[ "$name" == demo ]] || ! (find_swift >/dev/null 2>&1); }; then ensure_setup; fi
  python="$(python_of_swift)"
  exec "$python" "$HERE/tools/$name.py" "$@"
}

main() {
  local command=train word dry_run=false
  local -a arguments=()
  if [[ "${1:-}" =~ ^[a-z]+$ ]]; then
    command="$1"
    shift
  elif [[ "${1:-}" == --help || "${1:-}" == -h ]]; then
    command=help
  fi
  for word in "$@"; do
    case "$word" in
      --dry-run) dry_run=true ;;
      *) arguments+=("$word") ;;
    esac
  done
  case "$command" in
    train | rollout) "$command" "$dry_run" "${arguments[@]}" ;;
    setup | lock) "$command" "$@" ;;
    test) run_tests "$@" ;;
    demo | doctor | data | report | eval) run_tool "$command" "$@" ;;
    help) usage ;;
    *)
      usage >&2
      die "unknown command '$command'"
      ;;
  esac
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then main "$@"; fi
