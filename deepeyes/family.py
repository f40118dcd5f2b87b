"""What swift's template says of a family of models: frame of boxes, size of a token, media tokens, what it prefills."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from deepeyes.boxes import TOKEN_SIDE
from deepeyes.errors import SettingsError
from deepeyes.markers import MEDIA_TAG
from deepeyes.settings import Coordinates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepeyes.settings import Settings

MEDIA_NAME = re.compile(r"image|img|vision|video|audio", re.IGNORECASE)


def frame_of(template: Any, model_type: str, settings: Settings) -> Coordinates:
    """Returns the frame in which a model writes boxes: what the settings say, else swift's `norm_bbox`.

    Args:
        template: swift's template of the model; None where this version of swift does not hand it out.
        model_type: Then swift's name of the family decides; an empty one stands for ms-swift 3.7, which tells nothing
            and knows of this project's families only Qwen2.5-VL.
        settings: Their `coordinates` go before all else.

    Raises:
        SettingsError: None of these says it.

    Source: `Template.norm_bbox` of swift's `template/base.py`, which `--norm_bbox` sets.
    """
    if settings.coordinates is not Coordinates.AUTO:
        return settings.coordinates
    stated = getattr(template, "norm_bbox", None)
    if template is None:
        pixels = not model_type or re.match(r"qwen2_5_vl|mimo_vl", model_type)
        stated = "none" if pixels else "norm1000" if re.match(r"qwen2_vl|qwen3|qvq", model_type) else None
    if stated not in ("none", "norm1000"):
        name = model_type if template is None else type(template).__name__
        raise SettingsError(
            f"DEEPEYES_COORDINATES='auto': not known for {name} (norm_bbox {stated!r}); set it to 'pixel' or 'norm1000'"
        )
    return Coordinates.PIXEL if stated == "none" else Coordinates.NORM1000


def token_side(template: Any, model_type: str = "") -> int:
    """Returns the side of the square that becomes one image token, in pixels: 28, or 32 with patch 16."""
    if template is None:
        return 32 if model_type.startswith("qwen3") else TOKEN_SIDE
    processor = getattr(getattr(template, "processor", None), "image_processor", None)
    patch, merge = getattr(processor, "patch_size", None), getattr(processor, "merge_size", None)
    return patch * merge if isinstance(patch, int) and isinstance(merge, int) else TOKEN_SIDE


def response_prefix(template: Any, chat_template_kwargs: Mapping[str, Any] | None = None) -> str:
    """Returns what a template writes in place of the model where its turn begins, e.g. `<think>` and a line break.

    Args:
        template: swift's template of the model, or None.
        chat_template_kwargs: Of the request; they may hold `enable_thinking`.
    """
    ask = getattr(template, "_get_response_prefix", None)
    if ask is None:
        return str(getattr(template, "response_prefix", None) or "")
    return ask(SimpleNamespace(chat_template_kwargs=dict(chat_template_kwargs or {}))) or ""


def shared_end(template: Any, tokenizer: Any) -> int | None:
    """Returns the token that both ends a turn of the model and begins the next one, as `<|user|>` does for GLM.

    swift keeps the sampled one, writes its own after it, and gives loss to both; so one of them has to go.

    Source: `_add_dynamic_eos` of swift's `template/base.py`.
    """
    meta = getattr(template, "template_meta", None)
    end, begin = ((getattr(meta, name, None) or [None])[0] for name in ("suffix", "prompt"))
    if not isinstance(end, str) or not isinstance(begin, str) or not end or getattr(meta, "chat_sep", None):
        return None
    number = tokenizer.convert_tokens_to_ids(end) if begin.startswith(end) else None
    return number if isinstance(number, int) else None


@dataclass(frozen=True)
class MediaTokens:
    """The tokens that stand for an image, a video or a sound, or enclose one.

    Attributes:
        names: Text by id.
    """

    names: dict[int, str]

    def inert(self, text: str) -> str:
        """Returns a text with nothing left in it that a template or a tokenizer takes for media."""
        text = MEDIA_TAG.sub("< ", text)
        for name in self.names.values():
            text = text.replace(name, f"{name[0]} {name[1:]}")
        return text


def media_tokens(template: Any, tokenizer: Any) -> MediaTokens:
    """Returns the media tokens of a family: the template's placeholders, and what the tokenizer names like them."""
    names: dict[int, str] = {}
    if tokenizer is None:
        return MediaTokens(names)
    added: dict[str, int] = getattr(tokenizer, "get_added_vocab", dict)()
    names.update({number: token for token, number in added.items() if MEDIA_NAME.search(token)})
    for token in getattr(template, "placeholder_tokens", None) or ():
        number, text = (token, token) if isinstance(token, int) else (tokenizer.convert_tokens_to_ids(token), token)
        if isinstance(text, int):
            text = tokenizer.convert_ids_to_tokens(text)
        if number is not None and number != getattr(tokenizer, "unk_token_id", None) and text:
            names[number] = text
    return MediaTokens(names)
