"""`python -m deepeyes.demo`, which `bash deepeyes.sh demo` runs."""

import os
import sys

from deepeyes.demo.cache import cache_directory
from deepeyes.demo.cli import main
from deepeyes.demo.stages import child_environment
from deepeyes.launch import module_command

if __name__ == "__main__":
    if os.environ.get("GLIBC_TUNABLES") is None:  # read by the C library at start only, and so is the plugin's setting
        own = child_environment(os.environ, DEEPEYES_CACHE=str(cache_directory(os.environ)))
        os.execve(sys.executable, module_command("deepeyes.demo", *sys.argv[1:]), own)  # noqa: S606 - the same program
    sys.exit(main())
