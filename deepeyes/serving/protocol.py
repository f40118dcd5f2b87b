"""What a client may ask: OpenAI's chat completions, field by field served or refused.

A field is read here, handed to the model's endpoint as it is (`PASSED_ON`), without effect by its nature (`IGNORED`),
or refused with its name, so that no request is answered as if it had asked something else.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from deepeyes.serving.errors import ApiError, refused

MAX_STOPS = 4  # OpenAI's limit
PASSED_ON = frozenset({
    "bad_words", "chat_template_kwargs", "extra_args", "frequency_penalty", "length_penalty", "logit_bias", "min_p",
    "parallel_tool_calls", "presence_penalty", "priority", "reasoning_effort", "repetition_penalty", "seed",
    "skip_special_tokens", "temperature", "tool_choice", "tools", "top_k", "top_p", "verbosity",
})  # fmt: skip
"""Of sampling, and of vLLM and swift. What they mean is the endpoint's matter, and so is a value that it refuses."""
IGNORED = frozenset({
    "metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user",
})  # fmt: skip
"""About accounts and storage, which there are none of."""
REFUSED = {
    "audio": "there is no sound",
    "continue_final_message": "an answer begins with a new turn",
    "function_call": "it is out of use; send `tool_choice`",
    "functions": "it is out of use; send `tools`",
    "logprobs": "an answer is played in several turns, which have no common log probabilities",
    "max_pixels": "boxes refer to one view; start serve with another --max-pixels",
    "mm_processor_kwargs": "boxes refer to one view; start serve with another --max-pixels",
    "prediction": "nothing can be predicted of a trajectory",
    "prompt_logprobs": "an answer is played in several turns",
    "top_logprobs": "an answer is played in several turns, which have no common log probabilities",
    "web_search_options": "there is no search",
}
"""Known fields that can't be served, each with the reason."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)  # a number as text is refused, as OpenAI does


class ImageUrl(_Model):
    """Where an image is: an http(s) URL, or the image itself as a data URI."""

    url: str
    detail: Literal["auto", "high"] | None = None


class Part(_Model):
    """A part of a message: text or an image."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


def _image_url(value: Any) -> Any:
    """Takes the short form `"image_url": "https://..."`, which some clients send."""
    if isinstance(value, dict) and value.get("type") == "image_url" and isinstance(value.get("image_url"), str):
        return {**value, "image_url": {"url": value["image_url"]}}
    return value


def _parts(value: Any) -> Any:
    """Takes a text for a list of one part."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _texts(value: Any) -> Any:
    """Takes a text for a list of one."""
    return [value] if isinstance(value, str) else value


class Message(_Model):
    """One message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[Annotated[Part, BeforeValidator(_image_url)]] | None, BeforeValidator(_parts)] = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """All text of the message."""
        return "".join(part.text or "" for part in self.content or [])


class ResponseFormat(_Model):
    """The form of the answer; see `deepeyes.serving.trajectory`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class StreamOptions(_Model):
    """What a stream holds beside text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Extension(_Model):
    """What is asked of this server alone: `trace` for the boxes and crops of an answer."""

    model_config = ConfigDict(extra="forbid")

    trace: bool = False


class ChatRequest(_Model):
    """A request for a chat completion."""

    model_config = ConfigDict(extra="allow")

    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    n: int = Field(default=1, ge=1)
    stop: Annotated[list[str] | None, BeforeValidator(_texts)] = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    tools: list[dict[str, Any]] | None = None
    deepeyes: Extension = Extension()

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, value: Any) -> Any:
        """Takes a field of null for one that is not there, as OpenAI does."""
        return {name: field for name, field in value.items() if field is not None} if isinstance(value, dict) else value

    @property
    def budget(self) -> int | None:
        """The most tokens of the whole answer, all its turns together; None where the request names none."""
        named = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(named, default=None)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which an answer is cut."""
        return tuple(self.stop or ())

    @property
    def passed_on(self) -> dict[str, Any]:
        """The fields that the model's endpoint gets as they are."""
        extra = self.model_extra or {}
        return {
            **({"tools": self.tools} if self.tools else {}),
            **{name: value for name, value in extra.items() if name in PASSED_ON},
        }

    @property
    def tool_names(self) -> frozenset[str]:
        """Names of the tools that the client brings."""
        functions = (tool.get("function") for tool in self.tools or [])
        return frozenset(str(function.get("name")) for function in functions if isinstance(function, dict))

    @property
    def image_urls(self) -> list[str]:
        """Every image of the conversation, in order."""
        return [
            part.image_url.url
            for message in self.messages
            for part in message.content or []
            if part.type == "image_url" and part.image_url
        ]


def read_request(body: bytes, *, choices: int, images: int) -> ChatRequest:
    """Reads the body of a request.

    Args:
        body: JSON.
        choices: The largest `n`.
        images: The most images of a request.

    Raises:
        ApiError: It is no JSON, a field has a wrong value, or it asks for what is not served here.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from None
    for name, value in (request.model_extra or {}).items():
        if value is False or name in PASSED_ON or name in IGNORED:
            continue
        if name in REFUSED:
            raise refused(f"{name!r} is not served: {REFUSED[name]}", name, "unsupported_parameter")
        known = [*ChatRequest.model_fields, *PASSED_ON, *IGNORED]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise refused(f"Unrecognized request argument supplied: {name}{hint}", name, "unknown_parameter")
    _check_messages(request)
    if request.n > choices:
        raise refused(f"n is {request.n}; at most {choices} answers are given to one request", "n")
    if len(request.stops) > MAX_STOPS or "" in request.stops:
        raise refused(f"stop takes one to {MAX_STOPS} texts that are not empty", "stop")
    if request.stream_options and not request.stream:
        raise refused("stream_options is only allowed when stream is true", "stream_options")
    if (form := request.response_format) and form.type == "json_schema" and "schema" not in (form.json_schema or {}):
        raise refused("response_format of type 'json_schema' needs json_schema.schema", "response_format")
    if (count := len(request.image_urls)) > images:
        raise refused(f"{count} images; at most {images} are taken in one request", "messages", "too_many_images")
    return request


def _check_messages(request: ChatRequest) -> None:
    for at, message in enumerate(request.messages):
        where = f"messages[{at}].content"
        if message.content is None and not (message.role == "assistant" and message.tool_calls):
            raise refused("expected a text or a list of parts, found null", where)
        for place, part in enumerate(message.content or []):
            if (part.text if part.type == "text" else part.image_url) is None:
                raise refused(f"a part of type {part.type!r} needs {part.type!r}", f"{where}[{place}]")
            if part.type == "image_url" and message.role != "user":
                raise refused(f"images stand in user messages, not in one of role {message.role!r}", where)
    if (last := request.messages[-1].role) not in ("user", "tool"):
        raise refused(f"the last message is of role {last!r}; expected 'user' or 'tool'", "messages")


def _explain(error: ValidationError) -> ApiError:
    """Returns the first fault in OpenAI's form, with the place as `messages[0].content`."""
    fault = error.errors(include_url=False)[0]
    if fault["type"] == "json_invalid":
        return refused(f"We could not parse the JSON body of your request: {fault['msg']}")
    param = ""
    for key in fault["loc"]:
        param += f"[{key}]" if isinstance(key, int) else f".{key}" if param else key
    found = repr(fault["input"])
    found = found if len(found) <= 80 else f"{found[:80]}..."  # noqa: PLR2004 - a line
    code = "invalid_type" if fault["type"].endswith("_type") else "invalid_value"
    code = "missing_required_parameter" if fault["type"] == "missing" else code
    message = f"{param or 'the request'}: {fault['msg']}" + ("" if fault["type"] == "missing" else f", found {found}")
    return refused(message, param or None, code)
