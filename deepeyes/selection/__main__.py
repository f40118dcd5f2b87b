"""`python -m deepeyes.selection`, which `bash deepeyes.sh select` runs."""

import sys

from deepeyes.selection.cli import main

if __name__ == "__main__":
    sys.exit(main())
