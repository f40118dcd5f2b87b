# What `bash deepeyes.sh test` runs.
# shellcheck shell=bash

run_tests() { # PYTEST ARGUMENTS...
  ensure_setup
  cd "$HERE" || exit
  export PATH="$VENV/bin:$PATH"
  local files=(deepeyes.sh deploy_judge.sh .ci/run scripts/*.sh layouts/*.sh)
  say "ruff"
  ruff check
  ruff format --check
  say "shellcheck and shfmt"
  shellcheck --external-sources "${files[@]}"
  shfmt --diff --indent 2 --case-indent "${files[@]}"
  say "mypy"
  mypy
  say "lint-imports"
  lint-imports
  if [[ -f deepeyes/report/chromium.py ]]; then
    say "a browser for the report page"
    "$VENV/bin/python" -m deepeyes.report.chromium >&2 || say "no Chromium: the tests of the report page in a browser are skipped"
  fi
  say "pytest"
  # Two files at a time: much of it waits for servers to start.
  CUDA_VISIBLE_DEVICES='' pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
}
