# Command lines: reading ours, editing those of swift, printing or running them.
# shellcheck shell=bash disable=SC2034 # what is set here is read by those that source this

readonly OUR_FLAGS=(--dry-run --help)

# The flag of ours that a word was meant to be, or nothing where it may be one of swift's.
slip_of() { # WORD
  local flag word
  word="$(plain "$1")"
  if [[ "$1" == -[a-zA-Z]* ]]; then # swift has none with a single dash
    nearest "$word" "${OUR_FLAGS[@]}"
    return
  fi
  if [[ "$1" != --* ]]; then return; fi
  for flag in "${OUR_FLAGS[@]}"; do
    if [[ -n "$word" && "$(plain "$flag")" == "$word"* ]]; then # --dry
      printf '%s\n' "$flag"
      return
    fi
    if (($(distance "$word" "$(plain "$flag")") <= 1)); then
      printf '%s\n' "$flag"
      return
    fi
  done
}

# Split a command line into ours and swift's, in `dry_run`, `help` and the array `arguments`. What was mistyped ends it:
# handed on, it would start hours of work.
read_words() { # SCRIPT WORD...
  local script="$1" word meant
  shift
  dry_run=false help=false arguments=()
  if [[ -n "${1:-}" && "$1" != -* ]]; then
    if [[ "$1" =~ ^[A-Z_]+= ]]; then misused "a setting stands before the command: $1 bash $script"; fi
    misused "$script takes no word '$1'; did you mean $(nearest "$1" "${OUR_FLAGS[@]}")? See: bash $script --help"
  fi
  for word in "$@"; do
    case "$word" in
      --dry-run) dry_run=true ;;
      --help | -h) help=true ;;
      *)
        meant="$(slip_of "$word")"
        if [[ -n "$meant" ]]; then misused "unknown flag '$word'; did you mean $meant? See: bash $script --help"; fi
        arguments+=("$word")
        ;;
    esac
  done
}

# The value of a flag in a command as swift reads it, where the last counts; or nothing.
flag_of() { # ARRAY NAME
  local -n of="$1"
  local index value=''
  for ((index = 0; index < ${#of[@]}; index++)); do
    if [[ "${of[index]}" == "--$2" ]]; then value="${of[index + 1]:-}"; fi
    if [[ "${of[index]}" == "--$2="* ]]; then value="${of[index]#*=}"; fi
  done
  printf '%s' "$value"
}

# Take flags with their values out of a command.
drop_flags() { # ARRAY NAME...
  local -n from="$1"
  local word name dropping=false
  local -a kept=()
  shift
  for word in "${from[@]}"; do
    if [[ "$word" == --* ]]; then
      dropping=false
      for name in "$@"; do if [[ "$word" == "--$name" ]]; then dropping=true; fi; done
    fi
    if [[ "$dropping" == false ]]; then kept+=("$word"); fi
  done
  from=("${kept[@]}")
}

set_flag() { # ARRAY NAME VALUE...
  local -n to="$1"
  drop_flags "$1" "$2"
  to+=("--$2" "${@:3}")
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
