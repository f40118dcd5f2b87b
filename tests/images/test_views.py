"""Views and crops are the model's own pixels: what swift's template hands to the engine, and pieces of it."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image, ImageDraw
from qwen_vl_utils import vision_process
from swift.template import get_template
from swift_fakes import load_processor

from deepeyes.boxes import MAX_ASPECT
from deepeyes.calls import ToolCall
from deepeyes.errors import SettingsError
from deepeyes.images.encoding import image_bytes, to_data_uri
from deepeyes.images.processor import ImageProcessor, View
from deepeyes.images.store import ImageStore
from deepeyes.log import logger
from deepeyes.settings import Coordinates, CropSource, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
        ("family", "expected"), [("qwen2_vl", "norm1000"), ("qwen2_5_vl", "pixel"), ("qwen3_vl", "norm1000")]
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
        processor.store = ImageStore(2_000_000)
        views = [
            processor.view(base64.b64encode(as_file(picture(600, 500), "JPEG")).decode()).result() for _ in range(4)
        ]
        call = ToolCall((100, 100, 200, 200), None)
        first = [processor.zoom(view, call)[1] for view in views]
        assert processor.store.nbytes <= 2_000_000
        assert all(same(crop, processor.zoom(view, call)[1]) for view, crop in zip(views, first, strict=True))


class TestDetail:
    def test_picture_larger_than_its_view_is_told_of_once(
        self, template: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(logger, "propagate", False)
        monkeypatch.setattr(logger, "handlers", [caplog.handler])
        processor = processor_of(template)
        for seed in (300, 310):
            source = base64.b64encode(as_file(picture(2 * seed, seed), "JPEG")).decode()
            processor.view(source, {"max_pixels": 30_000}).result()
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1
        assert "a picture of 600 x 300 pixels is" in said[0]
        assert "DEEPEYES_CROP_SOURCE=original" in said[0]

    def test_nothing_is_said_of_a_view_in_full_or_crops_of_the_original(
        self, template: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(logger, "propagate", False)
        monkeypatch.setattr(logger, "handlers", [caplog.handler])
        source = base64.b64encode(as_file(picture(600, 300), "JPEG")).decode()
        processor_of(template).view(source).result()
        processor_of(template, crop_source=CropSource.ORIGINAL).view(source, {"max_pixels": 30_000}).result()
        assert not caplog.records
