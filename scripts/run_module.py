"""`python -m MODULE` with the package of this checkout: `-m` looks into the working directory first.

python scripts/run_module.py MODULE [ARGUMENTS...]
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
