"""`python -m deepeyes.data`, which `bash deepeyes.sh data` runs."""

import sys

from deepeyes.data.check import main

if __name__ == "__main__":
    sys.exit(main())
