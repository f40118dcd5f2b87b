"""A command line that names the nearest right flag."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """As argparse has it; a flag that does not exist ends with status 2 and the one that was meant."""

    def error(self, message: str) -> NoReturn:
        """Ends the program: status 2, usage and message on standard error."""
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in re.findall(r"(?<!\S)--?[A-Za-z][\w-]*", message.partition("unrecognized arguments:")[2]):
            if close := get_close_matches("--" + word.lstrip("-").lower().replace("_", "-"), known, n=1):
                message += f"; did you mean {close[0]}?"
        super().error(message)
