"""DeepEyes for ms-swift: what `deepeyes_plugin.py` stands on, and the programs around it.

The core (settings, answers, calls, boxes, verdicts, scoring, turns) needs neither swift nor torch. `images` needs the
template of swift. The programs are folders, started as `python -m deepeyes.NAME` by deepeyes.sh.
docs/architecture.md draws it.
"""

from deepeyes.packages import require_packages

require_packages()  # before the first import that would fail without a word of what to do
