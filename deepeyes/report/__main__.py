"""`python -m deepeyes.report`, which `bash deepeyes.sh report` runs."""

import sys

from deepeyes.report.cli import main

if __name__ == "__main__":
    sys.exit(main())
