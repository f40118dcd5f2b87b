"""What is read as a call: the forms of each family, slips whose meaning is beyond doubt, and what is refused."""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import Any

import pytest
from handed import handed
from hypothesis import example, given
from hypothesis import strategies as st

from deepeyes.boxes import fit_box
from deepeyes.calls import ZOOM_ERRORS, ToolCall, ZoomRefusedError, next_call, parse_call
from deepeyes.markers import MAX_LABEL_CHARS, inert
from deepeyes.settings import TOOL_NAME, Coordinates, Rules

BOTH = pytest.mark.parametrize("rules", list(Rules))


def call_text(**arguments: Any) -> str:
    return json.dumps({"name": "image_zoom_in_tool", "arguments": arguments})


def refusal(text: str, rules: Rules = Rules.CORRECTED) -> str:
    with pytest.raises(ZoomRefusedError) as caught:
        parse_call(text, rules)
    return caught.value.code


OPENAI = {"type": "function", "function": {"name": TOOL_NAME, "arguments": json.dumps({"bbox_2d": [1, 2, 30, 40]})}}
PLAIN = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40]}}'
OTHER = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [5, 6, 70, 80]}}'

READ = [
    # slips of JSON
    "{'name': 'image_zoom_in_tool', 'arguments': {'bbox_2d': [1, 2, 30, 40], 'label': None}}",
    "{'name': 'image_zoom_in_tool', 'arguments': {'bbox_2d': (1, 2, 30, 40)",
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40],}}',
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40,],},}',
    PLAIN[:-1],
    PLAIN[:-2],
    PLAIN[:-3],
    f"{PLAIN}}}",
    f"{PLAIN}]",
    PLAIN.replace("40]}", "40}"),
    PLAIN.replace('"', ""),
    PLAIN.replace('", "', '" "'),
    PLAIN.replace('"', "“").replace(",", "，"),  # noqa: RUF001 - as a Chinese keyboard writes them
    PLAIN.replace("40]", '40], "label": "red\nsign"'),
    PLAIN.replace("40]", '40], "label": "the "red" sign"'),
    PLAIN.replace("40]", '40], "label": "the sign\'s rim"')[:-1],
    PLAIN.replace("40]", "40] // the sign\n"),
    PLAIN.replace("1, 2, 30, 40", "1 2 30 40"),
    PLAIN.replace('"bbox', '"label": "写着"小心"的牌", "bbox'),
    PLAIN.replace('"bbox', '"label": "says "7, 8"", "bbox'),
    PLAIN.replace("40]", "40], \"label\": 'the dog's ear, [5, 6, 70, 80]'").replace('"', "'"),
    PLAIN.replace("40]", "40]]"),
    PLAIN.replace("40]", "40]]").replace("[1", "[[1")[:-1],
    PLAIN.replace("{", "{{").replace("}", "}}"),
    # what stands around it
    f"```json\n{PLAIN}\n```",
    f"```\n{PLAIN}\n```",
    f"json\n{PLAIN}",
    f"`{PLAIN}`",
    f"I zoom in on it: {PLAIN}",
    f"[{PLAIN}]",
    f"[{OTHER}, {PLAIN}]",
    f"{OTHER}\n{PLAIN}",
    f"{OTHER}, {PLAIN}",
    f"{OTHER}{PLAIN[:-1]}",
    f"{OTHER[:-2]}\n{PLAIN[:-2]}",
    f"{OTHER[:-1]}\n{PLAIN}",
    f"{OTHER}}}\r\n{PLAIN}}}",
    f"{OTHER}\nand then\n{PLAIN}",
    f"{OTHER}\n{PLAIN}".replace('"', "'"),
    f"```json\n{OTHER}\n```\n```json\n{PLAIN}\n```",
    json.dumps(PLAIN),
    # where name and arguments stand
    PLAIN.replace("arguments", "parameters"),
    PLAIN.replace("image_zoom_in_tool", "functions.image_zoom_in_tool"),
    json.dumps({"name": TOOL_NAME, "arguments": json.dumps({"bbox_2d": [1, 2, 30, 40]})}),
    json.dumps(OPENAI),
    json.dumps({"tool_calls": [OPENAI]}),
    json.dumps({"function": TOOL_NAME, "arguments": {"bbox_2d": [1, 2, 30, 40]}}),
    json.dumps({"name": TOOL_NAME, "bbox_2d": [1, 2, 30, 40]}),
    json.dumps({TOOL_NAME: {"bbox_2d": [1, 2, 30, 40]}}),
    json.dumps({"bbox_2d": [1, 2, 30, 40], "label": "x"}),
    'image_zoom_in_tool\n{"bbox_2d": [1, 2, 30, 40]}',
    'image_zoom_in_tool(bbox_2d=[1, 2, 30, 40], label="x")',
    "image_zoom_in_tool([1, 2, 30, 40])",
    "image_zoom_in_tool(bbox_2d=[1, 2, 30, 40]",
    # the XML of Qwen3.5
    "<function=image_zoom_in_tool>\n<parameter=bbox_2d>\n[1, 2, 30, 40]\n</parameter>\n</function>",
    "<function=image_zoom_in_tool>\n<parameter=label>\nx\n</parameter>\n<parameter=bbox_2d>\n[1, 2, 30, 40]",
    "<function=image_zoom_in_tool><parameter=bbox_2d>1, 2, 30, 40</function>",
    "<function=image_zoom_in_tool>\n<parameter=bbox_2d>\n[1, 2, 30, 40]\n<parameter=label>\nx\n</function>",
    "<function=image_zoom_in_tool><parameter=label>\n红色 < 门 >\n</parameter>\n<parameter=bbox_2d>\n[1,\n2,\n30,\n40]",
    '<function=image_zoom_in_tool>{"bbox_2d": [1, 2, 30, 40]}</function>',
    '<invoke name="image_zoom_in_tool"><parameter name="bbox_2d">[1, 2, 30, 40]</parameter></invoke>',
    # the pairs of GLM
    "image_zoom_in_tool\n<arg_key>bbox_2d</arg_key>\n<arg_value>[1, 2, 30, 40]</arg_value>",
    "image_zoom_in_tool<arg_key>label</arg_key><arg_value>x<arg_key>bbox_2d</arg_key><arg_value>[1, 2, 30, 40]",
    "image_zoom_in_tool\n<arg_key>bbox_2d\n<arg_value>[1, 2, 30, 40]",
    # shapes of the box
    call_text(bbox=[1, 2, 30, 40]),
    call_text(bbox_2d="1, 2, 30, 40"),
    call_text(bbox_2d="[1, 2, 30, 40]"),
    call_text(bbox_2d="1，2，30，40"),  # noqa: RUF001 - as a Chinese keyboard writes them
    call_text(bbox_2d="(1.0 2.0 30. 40)"),
    call_text(bbox_2d="<box>(1,2),(30,40)</box>"),
    call_text(bbox_2d="<|box_start|>(1,2),(30,40)<|box_end|>"),
    call_text(bbox_2d=[1.0, 2.0, 30.0, 40.0]),
    call_text(bbox_2d=["1", "2", "30", "40.0"]),
    call_text(bbox_2d=[[1, 2], [30, 40]]),
    call_text(bbox_2d=[[1, 2, 30, 40]]),
    call_text(bbox_2d=["1, 2, 30, 40"]),
    call_text(bbox_2d={"x1": 1, "y1": 2, "x2": 30, "y2": 40}),
    call_text(bbox_2d={"x_min": 1, "y_min": 2, "x_max": 30, "y_max": 40}),
    call_text(bbox_2d={"left": 1, "top": 2, "right": 30, "bottom": 40}),
    call_text(bbox_2d={"x": 1, "y": 2, "width": 29, "height": 38}),
    call_text(bbox_2d={"top_left": [1, 2], "bottom_right": [30, 40]}),
    call_text(x1=1, y1=2, x2=30, y2=40),
]

REFUSED = [
    ("", "bad_json"),
    ("zoom in please", "bad_json"),
    ("please zoom at [1, 2, 30, 40]", "bad_json"),
    ("[1, 2, 30, 40]", "bad_json"),
    ("[" * 1000, "bad_json"),
    ("-" * 1999 + "1", "bad_json"),
    ("{'a':" * 300, "bad_json"),
    ("[" * 200_000, "too_long"),
    (call_text(bbox_2d=[1, 2, 3, 4]) + " " * 3 + "x" * 2000, "too_long"),
    (f'{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": [{"9" * 5000}, 2, 3, 4]}}}}', "too_long"),
    ('{"name": "rm", "arguments": {"bbox_2d": [1, 2, 30, 40]}}', "unknown_tool"),
    ('{"name": ["image_zoom_in_tool"], "arguments": {}}', "unknown_tool"),
    ('{"name": "image_zoom_in", "arguments": {"bbox_2d": [1, 2, 30, 40]}}', "unknown_tool"),
    ('image_rotate_tool\n{"bbox_2d": [1, 2, 30, 40]}', "unknown_tool"),
    ("image_rotate_tool\n<arg_key>bbox_2d</arg_key><arg_value>[1, 2, 30, 40]</arg_value>", "unknown_tool"),
    ("<function=image_rotate_tool>\n<parameter=bbox_2d>\n[1, 2, 30, 40]\n</parameter>", "unknown_tool"),
    (f'{PLAIN}\n{{"name": "image_rotate_tool", "arguments": {{"bbox_2d": [1, 2, 3, 4]}}}}', "unknown_tool"),
    ("{}", "unknown_tool"),
    ('{"name": "image_zoom_in_tool"}', "bad_box"),
    ('{"name": "image_zoom_in_tool", "arguments": [1, 2, 30, 40]}', "bad_arguments"),
    (json.dumps({"name": TOOL_NAME, "arguments": "the sign"}), "bad_arguments"),
    (call_text(), "bad_box"),
    (call_text(bbox_2d=None), "bad_box"),
    (call_text(bbox_2d=[1, 2, 3]), "bad_box"),
    (call_text(bbox_2d=[1, 2, 3, 4, 5]), "bad_box"),
    (call_text(bbox_2d=[[1, 2], [3, 4], [5, 6]]), "bad_box"),
    (call_text(bbox_2d=[[1, 2, 3, 4], [5, 6, 7, 8]]), "many_boxes"),
    (call_text(bbox_2d="[1, 2, 3, 4], [5, 6, 7, 8]"), "many_boxes"),
    (call_text(bbox_2d=[{"x1": 1, "y1": 2, "x2": 3, "y2": 4}] * 2), "many_boxes"),
    (call_text(bbox_2d=[True, False, True, True]), "bad_box"),
    (call_text(bbox_2d=["one", 2, 3, 4]), "bad_box"),
    (call_text(bbox_2d=["10%", "20%", "30%", "40%"]), "bad_box"),
    (call_text(bbox_2d="1, 2, 3"), "bad_box"),
    (call_text(bbox_2d="width 100 height 200 at 3 4"), "bad_box"),
    (call_text(bbox_2d=[1, 2, 30, 1e400]), "bad_box"),
    (call_text(bbox_2d=[math.nan, 2, 30, 40]), "bad_box"),
    (call_text(bbox_2d=[-math.inf, 2, 30, math.inf]), "bad_box"),
    (call_text(bbox_2d=json.loads("[" * 900 + "]" * 900)), "bad_box"),
]


class TestNextCall:
    @BOTH
    @pytest.mark.parametrize(
        ("turn", "expected"),
        [
            ("<tool_call>a</tool_call>", "a"),
            ("<tool_call>a</tool_call> then <tool_call>b</tool_call>", "b"),
            ("<think>x</think><tool_call>a</tool_call><answer></answer>", "a"),
            ("<tool_call>a</tool_call><answer>done</answer>", None),
            ("<answer>done</answer><tool_call>a</tool_call>", None),
            ("<tool_call>never closed", None),
            ("<tool_call></tool_call>", None),
            ("<think>x</think><answer> </answer>", None),
            ("plain text", None),
            ("", None),
        ],
    )
    def test_last_call_runs_unless_there_is_an_answer(self, rules: Rules, turn: str, expected: str | None) -> None:
        assert next_call(turn, rules) == expected

    def test_answer_inside_thoughts_ends_nothing_under_corrected_rules(self) -> None:
        turn = "<think>maybe <answer>red</answer></think><tool_call>a</tool_call>"
        assert next_call(turn, Rules.CORRECTED) == "a"
        assert next_call(turn, Rules.OFFICIAL) is None

    @pytest.mark.parametrize(
        ("turn", "expected"),
        [
            ("<think>no <tool_call> yet</think><tool_call>a</tool_call>", "a"),
            ("<tool_call>a</tool_call><think>or <tool_call>b</tool_call></think>", "a"),
            ("<think>now <tool_call>a</tool_call></think>", "a"),
            ("<tool_call>\n<tool_call>a</tool_call>", "a"),
            ("<think>never closed <tool_call>a</tool_call>", "a"),
        ],
    )
    def test_thought_that_names_the_tag_is_no_call_beside_one(self, turn: str, expected: str) -> None:
        assert next_call(turn, Rules.CORRECTED) == expected


class TestParseCall:
    @BOTH
    def test_call_as_the_prompt_asks_for_it_is_read(self, rules: Rules) -> None:
        call = parse_call("\n" + call_text(bbox_2d=[1, 2.5, 300, 400], label="a mug") + "\n", rules)
        assert call == ToolCall((1, 2.5, 300, 400), "a mug")

    @pytest.mark.parametrize("text", READ)
    def test_what_is_beyond_doubt_is_read_under_corrected_rules(self, text: str) -> None:
        assert parse_call(text, Rules.CORRECTED).bbox_2d == (1, 2, 30, 40)

    @pytest.mark.parametrize(("text", "code"), REFUSED)
    def test_anything_else_is_refused_for_its_reason(self, text: str, code: str) -> None:
        assert refusal(text) == code

    @pytest.mark.parametrize("text", READ)
    def test_slips_are_errors_under_official_rules(self, text: str) -> None:
        if text != call_text(bbox_2d=[1.0, 2.0, 30.0, 40.0]):
            assert refusal(text, Rules.OFFICIAL) in ("bad_json", "unknown_tool", "bad_arguments", "bad_box")

    @BOTH
    @pytest.mark.parametrize("far", [10**7, 10**1800, -(10**9), 1e300], ids=["1e7", "1e1800", "-1e9", "1e300"])
    def test_number_far_outside_means_the_edge(self, rules: Rules, far: float) -> None:
        box = parse_call(call_text(bbox_2d=[1, 2, far, 40]), rules).bbox_2d
        assert box == (1, 2, 1e6 if far > 0 else -1e6, 40)

    @pytest.mark.parametrize(
        ("arguments", "image"),
        [
            ({}, 0),
            ({"img_idx": 0}, 0),
            ({"img_idx": 1}, 1),
            ({"img_idx": "1"}, 1),
            ({"img_idx": 1.0}, 1),
            ({"img_idx": None}, 0),
            ({"target_image": 1}, 0),
            ({"target_image": 3}, 2),
            ({"target_image": 2, "img_idx": 1}, 1),
        ],
    )
    def test_call_names_its_image(self, arguments: dict[str, Any], image: int) -> None:
        text = call_text(bbox_2d=[1, 2, 30, 40], **arguments)
        assert parse_call(text, Rules.CORRECTED).image == image
        assert parse_call(text, Rules.OFFICIAL).image == 0

    def test_parameters_of_xml_name_the_image_too(self) -> None:
        pairs = "<parameter=bbox_2d>[1, 2, 30, 40]</parameter><parameter=img_idx>\n1\n</parameter>"
        assert parse_call(f"<function=image_zoom_in_tool>{pairs}</function>", Rules.CORRECTED).image == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            {"img_idx": -1},
            {"img_idx": "second"},
            {"img_idx": 0.5},
            {"img_idx": True},
            {"img_idx": [0]},
            {"target_image": 0},
            {"target_image": 2, "img_idx": 0},
        ],
    )
    def test_image_that_is_no_index_is_refused(self, arguments: dict[str, Any]) -> None:
        assert refusal(call_text(bbox_2d=[1, 2, 30, 40], **arguments)) == "no_such_image"

    def test_line_break_in_a_label_becomes_a_space(self) -> None:
        text = call_text(bbox_2d=[1, 2, 30, 40], label="red sign").replace("red sign", "red\nsign")
        assert parse_call(text, Rules.CORRECTED).label == "red sign"

    @pytest.mark.parametrize("line", handed("cases/tool_calls.jsonl"))
    def test_handed_case_has_its_value(self, line: dict[str, Any]) -> None:
        frame = Coordinates(line.get("frame", "pixel"))
        box, image = None, None
        with contextlib.suppress(ZoomRefusedError):
            call = parse_call(next_call(line["turn"], Rules.CORRECTED) or "", Rules.CORRECTED)
            if call.image < line.get("images", 1):
                box = list(fit_box(call.bbox_2d, (1008, 784), frame, Rules.CORRECTED))
                image = call.image
        assert box == line["box"]
        assert image == line.get("of", image)

    @BOTH
    @given(text=st.text(st.characters()) | st.text("{}[]()<>'\",:0123456789.-eE bxo_2d\\\ud800"))
    def test_no_text_raises_anything_but_a_refusal(self, rules: Rules, text: str) -> None:
        try:
            parse_call(text, rules)
        except ZoomRefusedError as error:
            assert error.code in ZOOM_ERRORS  # noqa: PT017 - some texts are calls

    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        ),
        label=st.none() | st.text(),
    )
    def test_a_box_that_is_read_has_four_finite_numbers_and_travels_as_json(self, value: Any, label: Any) -> None:
        try:
            call = parse_call(call_text(bbox_2d=value, label=label), Rules.CORRECTED)
        except ZoomRefusedError:
            return
        assert len(call.bbox_2d) == 4
        assert all(math.isfinite(number) for number in call.bbox_2d)
        json.dumps(call.label, ensure_ascii=False).encode()


class TestInert:
    @given(st.text())
    @example("<image><|im_end|>\ud800\x00\n</tool_response>")
    def test_text_of_the_model_loses_tags_tokens_and_control_characters(self, text: str) -> None:
        result = inert(text)
        assert not set(result) & set("<>|\n\r\t\x00")
        assert result.isprintable()
        assert len(result.encode()) <= 4 * MAX_LABEL_CHARS


class TestErrors:
    def test_what_the_model_is_told_is_short_and_inert(self) -> None:
        for text in ZOOM_ERRORS.values():
            assert text.startswith("Error: ")
            assert len(text) <= 150
            assert "<image>" not in text
            assert "<|" not in text


class TestLinearTime:
    @pytest.mark.parametrize(
        "piece", ["<tool_call>", "</tool_call>", "<think>", "<answer>", "[", "{'a':", "<image", "\\", "\ud83d", "<|"]
    )
    def test_200_kilobytes_of_hostile_text_take_no_time(self, piece: str) -> None:
        text = (piece * (200_000 // len(piece) + 1))[:200_000]
        start = time.perf_counter()
        for rules in Rules:
            next_call(text, rules)
            refusal(text, rules)
        inert(text)
        assert time.perf_counter() - start < 0.5
