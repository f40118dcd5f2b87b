"""One turn of a trajectory: whether it is the last, and what its tool call gives back.

Training, evaluation and serving play their turns with this one piece of code.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from deepeyes.calls import ZoomRefusedError, next_call, parse_call
from deepeyes.markers import inert
from deepeyes.rows import has_tool, instruction_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import Image

    from deepeyes.boxes import Box
    from deepeyes.calls import ToolCall
    from deepeyes.settings import Settings


class Zooming(Protocol):
    """What cuts a crop: `deepeyes.images.processor.ImageProcessor`, or `deepeyes.playing.pictures.Viewer`."""

    def zoom(
        self, view: Any, call: ToolCall, chat_template_kwargs: dict[str, Any] | None = None
    ) -> tuple[Box, Image.Image]:
        """Returns the box in pixels of the view, and the crop; raises `ZoomRefusedError`. A view has a `size`."""


@dataclass(frozen=True)
class Observation:
    """What a tool call gives back.

    Attributes:
        text: Content of the user turn.
        image: The crop that its `<image>` stands for, or None.
        zoom: The line of this call in `rollout_infos["zooms"]`.
    """

    text: str
    image: Image.Image | None
    zoom: dict[str, Any]


@dataclass
class Progress:
    """What is remembered of a trajectory while it plays.

    Attributes:
        views: What `Zooming.zoom` takes, one an image; None for an image that can't be read, and before they are made.
        turns: Text of every assistant turn, as the model wrote it, after the prefix of its template.
        zooms: A dict a tool call, see `Observation.zoom`.
        masked: Places of tokens in the last turn that carry no loss.
        prepared: The observation of the last turn, where it was made ahead of its use.
        verdict: What a judge said when the trajectory ended; empty while it thinks, None where nobody is asked.
        cut: The trajectory was ended since its prompt had outgrown the model.
    """

    views: Sequence[Any] | None = None
    turns: list[str] = field(default_factory=list)
    zooms: list[dict[str, Any]] = field(default_factory=list)
    masked: list[int] = field(default_factory=list)
    prepared: Observation | None = None
    verdict: dict[str, Any] | None = None
    cut: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """Leaves images behind when it is pickled: a trainer sends its requests to its other processes every turn."""
        return {**self.__dict__, "views": None, "prepared": None}

    def infos(self) -> dict[str, Any]:
        """Returns the part of `rollout_infos` that holds no images."""
        sizes = [list(view.size) if view else None for view in self.views or []]
        delivered = Counter(zoom["error"] is None for zoom in self.zooms)
        return {
            "num_zooms": delivered[True],
            "num_zoom_errors": delivered[False],
            "zooms": list(self.zooms),
            "turns": list(self.turns),
            "view_size": sizes[0] if sizes else None,
            "view_sizes": sizes,
        }


def with_prefix(turn: str, prefix: str) -> str:
    """Returns a turn with what the template wrote in its place before it began, e.g. `<think>`.

    An engine may give it back or leave it out; a turn is read the same either way.

    Args:
        turn: Text of the turn as an engine gave it.
        prefix: The template's response prefix for the request; may be empty.
    """
    return turn if turn.lstrip().startswith(prefix.strip()) else prefix + turn


class ZoomTool:
    """Plays the tool's side of a trajectory: when it is over, and what a call gives back."""

    def __init__(self, processor: Zooming, settings: Settings) -> None:
        """Makes a tool that cuts crops with `processor`, by the rules of `settings`."""
        self._processor = processor
        self._settings = settings

    def is_over(self, turn: str, row: Mapping[str, Any], prompt: str | None = None) -> bool:
        """Tells whether a trajectory ends with a turn: the row has no tool, or the turn ends with no call of it.

        Args:
            turn: Text of the turn.
            row: Columns of the dataset row, as far as they came along.
            prompt: All that the model was told before its first turn; it decides where no columns came along.
        """
        return not has_tool(row, self._settings, prompt) or next_call(turn, self._settings.rules) is None

    def observe(
        self,
        progress: Progress,
        row: Mapping[str, Any],
        prompt: Any,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> Observation:
        """Runs the tool call that ends the last turn of a trajectory.

        It never raises for anything that the model wrote: what is wrong becomes an error text for the model.

        Args:
            progress: The trajectory; its views must be there.
            row: Columns of the dataset row, as far as they came along.
            prompt: Content of the user turn that asks the question.
            chat_template_kwargs: Of the request; they may hold `max_pixels`.
        """
        zoom: dict[str, Any] = {
            "turn": len(progress.turns),
            "bbox_2d": None,
            "box": None,
            "label": None,
            "image": 0,
            "error": None,
        }
        text = next_call(progress.turns[-1], self._settings.rules) or ""
        views = progress.views or [None]
        try:
            call = parse_call(text, self._settings.rules)
            zoom.update(bbox_2d=list(call.bbox_2d), label=call.label, image=call.image)
            box, crop = self._processor.zoom(_chosen(views, call), call, chat_template_kwargs)
        except ZoomRefusedError as error:
            if zoom["bbox_2d"] is None:
                zoom["bbox_2d"] = inert(text)
            zoom["error"] = error.code
            return Observation(error.text, None, zoom)
        zoom["box"] = list(box)
        return Observation(f"<tool_response><image>{instruction_of(row, prompt)}</tool_response>", crop, zoom)


def _chosen(views: Sequence[Any], call: ToolCall) -> Any:
    if call.image >= len(views):
        raise ZoomRefusedError("no_such_image")
    return views[call.image]
