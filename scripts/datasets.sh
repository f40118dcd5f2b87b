# DATASET: what to train on.
# shellcheck shell=bash

# One entry as swift is to load it: an official name becomes its file in DATA_DIR, a `#rows` stays.
dataset_file() { # ENTRY
  local name="${1%%#*}" rows='' data_dir="${DATA_DIR:-$HERE/data}"
  if [[ "$1" == *'#'* ]]; then rows="#${1#*#}"; fi
  case "$name" in
    deepeyes_vstar) name="$data_dir/data_0.1.2_visual_toolbox_v2.parquet" ;;
    deepeyes_chart) name="$data_dir/data_v0.8_visual_toolbox_v2.parquet" ;;
    deepeyes_thinklite) name="$data_dir/data_thinklite_reasoning_acc.parquet" ;;
  esac
  printf '%s\n' "$name$rows"
}

require_files() { # ENTRY...: files must be there; anything else is a hub id
  local name
  for name in "${@%%#*}"; do
    if [[ "$name" == *.@(parquet|jsonl|json|csv) && ! -f "$name" ]]; then
      die "$name is missing; DATA_DIR names the folder of the official files, which bash deepeyes.sh data data --download fetches;" \
        "DATASET the files to train on"
    fi
  done
}
