"""`python -m deepeyes.data`, which `bash deepeyes.sh data` runs."""

import sys

from deepeyes.data.cli import main

if __name__ == "__main__":
    sys.exit(main())
