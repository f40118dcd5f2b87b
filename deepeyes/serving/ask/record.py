"""The one-file page of an answer: the page of `serve`, with its style, its code and what happened inside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepeyes.serving.events import Ended, Kind, Text, Viewed, Zoomed
from deepeyes.serving.replies import views_body, zoom_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deepeyes.serving.events import Event

STATIC = Path(__file__).parents[1] / "static"


def talk_of(question: str, pictures: Sequence[str], events: Iterable[Event]) -> dict[str, Any]:
    """Returns what the page draws.

    Args:
        question: As it was asked.
        pictures: Data URIs.
        events: All that happened, raw text included.
    """
    turns: list[str] = []
    round_: dict[str, Any] = {
        "question": question,
        "turns": turns,
        "zooms": [],
        "answer": "",
        "stopped": "",
        "fault": "",
    }
    talk: dict[str, Any] = {"pictures": list(pictures), "views": [], "rounds": [round_]}
    for event in events:
        if isinstance(event, Viewed):
            talk["views"] = views_body(event)
        elif isinstance(event, Zoomed):
            round_["zooms"].append(zoom_body(event))
        elif isinstance(event, Ended):
            round_["stopped"] = event.stopped
        elif isinstance(event, Text) and event.kind is Kind.RAW:
            turns.extend([""] * (event.turn - len(turns)))
            turns[event.turn - 1] += event.text
        elif isinstance(event, Text) and event.kind is Kind.CONTENT:
            round_["answer"] += event.text
    return talk


def make_page(talk: dict[str, Any], model: str) -> str:
    """Returns a page of one file, which asks nothing of anybody.

    Args:
        talk: See `talk_of`.
        model: Name of the model.
    """
    page, style, code = ((STATIC / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js"))
    talk = {**talk, "model": model}
    data = json.dumps(talk, ensure_ascii=False).replace("<", "\\u003c")  # so that no text ends the script it is in
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(code)}"
    page = re.sub(r"<script src=.*?</script>\n", "", page)
    page = page.replace('<link rel="stylesheet" href="page.css">', f"<style>{style}</style>")
    page = page.replace(
        "<meta charset", f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<meta charset', 1
    )
    page = page.replace('<form id="composer">', '<form id="composer" hidden>')
    recorded = f'<script type="application/json" id="recorded">{data}</script>\n<script>{code}</script>\n</body>'
    return page.replace("</body>", recorded)


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
