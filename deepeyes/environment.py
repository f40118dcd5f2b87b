"""Settings from environment variables, since swift passes no options to a plugin. docs/settings.md lists them."""

from __future__ import annotations

import difflib
import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from deepeyes.errors import SettingsError
from deepeyes.log import logger
from deepeyes.settings import Coordinates, CropSource, JudgeKind, JudgeSettings, Rules, Scoring, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "DEEPEYES_"
OTHER_PROGRAMS = (
    "DEEPEYES_CACHE",  # of the demo, which runs the plugin as its child
    "DEEPEYES_SERVE_API_KEY",  # of serve and ask
)

_JUDGE = JudgeSettings()
_HIDDEN = "hidden: "  # begins an error that must not show the value


def _urls(value: str) -> tuple[str, ...]:
    urls = []
    for url in (part.strip().rstrip("/") for part in value.split(",")):
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # of the port, or of brackets
            valid = False
        if "@" in url:
            raise ValueError(f"{_HIDDEN}expected URLs without a password; give it as DEEPEYES_JUDGE_API_KEY")
        if not valid or parts.query or parts.fragment:
            raise ValueError("expected URLs like http://127.0.0.1:18901/v1, comma-separated")
        urls.append(url if parts.path else f"{url}/v1")
    return tuple(dict.fromkeys(urls))


def _key(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"{_HIDDEN}expected printable ASCII characters, for it is sent in an HTTP header")
    return value.strip()


def _sources(value: str) -> tuple[tuple[str, Scoring], ...]:
    sources = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        source, _, scoring = (piece.strip() for piece in part.partition("="))
        if not source or scoring not in ("visual", "math"):
            raise ValueError("expected name=visual or name=math, comma-separated")
        sources[source] = Scoring(scoring)
    return tuple(sources.items())


def _prompt(path: str) -> str:
    try:
        prompt = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a readable text file: {error}") from error
    if missing := [name for name in ("{question}", "{reference}", "{answer}") if name not in prompt]:
        raise ValueError(f"the prompt lacks {', '.join(missing)}")
    return prompt


def _extra(value: str) -> tuple[tuple[str, Any], ...]:
    try:
        extra = json.loads(value)
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise ValueError(  # noqa: TRY004 - pydantic takes no TypeError
            'expected a JSON object, such as {"chat_template_kwargs": {"enable_thinking": false}}'
        )
    return tuple(extra.items())


PositiveInt = Annotated[int, Field(gt=0, description="a whole number above 0")]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]


class _Environment(BaseSettings):
    """The variables by their names, in small letters and without the prefix."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=False)

    judge: JudgeKind = _JUDGE.kind
    judge_urls: Annotated[Any, NoDecode, AfterValidator(_urls)] = _JUDGE.urls
    judge_model: str | None = None
    judge_api_key: Annotated[str, AfterValidator(_key)] = _JUDGE.api_key
    judge_concurrency: PositiveInt = _JUDGE.concurrency
    judge_timeout: PositiveFloat = _JUDGE.timeout
    judge_patience: PositiveFloat = _JUDGE.patience
    judge_max_tokens: PositiveInt = _JUDGE.max_tokens
    judge_extra: Annotated[Any, NoDecode, AfterValidator(_extra)] = _JUDGE.extra
    judge_ahead: Annotated[bool, Field(description="true or false")] = _JUDGE.ahead
    judge_prompt_visual: Annotated[str, AfterValidator(_prompt)] = _JUDGE.visual_prompt
    judge_prompt_math: Annotated[str, AfterValidator(_prompt)] = _JUDGE.math_prompt
    rules: Rules = Rules.CORRECTED
    sources: Annotated[Any, NoDecode, AfterValidator(_sources)] = ()
    coordinates: Coordinates = Coordinates.AUTO
    crop_source: CropSource = CropSource.VIEW
    trace_dir: Path | None = None
    trace_bytes: PositiveInt = Settings().trace_bytes

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is that of the library
        init_settings: PydanticBaseSettingsSource,
        *_unused: PydanticBaseSettingsSource,
        **_unused_by_name: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Reads nothing by itself: `read_settings` hands over what `_Variables` found."""
        return (init_settings,)


class _Variables(EnvSettingsSource):
    """The variables of any mapping, not only of `os.environ`; an empty value counts as unset."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(_Environment)
        self.env_vars = {name.lower(): value for name, value in env.items() if value and name.startswith(PREFIX)}


def read_settings(env: Mapping[str, str]) -> Settings:
    """Parses the environment.

    Args:
        env: Usually `os.environ`. An empty value counts as unset.

    Raises:
        SettingsError: A value is not allowed. (A `DEEPEYES_` variable that is not known is only warned of.)
    """
    names = (*(f"{PREFIX}{name.upper()}" for name in _Environment.model_fields), *OTHER_PROGRAMS)
    for name in env:
        if name.startswith(PREFIX) and name not in names:
            nearest = difflib.get_close_matches(name, names, 1, 0)[0]
            logger.warning(
                "%s is not a setting of the DeepEyes plugin; did you mean %s? Known are %s",
                name,
                nearest,
                ", ".join(sorted(names)),
            )
    try:
        found = _Environment(**_Variables(env)())
    except ValidationError as error:
        raise SettingsError(_explain(error.errors()[0], env)) from None  # the cause would show a key
    judge = {name.removeprefix("judge_"): value for name, value in found if name.startswith("judge_")}
    judge["visual_prompt"], judge["math_prompt"] = judge.pop("prompt_visual"), judge.pop("prompt_math")
    return Settings(
        judge=JudgeSettings(kind=found.judge, **judge),
        rules=found.rules,
        sources=found.sources,
        coordinates=found.coordinates,
        crop_source=found.crop_source,
        trace_dir=found.trace_dir.expanduser() if found.trace_dir else None,
        trace_bytes=found.trace_bytes,
    )


def _explain(error: Any, env: Mapping[str, str]) -> str:
    """Returns one line of an error of pydantic: the variable, its value, and what is allowed."""
    field = str(error["loc"][0])
    name = f"{PREFIX}{field.upper()}"
    kind = _Environment.model_fields[field]
    if isinstance(kind.annotation, type) and issubclass(kind.annotation, Enum):
        expected = "expected " + " or ".join(repr(member.value) for member in kind.annotation)
    elif kind.description:
        expected = f"expected {kind.description}"
    else:
        expected = str(error["msg"]).removeprefix("Value error, ")
    if expected.startswith(_HIDDEN):
        return f"{name}: {expected.removeprefix(_HIDDEN)}"
    return f"{name}={env[name]!r}: {expected}"


def main() -> int:
    """Says what is wrong with the settings of this process: the scripts run it before swift, which takes long to load.

    Returns:
        The exit status: 0 they are sound, 1 one of them is not allowed.
    """
    try:
        read_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"deepeyes: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
