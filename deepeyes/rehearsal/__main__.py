"""Starts the rehearsal."""

import sys

from deepeyes.rehearsal.cli import main

if __name__ == "__main__":
    sys.exit(main())
