"""The forms in which models write a call: each becomes a name and its arguments (pure).

* a JSON object, as the prompt of DeepEyes asks for it and as Qwen2.5-VL, Qwen3-VL and MiMo-VL write it:
  `{"name": ..., "arguments": {...}}`, also with `parameters`, arguments as JSON text, the wrapper of OpenAI's
  `{"type": "function", "function": {...}}`, in a list, in a code fence, or several in a row: the last one counts;
* the XML of Qwen3.5: `<function=NAME><parameter=KEY>VALUE</parameter></function>`;
* the pairs of GLM: `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`;
* the name before a JSON object, or before arguments in parentheses.

Closing braces, brackets and tags may be missing.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from typing import Any, NamedTuple

import json_repair

from deepeyes.settings import TOOL_NAME

MAX_BRACKETS = 40  # a real call has four; more make json_repair slow
FULL_WIDTH = str.maketrans("，：；［］｛｝（）＂“”", ',:;[]{}()"""')  # noqa: RUF001 - what they stand for
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])")
NAME_KEYS = ("name", "tool_name", "function_name", "tool", "function", "action")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "params", "kwargs", "input", "action_input")
BOX_KEYS = ("bbox_2d", "bbox", "bbox2d", "box", "bounding_box")

_XML_CALL = re.compile(r"<(?:function|invoke|tool)(?:\s*=\s*|\s+name\s*=\s*)[\"']?([\w.]*)[\"']?\s*>?")
_XML_PARAMETER = re.compile(
    r"<parameter(?:\s*=\s*|\s+name\s*=\s*)[\"']?(\w+)[\"']?\s*>(.*?)"
    r"(?=</parameter|<parameter|</function|</invoke|</tool\b|\Z)",
    re.DOTALL,
)
_GLM_NAME = re.compile(r"(?:^|</arg_value>)\s*([A-Za-z_][\w.]*)\s*(?=<arg_key>)")
_GLM_PAIR = re.compile(
    r"<arg_key>\s*(\w+)\s*(?:</arg_key>)?\s*<arg_value>(.*?)(?=</arg_value>|<arg_key>|\Z)", re.DOTALL
)
_FENCE = re.compile(r"^`{1,3}[ \t]*(?:\w+(?=\s))?|`{1,3}$")
_NAMED_OBJECT = re.compile(r"\{\s*[\"'“]?name[\"'”]?\s*[:：]")  # noqa: RUF001 - as a Chinese keyboard writes them
_LEADING_NAME = re.compile(r"([A-Za-z_][\w.]*)\s*(?=[({\[\n:])[:\s]*")


class Form(NamedTuple):
    """A call as it was written: the tool's name, None where none is given, and its arguments in any shape."""

    name: str | None
    arguments: Any


def read_form(text: str) -> Form | None:
    """Reads the last call in a text, in whatever form; None where there is none."""
    text = _FENCE.sub("", text.strip()).strip()
    if _XML_CALL.search(text):
        return _read_xml(text)
    if "<arg_key>" in text:
        return _read_pairs(text)
    named = _LEADING_NAME.match(text)
    if named and named[1].lower() in ("json", "python", "tool_call"):  # the language of a fence
        text, named = text[named.end() :], None
    if named:
        return _read_named(named[1], text[named.end() :])
    value = _exact(text)
    if value is None:
        starts = [match.start() for match in _NAMED_OBJECT.finditer(text)]
        value = load(text[starts[-1] :] if len(starts) > 1 else text)  # mended together, two calls become one
    if value is None:
        return None
    form = _unwrap(value)
    if form is not None and form.name is None and not text.startswith(("{", "[")):
        return None  # prose around something that does not say what it is
    return form


def load(text: str) -> Any:
    """Reads JSON, or what was meant to be; None where that is not beyond doubt.

    Several values in a row become a list. What `json_repair` mends counts only if all of its numbers stand in the
    text.
    """
    value = _exact(text)
    if value is not None:
        return value
    if sum(map(text.count, "{[(")) > MAX_BRACKETS:
        return None
    text = text.translate(FULL_WIDTH)
    with contextlib.suppress(ValueError, TypeError, RecursionError, MemoryError):
        value = json_repair.loads(text)
        written = {float(number) for number in NUMBER.findall(text)}
        if value not in ("", None) and all(float(number) in written for number in _numbers(value)):
            return value
    return None


def _exact(text: str) -> Any:
    """Reads JSON values or a Python literal without a slip, else None."""
    for reader in (_strict, ast.literal_eval, _sequence):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return reader(text)
    return None


def _strict(text: str) -> Any:
    return json.loads(text, strict=False)  # a line break in a label is no doubt


def _sequence(text: str) -> list[Any]:
    """Reads values in a row, with nothing but spaces, commas and semicolons between them."""
    decoder, values, place = json.JSONDecoder(strict=False), [], 0
    while place < len(text):
        value, place = decoder.raw_decode(text, place)
        values.append(value)
        while place < len(text) and (text[place].isspace() or text[place] in ",;"):
            place += 1
    return values


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def _unwrap(value: Any) -> Form | None:
    """Finds the name and the arguments in a JSON value."""
    if isinstance(value, str):
        value = load(value) if value.lstrip().startswith(("{", "[")) else None
    if isinstance(value, (list, tuple)):
        calls = [item for item in value if isinstance(item, (dict, list))]
        return _unwrap(calls[-1]) if calls else None
    if not isinstance(value, dict):
        return None
    for wrapper in ("function", "tool_call", "tool_calls", "function_call"):
        if isinstance(value.get(wrapper), (dict, list)):
            return _unwrap(value[wrapper])
    if len(value) == 1 and isinstance(value.get(TOOL_NAME), dict):
        return Form(TOOL_NAME, value[TOOL_NAME])
    names = [value[key] for key in NAME_KEYS if key in value]
    name = _plain_name(names[0]) if names else None
    given = [value[key] for key in ARGUMENT_KEYS if key in value]
    arguments = given[0] if given else value
    if name is None and not names and any(key in value for key in BOX_KEYS):
        name = TOOL_NAME  # the only tool there is, with its own argument
    return Form(name, _decoded(arguments))


def _plain_name(name: Any) -> str:
    return name.strip().removeprefix("functions.").lower() if isinstance(name, str) else ""


def _decoded(arguments: Any) -> Any:
    """Reads arguments that came as JSON text, even twice wrapped."""
    for _ in range(2):
        if isinstance(arguments, str):
            arguments = load(arguments)
    return arguments


def _read_xml(text: str) -> Form:
    start = list(_XML_CALL.finditer(text))[-1]
    body = text[start.end() :]
    arguments: Any = {match[1]: match[2].strip() for match in _XML_PARAMETER.finditer(body)}
    if not arguments:
        arguments = _decoded(re.sub(r"</\w+>?", "", body).strip())
    return Form(_plain_name(start[1]), arguments)


def _read_pairs(text: str) -> Form:
    names = list(_GLM_NAME.finditer(text))
    body = text[names[-1].start() :] if names else text
    return Form(
        _plain_name(names[-1][1]) if names else None,
        {match[1]: match[2].strip() for match in _GLM_PAIR.finditer(body)},
    )


def _read_named(name: str, rest: str) -> Form | None:
    """Reads `NAME {...}`, `NAME(key=value)` and `NAME(box)`."""
    if rest.startswith("("):
        for closing in ("", ")", "])"):
            with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                call = ast.parse(f"f{rest}{closing}".strip(), mode="eval").body
                if isinstance(call, ast.Call) and len(call.args) <= 1:
                    keywords = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
                    positional = [ast.literal_eval(value) for value in call.args]
                    if positional and not keywords and isinstance(positional[0], dict):
                        return Form(_plain_name(name), positional[0])
                    return Form(_plain_name(name), dict.fromkeys(["bbox_2d"][: len(call.args)], *positional) | keywords)
        return None
    value = _decoded(rest)
    if isinstance(value, dict):
        inner = [value[key] for key in ARGUMENT_KEYS if isinstance(value.get(key), dict)]
        return Form(_plain_name(name), inner[0] if inner else value)
    return None
