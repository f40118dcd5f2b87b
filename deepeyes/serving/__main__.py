"""Lets `bash deepeyes.sh serve` run this folder."""

import sys

from deepeyes.serving.cli import main

if __name__ == "__main__":
    sys.exit(main())
