"""Views and crops: what the template of swift makes of an image, and pieces of it."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from deepeyes.boxes import Box, fit_box
from deepeyes.calls import ToolCall, ZoomRefusedError
from deepeyes.family import frame_of, token_side
from deepeyes.images.detail import ADVICE, is_larger, times_larger
from deepeyes.images.encoding import content_key, image_bytes, is_url, to_data_uri
from deepeyes.images.store import ImageStore
from deepeyes.log import logger
from deepeyes.settings import CropSource, Settings

try:  # ms-swift 4
    from swift.template import StdTemplateInputs, vision_utils
except ImportError:  # ms-swift 3
    from swift.llm.template import vision_utils
    from swift.llm.template.template_inputs import StdTemplateInputs

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


@dataclass(frozen=True, eq=False)
class View:
    """An image as the model sees it.

    Attributes:
        key: Of this view in the store.
        image: What the template hands to the vision encoder, in RGB.
        feed: A decoded image that the template turns into just `image`; nearly always `image` itself.
        payload: What stands for it in messages to other processes, a string: the source itself, or `feed` as a
            data URI where that saves them from decoding an image of twice the pixels.
        encoded: The image as it came, where crops are cut from that; else None.
    """

    key: str
    image: Image.Image
    feed: Image.Image
    payload: str
    encoded: bytes | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        decoded = [self.image] if self.feed is self.image else [self.image, self.feed]
        return sum(map(_nbytes, decoded)) + len(self.payload) + len(self.encoded or b"")


def _nbytes(image: Image.Image) -> int:
    return 4 * image.width * image.height  # Pillow keeps RGB in four bytes a pixel


class ImageProcessor:
    """Makes views with the functions of swift's template, and crops from them."""

    def __init__(self, template: Any, tokenizer: Any, settings: Settings) -> None:
        """Makes a processor.

        Args:
            template: swift's template of the model; None where this version of swift does not hand it out.
            tokenizer: Then the model's name is read from this, as swift leaves it there.
            settings: Coordinates, source of crops and rules.

        Raises:
            SettingsError: It is not known in which frame this model writes boxes, nor do the settings say it.
        """
        self.template = template
        self.settings = settings
        self.store = ImageStore()
        self._told = settings.crop_source is not CropSource.VIEW  # of pictures that are larger than their view
        self._model_type = str(getattr(getattr(tokenizer, "model_meta", None), "model_type", "") or "")
        self.coordinates = frame_of(template, self._model_type, settings)
        self.token = token_side(template, self._model_type)

    def view(
        self, source: Any, chat_template_kwargs: dict[str, Any] | None = None, pool: ThreadPoolExecutor | None = None
    ) -> Future[View]:
        """Returns the view of an image, from the store or newly made.

        Args:
            source: The image in any form that swift takes.
            chat_template_kwargs: Of the request; they may hold `max_pixels`.
            pool: Where it is made; by default here and now.

        Returns:
            A future; it raises whatever the template raises for an image that it can't load.
        """
        key = f"{content_key(source)} {chat_template_kwargs or ''}"
        return self.store.get(key, lambda: self._make_view(key, source, chat_template_kwargs), pool)

    def _make_view(self, key: str, source: Any, chat_template_kwargs: dict[str, Any] | None) -> tuple[View, int]:
        encoded = None if isinstance(source, Image.Image) else image_bytes(source)
        original = source if encoded is None else Image.open(io.BytesIO(encoded))
        loaded, image = self._preprocess(original, chat_template_kwargs)
        self._tell_of_detail(original.size, image.size)
        feed = image if self._is_stable(image, chat_template_kwargs) else loaded
        if encoded is None or 2 * feed.width * feed.height <= original.width * original.height:
            payload = to_data_uri(feed)
        elif isinstance(source, str) and not is_url(source):
            payload = source
        else:
            payload = base64.b64encode(encoded).decode()
        if self.settings.crop_source is CropSource.VIEW:
            encoded = None
        elif encoded is None:
            encoded = image_bytes(source)
        view = View(key, image, feed, payload, encoded)
        return view, view.nbytes

    def _tell_of_detail(self, picture: tuple[int, int], view: tuple[int, int]) -> None:
        """Says once where a crop of the view can't show what the picture holds."""
        if is_larger(picture, view) and not self._told:
            self._told = True
            logger.warning(
                "DeepEyes: a picture of %d x %d pixels is %.1f times its view of %d x %d a side, and there may be more "
                "of them: a zoom into the view shows no new pixel; %s",
                *(*picture, times_larger(picture, view), *view, ADVICE),
            )

    def _is_stable(self, image: Image.Image, chat_template_kwargs: dict[str, Any] | None) -> bool:
        """Tells whether the template leaves a view as it is: not where --max_pixels would shrink it once more."""
        try:
            return all(step.size == image.size for step in self._preprocess(image, chat_template_kwargs))
        except ValueError:  # rounding made it thinner than the template takes
            return False

    def _preprocess(
        self, image: Image.Image, chat_template_kwargs: dict[str, Any] | None
    ) -> tuple[Image.Image, Image.Image]:
        """Does with an image what the template does: loads it (RGB, --max_pixels), then scales and rounds it."""
        if self.template is None:
            from qwen_vl_utils import fetch_image  # noqa: PLC0415 - heavy

            patch = {"image_patch_size": 16} if "qwen3" in self._model_type else {}
            loaded = vision_utils.load_image(image)
            return loaded, fetch_image({"image": loaded}, **patch)
        extra = {"chat_template_kwargs": dict(chat_template_kwargs)} if chat_template_kwargs else {}
        inputs = StdTemplateInputs(messages=[{"role": "user", "content": "<image>"}], images=[image], **extra)
        self.template._preprocess_inputs(inputs)  # noqa: SLF001 - the template's own way, for pixels that are equal
        loaded = inputs.images[0]
        self.template.replace_tag("image", 0, inputs)
        return loaded, inputs.images[0]

    def zoom(
        self, view: View | None, call: ToolCall, chat_template_kwargs: dict[str, Any] | None = None
    ) -> tuple[Box, Image.Image]:
        """Cuts the box of a call out of a view.

        Returns:
            The box in pixels of the view, and the crop: with `DEEPEYES_CROP_SOURCE=view` a piece of the view,
            with `original` the same part of the original, scaled into the pixel budget of the template.

        Raises:
            ZoomRefusedError: There is no view, or see `fit_box`.
        """
        if view is None:
            raise ZoomRefusedError("bad_image")
        width, height = view.image.size
        box = fit_box(call.bbox_2d, (width, height), self.coordinates, self.settings.rules, self.token)
        if view.encoded is None:
            return box, view.image.crop(box)
        original = self.store.get(f"original {view.key}", lambda: self._load_original(view.encoded)).result()
        x, y = original.width / width, original.height / height
        corners = (int(box.x1 * x), int(box.y1 * y), math.ceil(box.x2 * x), math.ceil(box.y2 * y))
        return box, self._preprocess(original.crop(corners), chat_template_kwargs)[1]

    @staticmethod
    def _load_original(encoded: bytes | None) -> tuple[Image.Image, int]:
        image = vision_utils.load_image(encoded)
        image.load()
        return image, _nbytes(image)
