"""Lets `bash deepeyes.sh ask` run this folder."""

import sys

from deepeyes.serving.ask.cli import main

if __name__ == "__main__":
    sys.exit(main())
