# The environment: .venv, made from a lock with hashes. Needs bash and a Python with pip; brings uv by itself.
# shellcheck shell=bash

readonly VENV="$HERE/.venv"

# Containers often forbid Python to write bytecode. Each process would then compile swift and torch anew, which is half of
# the time that it takes to load them: keep it, but not among the sources.
if [[ -n "${PYTHONDONTWRITEBYTECODE:-}" ]]; then
  unset PYTHONDONTWRITEBYTECODE
  export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX:-$HERE/.cache/bytecode}"
fi

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
  cd "$HERE" || exit
  for extra in gpu cpu; do
    say "locking $extra"
    UV_PYTHON_DOWNLOADS=never "$uv" pip compile --quiet --universal --python-version 3.10 --generate-hashes \
      --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'bash deepeyes.sh lock' \
      --extra "$extra" --group dev --output-file "requirements/$extra.txt" "$@" pyproject.toml
    if grep -n '://' "requirements/$extra.txt" >&2; then die "requirements/$extra.txt names an address, see above"; fi
  done
}
