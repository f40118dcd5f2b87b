"""Views: in the pixels of qwen_vl_utils, in bounded memory, from any form of an image."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from qwen_vl_utils import fetch_image, smart_resize

from deepeyes.playing import pictures
from deepeyes.playing.families import FAMILIES
from deepeyes.playing.pictures import Viewer, fit_view, read_image
from deepeyes.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


class TestFitView:
    @given(
        st.integers(1, 9000),
        st.integers(1, 9000),
        st.sampled_from(list(FAMILIES.values())),
        st.integers(4096, 16384 * 32 * 32),
    )
    @settings(max_examples=300, deadline=None)
    def test_size_is_that_of_qwen_vl_utils(self, width: int, height: int, family: Any, max_pixels: int) -> None:
        area = family.side**2
        limits = {"min_pixels": 4 * area, "max_pixels": max_pixels // area * area}
        try:
            rows, columns = smart_resize(height, width, family.side, **limits)
        except ValueError:
            with pytest.raises(ValueError, match="200 times the shorter"):
                fit_view(width, height, family, max_pixels)
            return
        assert fit_view(width, height, family, max_pixels) == (max(family.side, columns), max(family.side, rows))

    @pytest.mark.parametrize("name", FAMILIES)
    @pytest.mark.parametrize("size", [(640, 480), (3001, 1999), (30, 500), (57, 57), (9, 9)])
    @pytest.mark.parametrize("max_pixels", [602112, 602111, 100000])
    def test_pixels_are_those_of_qwen_vl_utils(self, name: str, size: tuple[int, int], max_pixels: int) -> None:
        viewer = Viewer(FAMILIES[name], Settings(), max_pixels)
        area, patch = viewer.family.side**2, viewer.family.patch
        content = png(size)
        picture = asyncio.run(viewer.look(content))
        limits = {"min_pixels": 4 * area, "max_pixels": max_pixels // area * area}
        theirs = fetch_image({"image": Image.open(io.BytesIO(content)), **limits}, image_patch_size=patch)
        assert picture.size == theirs.size
        assert picture.view().tobytes() == theirs.tobytes()
        assert viewer.scale(picture.view()).tobytes() == theirs.tobytes()
        assert picture.tokens == theirs.width * theirs.height // area

    def test_fewer_pixels_than_the_smallest_view_are_refused(self) -> None:
        with pytest.raises(ValueError, match="takes no fewer than 3136"):
            Viewer(FAMILIES["qwen2.5-vl"], Settings(), 3135)


class TestReadImage:
    def test_every_form_gives_the_same_bytes(self, tmp_path: Path) -> None:
        content = png((64, 48))
        path = tmp_path / "one.png"
        path.write_bytes(content)
        text = base64.b64encode(content).decode()
        forms = [content, {"bytes": content, "path": "x"}, {"bytes": None, "path": str(path)}, path, str(path), text]
        forms.append(f"data:image/png;base64,{text}")
        assert {read_image(form) for form in forms} == {content}
        assert Image.open(io.BytesIO(read_image(Image.open(path)))).size == (64, 48)

    @pytest.mark.parametrize(
        "source", ["no/such/file.png", "", None, b"", {"path": None}, "data:image/png;base64,!!!!"]
    )
    def test_what_is_no_image_is_an_error_that_says_so(self, source: Any) -> None:
        with pytest.raises((OSError, ValueError)):
            read_image(source)

    def test_transparency_is_dropped_as_swift_drops_it(self) -> None:
        content = png((56, 56), "RGBA")
        picture = asyncio.run(Viewer(FAMILIES["qwen2.5-vl"], Settings(), 602112).look(content))
        assert picture.view().tobytes() == Image.open(io.BytesIO(content)).convert("RGB").tobytes()


class TestMemory:
    def test_equal_images_are_made_once(self) -> None:
        viewer = Viewer(FAMILIES["qwen2.5-vl"], Settings(), 602112)
        content = png((300, 200))

        async def look() -> list[Any]:
            return await asyncio.gather(*[viewer.look(source) for source in (content, content, {"bytes": content})])

        first, *others = asyncio.run(look())
        assert all(other is first for other in others)

    def test_gate_lets_in_no_more_than_its_budget_and_one_that_is_larger_alone(self) -> None:
        gate = pictures._Gate(100)  # noqa: SLF001 - a viewer's own is half a gigabyte
        held, most = [0], [0]
        lock = threading.Lock()

        def work(nbytes: int) -> None:
            with gate.held(nbytes):
                with lock:
                    held[0] += min(nbytes, 100)
                    most[0] = max(most[0], held[0])
                time.sleep(0.005)
                with lock:
                    held[0] -= min(nbytes, 100)

        threads = [threading.Thread(target=work, args=(nbytes,)) for nbytes in (40, 60, 70, 500, 30, 90, 10) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert 60 < most[0] <= 100


def test_playing_needs_neither_swift_nor_torch() -> None:
    names = "check endpoint families journal pictures player prompts wire"
    code = "".join(f"import deepeyes.playing.{name}\n" for name in names.split())
    code += "import sys; print([name for name in ('swift', 'torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
