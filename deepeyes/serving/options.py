"""What `serve` and `ask` are told alike: the model's endpoint, how its model looks at images, and limits."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.environment import PREFIX, read_settings
from deepeyes.errors import SettingsError
from deepeyes.playing.endpoint import Access
from deepeyes.playing.families import FAMILIES, family_of
from deepeyes.playing.pictures import Viewer
from deepeyes.playing.prompts import Prompt, own_prompt, prompt_from
from deepeyes.serving.backend import Backend
from deepeyes.serving.chat import Chat
from deepeyes.serving.fetching import Fetcher
from deepeyes.serving.limits import Limits
from deepeyes.serving.pictures import allow_pixels
from deepeyes.settings import Coordinates, CropSource, Rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepeyes.settings import Settings

ORIGINALS_BYTES = 256 << 20  # of decoded pictures that are kept for further crops; one of 12 megapixels takes 48 MB
MAX_PIXELS = 602112  # of a view; the default of training
LIMITS = Limits()


class UsageError(Exception):
    """An option is wrong; the message says which, what was found and what is expected."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options about the model."""
    env = os.environ
    add = parser.add_argument_group("the model").add_argument
    add("--family", choices=list(FAMILIES), help="patch size and box frame (default: by the name)")
    add("--coordinates", choices=["pixel", "norm1000"], help="box frame (default: that of the family)")
    add("--crop-source", choices=["original", "view"], help="what crops are cut from (default: original)")
    add("--rules", choices=["corrected", "official"], help="default: DEEPEYES_RULES")
    add("--max-pixels", type=whole, default=env.get("MAX_PIXELS") or MAX_PIXELS, help="of a view (%(default)s)")
    add("--max-turns", type=whole, default=env.get("MAX_TURNS") or LIMITS.turns, help="of the model (%(default)s)")
    add("--max-tokens", type=whole, default=LIMITS.tokens, help="of one turn (%(default)s)")
    add("--timeout", type=seconds, default=LIMITS.seconds, help="seconds for one answer (%(default)s)")
    add("--retries", type=int, default=2, help="of a call that failed before its first word (%(default)s)")
    add("--prompt-from", type=Path, metavar="PARQUET", help="system turn and instruction of these training rows")


def whole(text: str) -> int:
    """Reads a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def seconds(text: str) -> float:
    """Reads a number of seconds above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return number


def limits_of(options: argparse.Namespace) -> Limits:
    """Returns the limits of a command line; those that it does not have are the defaults."""
    names = {"turns": "max_turns", "tokens": "max_tokens", "seconds": "timeout"}
    named = {field.name: names.get(field.name, f"max_{field.name}") for field in fields(Limits)}
    given = {name: getattr(options, option) for name, option in named.items() if hasattr(options, option)}
    return Limits(**{name: value for name, value in given.items() if value is not None})


def settings_of(options: argparse.Namespace) -> Settings:
    """Returns the settings of the plugin, with what a command line says; crops are of the original unless told.

    Raises:
        UsageError: A variable has a value that is not allowed.
    """
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        raise UsageError(str(error)) from error
    source = options.crop_source or os.environ.get(f"{PREFIX}CROP_SOURCE") or CropSource.ORIGINAL
    settings = replace(settings, crop_source=CropSource(source))
    if options.coordinates:
        settings = replace(settings, coordinates=Coordinates(options.coordinates))
    return replace(settings, rules=Rules(options.rules)) if options.rules else settings


def read_prompt(path: Path) -> Prompt:
    """Returns the prompt of training rows.

    Raises:
        UsageError: The file can't be read, or holds no such prompt.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - only here

    try:
        rows = next(pq.ParquetFile(path).iter_batches(1)).to_pylist()
        return prompt_from(rows[0])
    except (OSError, ValueError, LookupError, StopIteration, TypeError) as error:
        raise UsageError(
            f"--prompt-from {path}: {error}; expected rows with `prompt`, as training reads them"
        ) from error


def chat_opener(options: argparse.Namespace, url: str, model: str | None) -> Callable[[], Chat]:
    """Returns what makes a `Chat` in a running event loop, everything that can be wrong looked at before.

    Args:
        options: Of `add_model_options`, and besides `raw`, `blank_crops` and `allow_private_urls`.
        url: Of the model's endpoint; its key is OPENAI_API_KEY.
        model: Its served name, or None for the first of /models.

    Raises:
        UsageError: An option is wrong.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url {url!r}: expected a base URL, as http://127.0.0.1:8000/v1")
    settings, limits = settings_of(options), limits_of(options)
    allow_pixels(limits.image_pixels)
    key = os.environ.get("OPENAI_API_KEY") or "EMPTY"
    access = Access(url, key, retries=options.retries, timeout=limits.seconds, patience=limits.seconds)
    prompt = read_prompt(options.prompt_from) if options.prompt_from else None
    family = FAMILIES[options.family] if options.family else None
    try:
        Viewer(family or family_of(model or ""), settings, options.max_pixels)
    except ValueError as error:
        raise UsageError(str(error)) from error

    def open_chat() -> Chat:
        backend = Backend(access, model)

        def viewer_of(name: str) -> Viewer:
            return Viewer(family or family_of(name), settings, options.max_pixels, ORIGINALS_BYTES)

        def prompt_of(viewer: Viewer) -> Prompt:
            return prompt or own_prompt(viewer.coordinates, tool=True)

        fetcher = Fetcher(limits, allow_private=options.allow_private_urls)
        return Chat(
            backend=backend,
            viewer_of=viewer_of,
            prompt_of=prompt_of,
            fetcher=fetcher,
            limits=limits,
            settings=settings,
            raw=options.raw,
            blank_crops=options.blank_crops,
        )

    return open_chat
