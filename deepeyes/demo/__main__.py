"""`python -m deepeyes.demo`, which `bash deepeyes.sh demo` runs."""

import os
import sys

from deepeyes.demo import stages
from deepeyes.demo.cache import cache_directory
from deepeyes.demo.cli import end_on_signals, main
from deepeyes.demo.plan import ENVIRONMENT
from deepeyes.launch import module_command

QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""So that the demo's progress lines stand alone; swift's output goes to a file, in full."""

if __name__ == "__main__":
    if os.environ.get("GLIBC_TUNABLES") is None:  # read by the C library at start only, and so is the plugin's setting
        own = ENVIRONMENT | {"DEEPEYES_CACHE": str(cache_directory(os.environ))} | QUIET
        command = module_command("deepeyes.demo", *sys.argv[1:])
        os.execve(sys.executable, command, stages.child_environment(os.environ, **own))  # noqa: S606 - the same program
    end_on_signals()
    sys.exit(main())
