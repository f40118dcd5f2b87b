# From a word to what runs: the table COMMANDS of deepeyes.sh.
# shellcheck shell=bash

# Where a module is, or nothing.
module_path() { # MODULE
  local path="$HERE/${1//.//}"
  for path in "$path.py" "$path/__main__.py"; do
    if [[ -f "$path" ]]; then
      printf '%s\n' "$path"
      return
    fi
  done
}

# The lines of the table whose function or module exists.
known_commands() {
  local command target text
  while read -r command target text; do
    if [[ -n "$command" ]] && { declare -F "$target" >/dev/null || [[ -n "$(module_path "$target")" ]]; }; then
      printf '%s %s %s\n' "$command" "$target" "$text"
    fi
  done <<<"$COMMANDS"
}

show_help() { # [COMMAND]
  if [[ -n "${1:-}" && "$1" != -* ]]; then dispatch "$1" --help && return; fi
  local command text _
  printf 'usage: bash deepeyes.sh [COMMAND] [ARGUMENTS]\n\n'
  while read -r command _ text; do printf '  %-9s %s\n' "$command" "$text"; done < <(known_commands)
  printf '\nEach of them has --help. train and rollout: --dry-run prints the command, other arguments go to swift.\n'
  printf '\nlayouts (LAYOUT=name, or the path of your own):\n\n'
  describe_layouts
  printf '\nThe judge has a script of its own: bash deploy_judge.sh\n'
}

# Find a command and run it; nothing that is not in the table starts anything.
dispatch() { # [COMMAND] ARGUMENTS...
  local command=train name target='' text='' found names='' first="${1:-}"
  if [[ "${1:-}" == --help || "${1:-}" == -h ]]; then
    command=help
    shift
  elif (($#)) && [[ "$1" != -* ]]; then
    command="$1"
    shift
  fi
  while read -r name found _; do
    names+=" $name"
    if [[ "$name" == "$command" ]]; then target="$found"; fi
    if [[ "$first" == "--$name" && "$command" == train ]]; then misused "no flag '$first'; did you mean $name?"; fi
  done < <(known_commands)
  if [[ -z "$target" ]]; then
    if [[ "$command" =~ ^[A-Z_]+= ]]; then misused "a setting stands before the command: $command bash deepeyes.sh"; fi
    # shellcheck disable=SC2086 # a word a name
    misused "unknown command '$command'; did you mean $(nearest "$command" $names)? The commands are:$names"
  fi

  if ! declare -F "$target" >/dev/null; then
    run_module "$command" "$target" "$@"
  elif [[ "$target" != start_* && "${1:-}" == @(--help|-h) ]]; then
    text="$(known_commands | sed -n "s/^$command [^ ]* //p")"
    printf 'usage: bash deepeyes.sh %s\n\n%s\n' "$command" "$text"
  else
    "$target" "$@"
  fi
}

# The programs are run by the Python that runs swift. The demo, which is made for one environment, brings it up to date.
run_module() { # COMMAND MODULE ARGUMENTS...
  local command="$1" module="$2" python
  shift 2
  if [[ " $* " == *' --help '* || " $* " == *' -h '* ]] && ! (find_swift >/dev/null 2>&1); then
    show_help ""
    say "what $command takes is told once the environment is there: bash deepeyes.sh setup"
    return
  fi
  if [[ -z "${SWIFT:-}" ]] && { [[ "$command" == demo ]] || ! (find_swift >/dev/null 2>&1); }; then ensure_setup; fi
  python="$(python_of_swift)"
  exec "$python" "$HERE/scripts/run_module.py" "$module" "$@"
}

# What the plugin would say of its settings once swift has loaded it, in half a second. Its defaults are sound; and a
# swift that has no Python beside it is told by the preflight.
check_plugin_settings() { # SWIFT
  local python
  python="$(dirname "$1")/python"
  if [[ -z "${!DEEPEYES_@}" || ! -x "$python" ]]; then return; fi
  "$python" "$HERE/scripts/run_module.py" deepeyes.environment || exit 1
}

# Look for what would stop a command, unless DOCTOR=false.
preflight() { # COMMAND ARGUMENTS OF THE DOCTOR...
  local command="bash deepeyes.sh $1"
  require_one_of DOCTOR "${DOCTOR:-true}" true false
  if [[ "${DOCTOR:-true}" == false ]]; then return; fi
  if [[ "$1" == judge ]]; then command="bash deploy_judge.sh"; fi
  (run_module doctor deepeyes.doctor --for "$@") ||
    die "not started; mend the errors above, or go without this check: DOCTOR=false $command"
}
