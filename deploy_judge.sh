#!/usr/bin/env bash
# The judge: a large language model that says whether two answers mean the same, behind swift deploy and vLLM.
#
#   bash deploy_judge.sh          # Qwen2.5-VL-72B-Instruct on GPUs 4-7 of this node
#
# It waits until every replica answers, prints the line that tells training where the judge is, and stays in front:
# Ctrl-C stops all of it. A weak judge teaches the policy to please it: below 32B parameters, tool use collapses.
#
# Settings, from the environment; further arguments go to swift deploy. `--dry-run` prints the commands, one line each.
#
#   JUDGE_MODEL            Qwen/Qwen2.5-VL-72B-Instruct   a hub id or a folder
#   JUDGE_GPUS             4,5,6,7     all its GPUs; none means the CPU
#   JUDGE_REPLICAS         1           copies of the model, which share JUDGE_GPUS and the load
#   JUDGE_HOST             127.0.0.1   any other address requires an API key
#   JUDGE_PORT             18901       of the first replica; the others take the ports after it
#   DEEPEYES_JUDGE_API_KEY EMPTY       the key that callers show; training reads the same variable
#   JUDGE_MAX_MODEL_LEN    8192        tokens of a question with its verdict
#   JUDGE_LOG_DIR          ./output/judge
#   JUDGE_START_TIMEOUT    3600        seconds until it must answer, a download included
#   DOCTOR                 true        false: start without the preflight, `bash deepeyes.sh doctor --for judge`
#   SWIFT                  the swift of .venv, else the one on PATH
#
# Other judges, and the 80 GB GPUs that they need:
#
#   JUDGE_MODEL=Qwen/Qwen2.5-VL-72B-Instruct-AWQ JUDGE_GPUS=6,7 JUDGE_REPLICAS=2     one GPU a replica
#   JUDGE_MODEL=Qwen/Qwen2.5-72B-Instruct-AWQ JUDGE_GPUS=7                           text only; one
#   JUDGE_MODEL=Qwen/Qwen2.5-72B-Instruct                                            text only; four, as above
#   USE_HF=1 JUDGE_MODEL=RedHatAI/Qwen2.5-VL-72B-Instruct-FP8-dynamic JUDGE_GPUS=6,7 two, of Hopper or newer
#   JUDGE_GPUS=0,1,2,3,4,5,6,7 JUDGE_REPLICAS=2 JUDGE_HOST=0.0.0.0                   a node of its own, with a key
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
# shellcheck source=scripts/programs.sh
source "$HERE/scripts/programs.sh"

read_judge_settings() {
  model="${JUDGE_MODEL:-Qwen/Qwen2.5-VL-72B-Instruct}"
  gpus="${JUDGE_GPUS:-4,5,6,7}"
  replicas="${JUDGE_REPLICAS:-1}"
  host="${JUDGE_HOST:-127.0.0.1}"
  port="${JUDGE_PORT:-18901}"
  key="${DEEPEYES_JUDGE_API_KEY:-EMPTY}"
  max_model_len="${JUDGE_MAX_MODEL_LEN:-8192}"
  log_dir="${JUDGE_LOG_DIR:-$HERE/output/judge}"
  start_timeout="${JUDGE_START_TIMEOUT:-3600}"

  require_model JUDGE_MODEL "$model"
  require_gpus JUDGE_GPUS "$gpus"
  require_whole JUDGE_REPLICAS "$replicas"
  require_whole JUDGE_PORT "$port"
  require_whole JUDGE_MAX_MODEL_LEN "$max_model_len"
  require_whole JUDGE_START_TIMEOUT "$start_timeout"
  if [[ "$host" != 127.0.0.1 && "$host" != localhost && "$key" == EMPTY ]]; then
    die "JUDGE_HOST=$host lets other machines in; set DEEPEYES_JUDGE_API_KEY here and for training"
  fi
  IFS=, read -ra gpu_list <<<"${gpus/none/}"
  if ((${#gpu_list[@]} % replicas)); then
    die "JUDGE_REPLICAS=$replicas do not share the ${#gpu_list[@]} GPUs of JUDGE_GPUS=$gpus evenly"
  fi
  gpus_each=$((${#gpu_list[@]} / replicas))
  swift="$(find_swift)"
}

# The command of one replica, in the array `command`.
replica_command() { # INDEX ARGUMENTS...
  local index="$1" mine
  shift
  mine="$(
    IFS=,
    printf '%s' "${gpu_list[*]:index*gpus_each:gpus_each}"
  )"
  command=(
    env CUDA_VISIBLE_DEVICES="$mine" "$swift" deploy
    --model "$model"
    --infer_backend vllm
    --host "$host" --port "$((port + index))" --api_key "$key"
    --vllm_max_model_len "$max_model_len"
    --vllm_enable_prefix_caching true                     # every question begins with the same instructions
    --vllm_limit_mm_per_prompt '{"image": 0, "video": 0}' # it reads text alone: no memory goes to images
    --verbose false --log_level warning --log_interval -1
  )
  if ((gpus_each)); then
    command+=(--torch_dtype bfloat16 --vllm_tensor_parallel_size "$gpus_each" --vllm_gpu_memory_utilization 0.9)
  else
    command+=(--torch_dtype float32 --vllm_enforce_eager true)
  fi
  command+=("$@")
}

# Ask a replica for its models: the status line of its answer, or nothing.
http_status() { # PORT
  {
    exec 3<>"/dev/tcp/${host/0.0.0.0/127.0.0.1}/$1" || return 0
    printf 'GET /v1/models HTTP/1.0\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n' "$host" "$key" >&3
    local status=''
    read -r -t 5 status <&3 || true
    exec 3>&-
    printf '%s\n' "$status"
  } 2>/dev/null
}

stop_replicas() {
  trap - EXIT HUP INT TERM
  local pid second
  if ((${#pids[@]} == 0)); then return; fi
  say "stopping the judge"
  for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
  for ((second = 0; second < 30; second++)); do
    if ! kill -0 -- "${pids[@]/#/-}" 2>/dev/null; then return; fi
    sleep 1
  done
  for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
}

# Until each answers: a line now and then, and the end of its log when one dies.
await_replicas() {
  local index other log started=$SECONDS told=$SECONDS
  for ((index = 0; index < replicas; index++)); do
    log="$log_dir/$((port + index)).log"
    until [[ "$(http_status $((port + index)))" == HTTP/*' 200 '* ]]; do
      for ((other = 0; other < replicas; other++)); do
        if ! kill -0 "${pids[other]}" 2>/dev/null; then
          log="$log_dir/$((port + other)).log"
          tail -n 20 "$log" >&2
          die "the judge on port $((port + other)) ended before it answered; the end of $log is above"
        fi
      done
      if ((SECONDS - started > start_timeout)); then
        die "the judge on port $((port + index)) did not answer in JUDGE_START_TIMEOUT=$start_timeout seconds; see $log"
      fi
      if ((SECONDS - told >= 15)); then
        told=$SECONDS
        say "$((SECONDS - started)) s: the judge on port $((port + index)) is loading; its log is $log"
      fi
      sleep 1
    done
    say "the judge on port $((port + index)) answers"
  done
}

start_judge() {
  local word index dry_run help
  local -a arguments command=()
  pids=()
  read_words deploy_judge.sh "$@"
  if [[ "$help" == true ]]; then head_of "$HERE/deploy_judge.sh" && return; fi
  for word in "${arguments[@]}"; do
    if [[ "$word" == --@(host|port|api_key)?(=*) ]]; then
      die "$word is set by JUDGE_HOST, JUDGE_PORT or DEEPEYES_JUDGE_API_KEY"
    fi
  done
  read_judge_settings

  if [[ "$dry_run" == true ]]; then
    local line shown="$key"
    if [[ "$key" != EMPTY ]]; then key=KEY shown="\"\$DEEPEYES_JUDGE_API_KEY\""; fi
    for ((index = 0; index < replicas; index++)); do
      replica_command "$index" "${arguments[@]}"
      line="$(run_command true "${command[@]}")"
      printf '%s\n' "${line/"--api_key $key"/"--api_key $shown"}"
    done
    return
  fi

  for ((index = 0; index < replicas; index++)); do require_free_port JUDGE_PORT "$((port + index))" "$host"; done
  preflight judge -- "${arguments[@]}"
  umask 077 # swift logs its arguments, the key among them
  mkdir -p "$log_dir"
  trap stop_replicas EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  set -m # each replica leads a process group, so that all of it can be stopped
  for ((index = 0; index < replicas; index++)); do
    replica_command "$index" "${arguments[@]}"
    "${command[@]}" >"$log_dir/$((port + index)).log" 2>&1 </dev/null &
    pids+=("$!")
  done
  set +m
  say "starting $replicas x $model; logs are in $log_dir"

  await_replicas
  local urls=''
  for ((index = 0; index < replicas; index++)); do urls+=",http://${host/0.0.0.0/$HOSTNAME}:$((port + index))/v1"; done
  say "ready; training finds it by the next line, and by the same DEEPEYES_JUDGE_API_KEY if one is set; Ctrl-C stops it"
  printf 'export DEEPEYES_JUDGE_URLS=%s\n' "${urls#,}"

  local left
  for ((left = replicas - 1; left >= 0; left--)); do
    wait -n || true
    say "a replica ended, $left left; logs are in $log_dir"
  done
  die "no judge is left"
}

start_judge "$@"
