"""`python -m deepeyes.doctor`, which `bash deepeyes.sh doctor` runs."""

import sys

from deepeyes.doctor.cli import main

if __name__ == "__main__":
    sys.exit(main())
