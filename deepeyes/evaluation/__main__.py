"""`python -m deepeyes.evaluation`, which `bash deepeyes.sh eval` runs."""

import sys

from deepeyes.evaluation.cli import main

if __name__ == "__main__":
    sys.exit(main())
