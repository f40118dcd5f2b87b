"""The store: each image is made once, whoever asks, in bounded memory; and the keys that equal images share."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from deepeyes.images.encoding import content_key
from deepeyes.images.store import ImageStore

if TYPE_CHECKING:
    from pathlib import Path


def as_file(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


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
        assert (len(store), store.nbytes) == (1, 30)  # it counts as the whole budget

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
        data = as_file(Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 90).convert("RGB"), "PNG")
        path = tmp_path / "image.png"
        path.write_bytes(data)
        keys = [content_key(source) for source in (data, {"bytes": data, "path": "x"}, str(path), {"path": str(path)})]
        assert keys[0] == keys[1] != keys[2] == keys[3]
        path.write_bytes(as_file(Image.new("RGB", (9, 9)), "JPEG"))
        assert content_key(str(path)) != keys[2]

    def test_key_of_a_palette_image_holds_its_palette(self) -> None:
        images = []
        for palette in ([255, 0, 0], [0, 0, 255]):
            image = Image.new("P", (40, 40), 0)
            image.putpalette(palette * 256)
            images.append(image)
        images.append(images[0].copy())
        images.append(images[0].copy())
        images[3].info["transparency"] = 0
        red, blue, same, clear = map(content_key, images)
        assert red == same
        assert len({red, blue, clear}) == 3
