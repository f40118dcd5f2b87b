"""One turn of a trajectory: whether it is the last, and what its tool call gives back.

Training, evaluation and serving play their turns with this one piece of code.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from deepeyes.calls import ZOOM_ERRORS, ZoomRefusedError, next_call, parse_call
from deepeyes.markers import inert
from deepeyes.rows import has_tool, instruction_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

    from deepeyes.boxes import Box
    from deepeyes.calls import ToolCall
    from deepeyes.images.processor import View
    from deepeyes.settings import Settings


class Zooming(Protocol):
    """What cuts a crop: `deepeyes.images.processor.ImageProcessor`."""

    def zoom(
        self, view: View | None, call: ToolCall, chat_template_kwargs: dict[str, Any] | None = None
    ) -> tuple[Box, Image.Image]:
        """Returns the box in pixels of the view, and the crop; raises `ZoomRefusedError`."""


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
        views: A view an image of the row, None for one that can't be read; None before they are made.
        turns: Text of every assistant turn, as the model wrote it.
        zooms: A dict a tool call, see `Observation.zoom`.
        masked: Places of tokens in the last turn that carry no loss.
        prepared: The observation of the last turn, where it was made ahead of its use.
    """

    views: list[View | None] | None = None
    turns: list[str] = field(default_factory=list)
    zooms: list[dict[str, Any]] = field(default_factory=list)
    masked: list[int] = field(default_factory=list)
    prepared: Observation | None = None

    @property
    def view(self) -> View | None:
        """The view that boxes refer to: of the first image."""
        return self.views[0] if self.views else None

    def infos(self) -> dict[str, Any]:
        """Returns the part of `rollout_infos` that holds no images."""
        delivered = Counter(zoom["error"] is None for zoom in self.zooms)
        return {
            "num_zooms": delivered[True],
            "num_zoom_errors": delivered[False],
            "zooms": list(self.zooms),
            "turns": list(self.turns),
            "view_size": list(self.view.image.size) if self.view else None,
        }


class ZoomTool:
    """Plays the tool's side of a trajectory: when it is over, and what a call gives back."""

    def __init__(self, processor: Zooming, settings: Settings) -> None:
        """Makes a tool that cuts crops with `processor`, by the rules of `settings`."""
        self._processor = processor
        self._settings = settings

    def is_over(self, turn: str, row: Mapping[str, Any]) -> bool:
        """Tells whether a trajectory ends with a turn: the row has no tool, or the turn ends with no call of it."""
        return not has_tool(row, self._settings) or next_call(turn, self._settings.rules) is None

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
            "error": None,
        }
        text = next_call(progress.turns[-1], self._settings.rules) or ""
        try:
            call = parse_call(text, self._settings.rules)
            zoom.update(bbox_2d=list(call.bbox_2d), label=call.label)
            box, crop = self._processor.zoom(progress.view, call, chat_template_kwargs)
        except ZoomRefusedError as error:
            if zoom["bbox_2d"] is None:
                zoom["bbox_2d"] = inert(text)
            zoom["error"] = error.code
            return Observation(ZOOM_ERRORS[error.code], None, zoom)
        zoom["box"] = list(box)
        return Observation(f"<tool_response><image>{instruction_of(row, prompt)}</tool_response>", crop, zoom)
