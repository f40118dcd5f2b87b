#!/usr/bin/env bash
# DeepEyes on ms-swift: every way to run it.
#
#   bash deepeyes.sh demo      # no GPU, no download: GRPO with the zoom tool on a tiny model, on this machine
#   bash deepeyes.sh help      # all commands
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly HERE
readonly VENV="$HERE/.venv"

usage() {
  cat <<'TEXT'
usage: bash deepeyes.sh COMMAND [ARGUMENTS]

  demo     train a tiny model on this machine, on the CPU, with everything that is real about the loop
  setup    [gpu|cpu] make .venv from the locked requirements; gpu where nvidia-smi answers, else cpu
  test     set up if need be, then lint, type-check and test; arguments go to pytest
  lock     pin every extra of pyproject.toml anew in requirements/
  help     this text
TEXT
}

say() { printf '%s\n' "deepeyes: $*" >&2; }
die() {
  say "$@"
  exit 1
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
    PIP_USER=0 "$python" -m pip install --quiet --disable-pip-version-check --target "$HERE/.uv" 'uv>=0.8' >&2 ||
      die "pip could not fetch uv; its message is above"
  fi
  printf '%s\n' "$HERE/.uv/bin/uv"
}

# uv does not read pip's configuration: hand over the mirror and the certificate that the user gave to pip.
follow_pip_config() {
  local python="$1" value
  if [[ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]]; then
    value="${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}"
    if [[ -n "$value" ]]; then export UV_DEFAULT_INDEX="$value"; fi
  fi
  if [[ -z "${SSL_CERT_FILE:-}" ]]; then
    value="${PIP_CERT:-$("$python" -m pip config get global.cert 2>/dev/null || true)}"
    if [[ -n "$value" ]]; then export SSL_CERT_FILE="$value"; fi
  fi
}

# setup [gpu|cpu]: the copy of the lock inside .venv says what is installed; equal to ours, there is nothing to do.
setup() {
  local extra="${1:-}"
  if [[ -z "$extra" ]]; then
    extra=cpu
    if nvidia-smi --list-gpus >/dev/null 2>&1; then extra=gpu; fi
  fi
  local lock="$HERE/requirements/$extra.txt"
  [[ -f "$lock" ]] || die "unknown environment '$extra'; choose gpu or cpu"
  if cmp --silent "$lock" "$VENV/deepeyes.lock"; then
    say "environment is up to date ($extra)"
    return
  fi

  local python uv
  python="$(find_python)"
  uv="$(find_uv "$python")"
  follow_pip_config "$python"
  say "making .venv for $extra with $("$python" --version), from requirements/$extra.txt"
  if [[ ! -x "$VENV/bin/python" ]]; then
    "$uv" venv --quiet --no-config --python "$python" "$VENV" || die "could not make $VENV"
  fi
  rm -f "$VENV/deepeyes.lock"
  "$uv" pip sync --python "$VENV/bin/python" --require-hashes "$lock" ||
    die "the packages of requirements/$extra.txt were not all installed; mend the cause above and run it again"
  cp "$lock" "$VENV/deepeyes.lock"
  say "environment is ready: $VENV"
}

# Set up unless an environment of either kind is already there and current: the choice of an earlier setup stays.
ensure_setup() {
  local extra
  for extra in gpu cpu; do
    if cmp --silent "$HERE/requirements/$extra.txt" "$VENV/deepeyes.lock"; then return; fi
  done
  setup
}

# lock: every version and hash, for all Pythons and machines at once, and no address: the user's index serves it.
lock() {
  local python uv extra
  python="$(find_python)"
  uv="$(find_uv "$python")"
  follow_pip_config "$python"
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
  local scripts=(deepeyes.sh .ci/run)
  say "ruff"
  ruff check
  ruff format --check
  say "shellcheck and shfmt"
  shellcheck "${scripts[@]}"
  shfmt --diff --indent 2 --case-indent "${scripts[@]}"
  say "mypy"
  mypy
  say "pytest"
  CUDA_VISIBLE_DEVICES='' pytest "$@"
}

demo() {
  ensure_setup
  exec "$VENV/bin/python" "$HERE/tools/demo.py" "$@"
}

main() {
  local command="${1:-help}"
  if (($#)); then shift; fi
  case "$command" in
    setup) setup "$@" ;;
    lock) lock "$@" ;;
    test) run_tests "$@" ;;
    demo) demo "$@" ;;
    help | -h | --help) usage ;;
    *)
      usage >&2
      die "unknown command '$command'"
      ;;
  esac
}

main "$@"
