"""What of a model's text is thought and what is the answer, while it is being written (pure).

Which text is the answer is known only when a turn is over: a tool call may follow, or another `<answer>`. So thoughts
and calls are handed on as they come, and what may be the answer is held until the turn ends. A stream and a plain reply
come from this one place, so they say the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepeyes.answers import blocks, outside_think

HANDED_ON = ("think", "tool_call")  # blocks that are never the answer
THINK_TAG = re.compile(r"</?think>")
CALL = re.compile(r"<tool_call>.*?(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Ending:
    """The end of a trajectory: what still belongs to the thoughts, and the answer."""

    reasoning: str
    content: str


class Splitter:
    """Splits one turn of the model."""

    def __init__(self) -> None:
        """Makes a splitter for a new turn."""
        self.text = ""
        self._rest = ""  # of the text, what was not handed on
        self._block: str | None = None  # of HANDED_ON, the one that is open
        self._held = False

    def feed(self, delta: str) -> str:
        """Takes more text and returns what of it is thought for sure, without the tags of `<think>`."""
        self.text += delta
        self._rest += delta
        ready = []
        while not self._held:
            step = self._inside(self._block) if self._block else self._between()
            if step is None:
                break
            ready.append(step)
        return "".join(ready)

    def _between(self) -> str | None:
        """Looks for the next block; None where more text is needed, or where text follows that may be the answer."""
        bare = self._rest.lstrip()
        for block in HANDED_ON:
            tag = f"<{block}>"
            if bare.startswith(tag):
                self._rest = bare[len(tag) :]
                self._block = block
                return "" if block == "think" else tag
            if tag.startswith(bare):
                return None
        self._held = True
        return None

    def _inside(self, block: str) -> str | None:
        """Hands on the inside of a block, up to what may be the beginning of its closing tag."""
        tag = f"</{block}>"
        inside, found, rest = self._rest.partition(tag)
        if found:
            self._rest, self._block = rest, None
            return f"{inside}\n" if block == "think" else f"{inside}{tag}\n"
        kept = next((size for size in range(len(tag) - 1, 0, -1) if inside.endswith(tag[:size])), 0)
        if len(inside) == kept:
            return None
        self._rest = inside[len(inside) - kept :]
        return inside[: len(inside) - kept]

    def go_on(self) -> str:
        """Ends a turn that is not the last, and returns what is left of its thoughts."""
        return _thoughts(self._rest)

    def finish(self) -> Ending:
        """Ends the last turn.

        The answer is the last complete `<answer>`, as in training; else one that was cut; else the text beside
        thoughts and calls.
        """
        answers = blocks(outside_think(self.text), "answer", innermost=True)
        if answers:
            before, _, after = self._rest.rpartition(f"<answer>{answers[-1]}</answer>")
            return Ending(_thoughts(before + after), answers[-1].strip())
        bare = self._rest if self._held else ""
        thoughts, found, rest = bare.rpartition("</think>")
        before, opened, answer = rest.rpartition("<answer>")
        if opened:
            return Ending(_thoughts(thoughts + found + before), _without_cut_tag(answer).strip())
        calls = "".join(CALL.findall(rest))
        left = "" if self._held else self._rest
        return Ending(_thoughts(thoughts + found + calls + left), CALL.sub("", rest).strip())


def _thoughts(text: str) -> str:
    text = THINK_TAG.sub("", text)
    return text if text.strip() else ""


def _without_cut_tag(text: str) -> str:
    """Drops the beginning of a closing tag, at which a limit cut the turn."""
    tag = "</answer>"
    return next((text[:-size] for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), text)
