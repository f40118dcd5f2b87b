# What the scripts tell the user, and how they refuse.
# shellcheck shell=bash

say() { printf '%s\n' "deepeyes: $*" >&2; }

die() {
  say "$@"
  exit 1
}

# A command line that is not understood: nothing was started.
misused() {
  say "$@"
  exit 2
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

# The comment at the top of a script, without its marks.
head_of() { # FILE
  sed -n '1{/^#!/d}; /^#/!q; s/^# \{0,1\}//p' "$1"
}

# A word as it is compared: small letters without dashes, underscores and what follows `=`.
plain() { # WORD
  local word="${1%%=*}"
  word="${word,,}"
  printf '%s' "${word//[-_]/}"
}

# How many letters differ between two words: one that is missing, added, wrong or swapped with the next counts once.
distance() { # WORD WORD
  local one="$1" two="$2" i j best
  local row=$((${#2} + 1)) # steps[i * row + j]: from the first i letters of one to the first j of the other
  local -a steps
  for ((j = 0; j < row; j++)); do steps[j]=$j; done
  for ((i = 1; i <= ${#one}; i++)); do
    steps[i * row]=$i
    for ((j = 1; j < row; j++)); do
      best=$((steps[(i - 1) * row + j - 1]))
      if [[ "${one:i-1:1}" != "${two:j-1:1}" ]]; then ((best += 1)); fi
      if ((steps[(i - 1) * row + j] < best)); then best=$((steps[(i - 1) * row + j] + 1)); fi
      if ((steps[i * row + j - 1] < best)); then best=$((steps[i * row + j - 1] + 1)); fi
      if ((i > 1 && j > 1)) && [[ "${one:i-2:2}" == "${two:j-1:1}${two:j-2:1}" ]]; then
        if ((steps[(i - 2) * row + j - 2] < best)); then best=$((steps[(i - 2) * row + j - 2] + 1)); fi
      fi
      steps[i * row + j]=$best
    done
  done
  printf '%s\n' "${steps[-1]}"
}

# The name that a word was meant to be: one that it contains, or the one with the fewest letters changed.
nearest() { # WORD NAME...
  local word name least=99 found='' apart
  word="$(plain "$1")"
  shift
  for name in "$@"; do
    if [[ "$word" == *"$(plain "$name")"* ]]; then apart=0; else apart="$(distance "$word" "$(plain "$name")")"; fi
    if ((apart < least)); then least=$apart found="$name"; fi
  done
  printf '%s\n' "$found"
}
