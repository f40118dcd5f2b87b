"""The zoom: what is read as a call, where a box lies, and that view and crop are the model's own pixels."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from qwen_vl_utils import vision_process
from swift.template import get_template
from swift_fakes import load_processor

from deepeyes.boxes import MAX_ASPECT, MIN_SIDE, Box, fit_box
from deepeyes.calls import ZOOM_ERRORS, ToolCall, ZoomRefusedError, next_call, parse_call
from deepeyes.errors import SettingsError
from deepeyes.images.encoding import content_key, image_bytes, to_data_uri
from deepeyes.images.processor import ImageProcessor, View
from deepeyes.images.store import ImageStore
from deepeyes.markers import MAX_LABEL_CHARS, inert
from deepeyes.settings import Coordinates, CropSource, Rules, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOTH = pytest.mark.parametrize("rules", list(Rules))


def call_text(**arguments: Any) -> str:
    return json.dumps({"name": "image_zoom_in_tool", "arguments": arguments})


def refusal(text: str, rules: Rules = Rules.CORRECTED) -> str:
    with pytest.raises(ZoomRefusedError) as caught:
        parse_call(text, rules)
    return caught.value.code


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


class TestParseCall:
    @BOTH
    def test_call_as_the_prompt_asks_for_it_is_read(self, rules: Rules) -> None:
        call = parse_call("\n" + call_text(bbox_2d=[1, 2.5, 300, 400], label="a mug") + "\n", rules)
        assert call == ToolCall((1, 2.5, 300, 400), "a mug")

    @pytest.mark.parametrize(
        "text",
        [
            "{'name': 'image_zoom_in_tool', 'arguments': {'bbox_2d': [1, 2, 30, 40]}}",
            '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40],}}',
            '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40]}',
            '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40]',
            "{'name': 'image_zoom_in_tool', 'arguments': {'bbox_2d': (1, 2, 30, 40)",
            call_text(bbox=[1, 2, 30, 40]),
            call_text(bbox_2d="1, 2, 30, 40"),
            call_text(bbox_2d="[1, 2, 30, 40]"),
            call_text(bbox_2d="(1.0 2.0 30. 40)"),
            call_text(bbox_2d=[1.0, 2.0, 30.0, 40.0]),
        ],
    )
    def test_slip_whose_meaning_is_plain_is_read_under_corrected_rules(self, text: str) -> None:
        assert parse_call(text, Rules.CORRECTED).bbox_2d == (1, 2, 30, 40)

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("", "bad_json"),
            ("zoom in please", "bad_json"),
            ("[1, 2, 30, 40]", "bad_json"),
            ('{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40', "bad_json"),
            ("[" * 1000, "bad_json"),
            ("-" * 1999 + "1", "bad_json"),
            ("{'a':" * 300, "bad_json"),
            ("[" * 200_000, "too_long"),
            (call_text(bbox_2d=[1, 2, 3, 4]) + " " * 3 + "x" * 2000, "too_long"),
            ('{"name": "rm", "arguments": {"bbox_2d": [1, 2, 30, 40]}}', "unknown_tool"),
            ('{"name": ["image_zoom_in_tool"], "arguments": {}}', "unknown_tool"),
            ("{}", "unknown_tool"),
            ('{"name": "image_zoom_in_tool"}', "bad_box"),
            ('{"name": "image_zoom_in_tool", "arguments": [1, 2, 30, 40]}', "bad_box"),
            (call_text(), "bad_box"),
            (call_text(bbox_2d=None), "bad_box"),
            (call_text(bbox_2d=[1, 2, 3]), "bad_box"),
            (call_text(bbox_2d=[1, 2, 3, 4, 5]), "bad_box"),
            (call_text(bbox_2d=[[1, 2], [3, 4]]), "bad_box"),
            (call_text(bbox_2d=[True, False, True, True]), "bad_box"),
            (call_text(bbox_2d=["1", "2", "30", "40"]), "bad_box"),
            (call_text(bbox_2d={"x1": 1, "y1": 2, "x2": 30, "y2": 40}), "bad_box"),
            (call_text(bbox_2d="1, 2, 3"), "bad_box"),
            (call_text(bbox_2d="1e5, 2, 30, 40"), "bad_box"),
            (call_text(bbox_2d=[1, 2, 30, 1e400]), "bad_box"),
            (call_text(bbox_2d=[1, 2, 30, 10**7]), "bad_box"),
            (call_text(bbox_2d=[1, 2, 30, 10**1800]), "bad_box"),
            (call_text(bbox_2d=[math.nan, 2, 30, 40]), "bad_box"),
            (call_text(bbox_2d=[-math.inf, 2, 30, math.inf]), "bad_box"),
            (f'{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": [{"9" * 5000}, 2, 3, 4]}}}}', "too_long"),
        ],
    )
    def test_anything_else_is_refused_for_its_reason(self, text: str, code: str) -> None:
        assert refusal(text) == code

    def test_slips_are_errors_under_official_rules(self) -> None:
        assert refusal("{'name': 'image_zoom_in_tool', 'arguments': {}}", Rules.OFFICIAL) == "bad_json"
        assert refusal(call_text(bbox=[1, 2, 30, 40]), Rules.OFFICIAL) == "bad_box"
        assert refusal(call_text(bbox_2d="1, 2, 30, 40"), Rules.OFFICIAL) == "bad_box"

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


SIDES = st.integers(28, 4000)
NUMBERS = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6)


class TestFitBox:
    @pytest.mark.parametrize(
        ("bbox", "expected"),
        [
            ((100, 50, 300, 250), Box(100, 50, 300, 250)),
            ((100.4, 50.6, 300.4, 250.6), Box(100, 51, 300, 251)),
            ((-50, -50, 9999, 9999), Box(0, 0, 644, 476)),
            ((100, 100, 110, 110), Box(91, 91, 119, 119)),
            ((0, 0, 1, 1), Box(0, 0, 28, 28)),
            ((640, 470, 644, 476), Box(616, 448, 644, 476)),
            ((100, 0, 110, 476), Box(91, 0, 119, 476)),
        ],
    )
    def test_corrected_rules_round_clip_and_grow(self, bbox: tuple[float, ...], expected: Box) -> None:
        assert fit_box(bbox, 644, 476, Coordinates.PIXEL, Rules.CORRECTED) == expected  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("bbox", "rules", "code"),
        [
            ((300, 50, 100, 250), Rules.CORRECTED, "empty_box"),
            ((100, 50, 100, 250), Rules.CORRECTED, "empty_box"),
            ((700, 50, 900, 250), Rules.CORRECTED, "empty_box"),
            ((-90, -90, -10, -10), Rules.CORRECTED, "empty_box"),
            ((0, 0, 3640, 29), Rules.CORRECTED, "thin_box"),
            ((0, 0, 3640, 31), Rules.OFFICIAL, "thin_box"),
            ((100, 100, 130, 300), Rules.OFFICIAL, "small_box"),
            ((100, 100, 300, 128), Rules.OFFICIAL, "small_box"),
        ],
    )
    def test_box_without_a_crop_is_refused(self, bbox: tuple[float, ...], rules: Rules, code: str) -> None:
        with pytest.raises(ZoomRefusedError) as caught:
            fit_box(bbox, 3640, 476, Coordinates.PIXEL, rules) if "thin" in code else fit_box(
                bbox, 644, 476, Coordinates.PIXEL, rules
            )
        assert caught.value.code == code

    def test_official_rules_take_a_side_of_31(self) -> None:
        box = fit_box((100, 100, 131, 300), 644, 476, Coordinates.PIXEL, Rules.OFFICIAL)
        assert box == Box(100, 100, 131, 300)

    @given(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), SIDES, SIDES, st.sampled_from(Rules))
    def test_box_lies_inside_the_image_or_is_refused(
        self, bbox: tuple[float, float, float, float], width: int, height: int, rules: Rules
    ) -> None:
        try:
            box = fit_box(bbox, width, height, Coordinates.PIXEL, rules)
        except ZoomRefusedError:
            return
        assert 0 <= box.x1 < box.x2 <= width
        assert 0 <= box.y1 < box.y2 <= height
        assert all(type(number) is int for number in box)
        if rules is Rules.CORRECTED:
            assert min(box.x2 - box.x1, box.y2 - box.y1) >= MIN_SIDE

    @given(SIDES, SIDES, st.data())
    def test_norm1000_means_the_same_part_of_the_image(self, width: int, height: int, data: st.DataObject) -> None:
        x1, x2 = sorted(data.draw(st.tuples(st.integers(0, 1000), st.integers(0, 1000))))
        y1, y2 = sorted(data.draw(st.tuples(st.integers(0, 1000), st.integers(0, 1000))))
        assume(x1 < x2 and y1 < y2)
        scaled = (x1 * width / 1000, y1 * height / 1000, x2 * width / 1000, y2 * height / 1000)

        def fit(bbox: tuple[float, float, float, float], frame: Coordinates) -> Box | str:
            try:
                return fit_box(bbox, width, height, frame, Rules.CORRECTED)
            except ZoomRefusedError as error:
                return error.code

        assert fit((x1, y1, x2, y2), Coordinates.NORM1000) == fit(scaled, Coordinates.PIXEL)


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


# ---------------------------------------------------------------------------------------------------------
# Pixels
# ---------------------------------------------------------------------------------------------------------

FAMILIES = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16}  # patch size


@pytest.fixture(scope="session")
def templates(tiny_model: Path) -> dict[str, Any]:
    """The real templates of swift, with an image processor each and a tokenizer that they share."""
    result = {}
    for family, patch_size in FAMILIES.items():
        processor = copy.copy(load_processor(tiny_model))
        processor.image_processor = copy.deepcopy(processor.image_processor)
        processor.image_processor.patch_size = patch_size
        result[family] = get_template(processor, template_type=family)
    return result


@pytest.fixture
def template(templates: dict[str, Any]) -> Iterator[Any]:
    """The Qwen2.5-VL template, with its `max_pixels` put back."""
    template = templates["qwen2_5_vl"]
    yield template
    template.max_pixels = None


def encoded(template: Any, mode: str, image: Any, **chat_template_kwargs: Any) -> dict[str, Any]:
    """Has the template encode a prompt with one image, as an engine or the trainer does."""
    template.set_mode(mode)
    messages: list[dict[str, Any]] = [{"role": "user", "content": "<image>What?"}]
    if mode == "train":
        messages.append({"role": "assistant", "content": "This."})
    inputs = {"messages": messages, "images": [image], "chat_template_kwargs": chat_template_kwargs}
    return template.encode(inputs)  # type: ignore[no-any-return]


def seen(template: Any, image: Any, **chat_template_kwargs: Any) -> Image.Image:
    """Returns what the template hands to vLLM for an image."""
    return encoded(template, "vllm", image, **chat_template_kwargs)["images"][0]  # type: ignore[no-any-return]


def trained(template: Any, image: Any, **chat_template_kwargs: Any) -> Any:
    """Returns the pixel values that the trainer's model gets for an image."""
    return encoded(template, "train", image, **chat_template_kwargs)["pixel_values"]


def same(left: Image.Image, right: Image.Image) -> bool:
    return left.size == right.size and left.mode == right.mode == "RGB" and left.tobytes() == right.tobytes()


def processor_of(template: Any, **changes: Any) -> ImageProcessor:
    return ImageProcessor(template, None, dataclasses.replace(Settings(), **changes))


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture with detail at every scale, in which no two places are alike."""
    noise = [Image.effect_noise((width, height), 60 + 20 * band) for band in range(3)]
    image = Image.merge("RGB", noise)
    draw = ImageDraw.Draw(image)
    for place in range(0, max(width, height), 17):
        draw.line((place, 0, width - place, height), fill=(place % 256, 255 - place % 256, 90), width=2)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        return image
    if mode == "I;16":
        return Image.linear_gradient("L").resize(image.size).convert("I").point(lambda value: value * 200).convert(mode)
    return image.convert(mode)


def as_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return as_file(picture(210, 150), "JPEG", exif=exif)


FILES = {
    "jpeg": lambda: as_file(picture(250, 190), "JPEG"),
    "jpeg_large": lambda: as_file(picture(560, 420), "JPEG"),
    "jpeg_grey": lambda: as_file(picture(200, 150, "L"), "JPEG"),
    "jpeg_cmyk": lambda: as_file(picture(200, 150, "CMYK"), "JPEG"),
    "jpeg_exif_rotated": rotated_by_exif,
    "png": lambda: as_file(picture(233, 122), "PNG"),
    "png_rgba": lambda: as_file(picture(200, 150, "RGBA"), "PNG"),
    "png_grey_alpha": lambda: as_file(picture(200, 150, "LA"), "PNG"),
    "png_palette": lambda: as_file(picture(200, 150, "P"), "PNG"),
    "png_palette_transparent": lambda: as_file(picture(200, 150, "P"), "PNG", transparency=3),
    "png_16_bit": lambda: as_file(picture(200, 150, "I;16"), "PNG"),
    "png_1_bit": lambda: as_file(picture(200, 150, "1"), "PNG"),
    "webp": lambda: as_file(picture(200, 150), "WEBP"),
    "gif": lambda: as_file(picture(200, 300, "P"), "GIF"),
    "tiny": lambda: as_file(picture(13, 9), "PNG"),
    "one_pixel": lambda: as_file(picture(1, 1), "PNG"),
    "wide": lambda: as_file(picture(1500, 20), "JPEG"),
    "high": lambda: as_file(picture(20, 1500), "JPEG"),
}


def check_view(template: Any, processor: ImageProcessor, source: Any, **chat_template_kwargs: Any) -> View:
    """Holds a view against the real template: as vLLM sees it, and again by all that may stand for the image."""
    view = processor.view(source, chat_template_kwargs).result()
    assert same(view.image, seen(template, source, **chat_template_kwargs))
    for stand_in in (view.feed, view.payload):
        assert same(view.image, seen(template, stand_in, **chat_template_kwargs))
        assert torch.equal(
            trained(template, stand_in, **chat_template_kwargs), trained(template, source, **chat_template_kwargs)
        )
    width, height = view.image.size if processor.coordinates is Coordinates.PIXEL else (1000, 1000)
    call = ToolCall((0.1 * width, 0.1 * height, 0.6 * width, 0.7 * height), None)
    box, crop = processor.zoom(view, call, chat_template_kwargs)
    assert same(crop, seen(template, source, **chat_template_kwargs).crop(box))
    assert same(crop, Image.open(io.BytesIO(image_bytes(to_data_uri(crop)))))
    assert torch.equal(
        trained(template, crop, **chat_template_kwargs),
        trained(template, to_data_uri(crop), **chat_template_kwargs),
    )
    return view


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a loopback server of `tmp_path`; `/hang` never answers."""
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/hang":
                release.wait(30)
                return
            file = tmp_path / self.path[1:]
            self.send_response(200 if file.exists() else 404)
            self.end_headers()
            if file.exists():
                self.wfile.write(file.read_bytes())

        def log_message(self, *_: Any) -> None:
            """Keeps quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    release.set()
    httpd.shutdown()
    httpd.server_close()


class TestFidelity:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("file", FILES)
    def test_view_and_crop_are_what_the_template_hands_to_vllm(
        self, templates: dict[str, Any], family: str, file: str
    ) -> None:
        source = base64.b64encode(FILES[file]()).decode()
        check_view(templates[family], processor_of(templates[family]), source)

    @pytest.mark.parametrize("kind", ["path", "url", "data_uri", "base64", "bytes", "dict_bytes", "dict_path", "pil"])
    @pytest.mark.parametrize("file", ["jpeg", "jpeg_large", "png_rgba"])
    def test_an_image_may_come_in_any_form(
        self, template: Any, tmp_path: Path, server: str, kind: str, file: str
    ) -> None:
        data = FILES[file]()
        path = tmp_path / "image"
        path.write_bytes(data)
        text = base64.b64encode(data).decode()
        source: Any = {
            "path": str(path),
            "url": f"{server}/image",
            "data_uri": f"data:image/jpeg;base64,{text}",
            "base64": text,
            "bytes": data,
            "dict_bytes": {"bytes": data, "path": None},
            "dict_path": {"bytes": None, "path": str(path)},
            "pil": Image.open(io.BytesIO(data)),
        }[kind]
        view = check_view(template, processor_of(template), source)
        assert isinstance(view.payload, str)
        assert not view.payload.startswith("http")

    @pytest.mark.parametrize("file", ["jpeg", "jpeg_large", "png_rgba", "wide", "high", "tiny"])
    @pytest.mark.parametrize("max_pixels", [56 * 56, 150 * 150, 200704])
    @pytest.mark.parametrize("way", ["--max_pixels", "MAX_PIXELS", "chat_template_kwargs"])
    def test_every_limit_of_pixels_holds(
        self, template: Any, monkeypatch: pytest.MonkeyPatch, way: str, max_pixels: int, file: str
    ) -> None:
        kwargs = {}
        if way == "--max_pixels":
            template.max_pixels = max_pixels
        elif way == "MAX_PIXELS":  # swift puts it there when it loads the model
            monkeypatch.setattr(vision_process, "IMAGE_MAX_TOKEN_NUM", max_pixels // 28**2)
        else:
            kwargs["max_pixels"] = max_pixels
        source = base64.b64encode(FILES[file]()).decode()
        try:
            seen(template, source, **kwargs)
        except (ValueError, ZeroDivisionError):
            pytest.skip("the template itself refuses this image")
        check_view(template, processor_of(template), source, **kwargs)

    def test_large_image_travels_as_its_view_and_a_small_one_as_it_came(self, template: Any) -> None:
        small = base64.b64encode(FILES["jpeg"]()).decode()
        large = base64.b64encode(FILES["jpeg_large"]()).decode()
        processor = processor_of(template)
        assert processor.view(small).result().payload is small
        view = processor.view(large, {"max_pixels": 100_000}).result()
        assert view.payload.startswith("data:image/webp;base64,")
        assert same(Image.open(io.BytesIO(image_bytes(view.payload))), view.image)

    @pytest.mark.parametrize(
        ("family", "expected"), [("qwen2_vl", "pixel"), ("qwen2_5_vl", "pixel"), ("qwen3_vl", "norm1000")]
    )
    def test_frame_of_boxes_follows_the_template_and_can_be_overridden(
        self, templates: dict[str, Any], family: str, expected: str
    ) -> None:
        assert processor_of(templates[family]).coordinates.value == expected
        for frame in (Coordinates.PIXEL, Coordinates.NORM1000):
            assert processor_of(templates[family], coordinates=frame).coordinates is frame

    def test_unknown_template_is_refused_with_the_setting_to_use(self) -> None:
        with pytest.raises(SettingsError, match=r"DEEPEYES_COORDINATES='auto'.*'pixel' or 'norm1000'"):
            processor_of(SimpleNamespace(version="v9"))

    def test_norm1000_box_of_the_whole_image_is_the_view(self, templates: dict[str, Any]) -> None:
        processor = processor_of(templates["qwen3_vl"])
        view = processor.view(base64.b64encode(FILES["jpeg"]()).decode()).result()
        box, crop = processor.zoom(view, ToolCall((0, 0, 1000, 1000), None))
        assert box == (0, 0, *view.image.size)
        assert same(crop, view.image)


class TestOriginal:
    def test_crop_shows_the_same_part_in_more_detail_within_the_budget(self, template: Any) -> None:
        original = picture(1000, 750)
        source = base64.b64encode(as_file(original, "PNG")).decode()
        limit = {"max_pixels": 224 * 168}
        processor = processor_of(template, crop_source=CropSource.ORIGINAL)
        view = processor.view(source, limit).result()
        width, height = view.image.size
        assert width * height <= limit["max_pixels"]
        box, crop = processor.zoom(view, ToolCall((56, 56, 140, 140), None), limit)
        assert box == (56, 56, 140, 140)
        assert crop.width * crop.height <= limit["max_pixels"]
        x, y = 1000 / width, 750 / height
        part = original.crop((int(56 * x), int(56 * y), math.ceil(140 * x), math.ceil(140 * y)))
        assert same(crop, seen(template, part, **limit))
        assert crop.width >= 2 * (box.x2 - box.x1)

    @pytest.mark.parametrize("file", FILES)
    def test_whole_box_is_the_view_itself(self, template: Any, file: str) -> None:
        processor = processor_of(template, crop_source=CropSource.ORIGINAL)
        view = processor.view(base64.b64encode(FILES[file]()).decode()).result()
        if max(view.image.size) > MAX_ASPECT * min(view.image.size):
            pytest.skip("too thin for a box of the whole")
        _, crop = processor.zoom(view, ToolCall((0, 0, *view.image.size), None))
        assert same(crop, view.image)

    def test_decoded_originals_are_kept_within_the_budget_and_made_again(self, template: Any) -> None:
        processor = processor_of(template, crop_source=CropSource.ORIGINAL)
        processor.store.budget = 2_000_000
        views = [
            processor.view(base64.b64encode(as_file(picture(600, 500), "JPEG")).decode()).result() for _ in range(4)
        ]
        call = ToolCall((100, 100, 200, 200), None)
        first = [processor.zoom(view, call)[1] for view in views]
        assert processor.store.nbytes <= 2_000_000
        assert all(same(crop, processor.zoom(view, call)[1]) for view, crop in zip(views, first, strict=True))


class TestImageStore:
    def test_one_image_is_made_once_for_all_who_ask_at_once(self) -> None:
        store, made = ImageStore(), []

        def make() -> tuple[str, int]:
            time.sleep(0.05)
            made.append(1)
            return "view", 1

        with ThreadPoolExecutor(4) as pool, ThreadPoolExecutor(16) as askers:
            futures = [asker.result() for asker in [askers.submit(store.get, "a", make, pool) for _ in range(16)]]
            assert {future.result() for future in futures} == {"view"}
        assert made == [1]

    def test_waiting_for_one_image_keeps_no_thread_from_the_others(self) -> None:
        """Two threads, sixteen who ask for each of four images: they are still made two at a time."""
        store = ImageStore()

        def make() -> tuple[None, int]:
            time.sleep(0.2)
            return None, 1

        start = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            for future in [store.get(name, make, pool) for name in "abcd" for _ in range(16)]:
                future.result()
        assert 0.4 <= time.perf_counter() - start < 0.7

    def test_what_was_used_longest_ago_goes_first(self) -> None:
        store = ImageStore(budget=30)
        for name in "abc":
            store.get(name, partial(lambda name: (name, 10), name))
        store.get("a", lambda: ("made again", 10))
        store.get("d", lambda: ("d", 10))
        assert store.nbytes == 30
        assert store.get("a", lambda: ("made again", 10)).result() == "a"
        assert store.get("b", lambda: ("made again", 10)).result() == "made again"

    def test_one_that_is_larger_than_the_budget_is_kept_alone(self) -> None:
        store = ImageStore(budget=30)
        store.get("a", lambda: ("a", 10))
        store.get("b", lambda: ("b", 99))
        assert (len(store), store.nbytes) == (1, 99)

    def test_error_goes_to_all_who_wait_and_is_not_kept(self) -> None:
        store = ImageStore()

        def fail() -> tuple[None, int]:
            raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            store.get("a", fail).result()
        assert store.get("a", lambda: ("there again", 1)).result() == "there again"

    def test_one_who_stops_waiting_does_not_take_it_from_the_others(self) -> None:
        store = ImageStore()
        go = threading.Event()

        def make() -> tuple[str, int]:
            go.wait(10)
            return "view", 1

        with ThreadPoolExecutor(1) as pool:
            future = store.get("a", make, pool)
            assert not future.cancel()
            go.set()
            assert future.result(10) == "view"

    def test_equal_images_share_a_key_and_others_do_not(self, tmp_path: Path) -> None:
        data = FILES["png"]()
        path = tmp_path / "image.png"
        path.write_bytes(data)
        keys = [content_key(source) for source in (data, {"bytes": data, "path": "x"}, str(path), {"path": str(path)})]
        assert keys[0] == keys[1] != keys[2] == keys[3]
        path.write_bytes(FILES["jpeg"]())
        assert content_key(str(path)) != keys[2]
