"""Images of a request: from data URIs and URLs, within limits, and never from where only this machine can go."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from deepeyes.serving import fetching
from deepeyes.serving.errors import ApiError
from deepeyes.serving.fetching import Fetcher, is_public
from deepeyes.serving.limits import Limits
from deepeyes.serving.pictures import allow_pixels, read_picture

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = Limits(image_bytes=100_000, image_pixels=1_000_000)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def uri(content: bytes, head: str = "data:image/png;base64,") -> str:
    return head + base64.b64encode(content).decode()


SMALL = encoded(Image.new("RGB", (64, 48), "red"))


def read(url: str, *, allow_private: bool = False) -> bytes:
    async def run() -> bytes:
        fetcher = Fetcher(LIMITS, allow_private=allow_private)
        try:
            return await read_picture(url, "image 0", LIMITS, fetcher)
        finally:
            await fetcher.close()

    return asyncio.run(run())


def fault(url: str, *, allow_private: bool = False) -> tuple[str | None, str]:
    with pytest.raises(ApiError) as caught:
        read(url, allow_private=allow_private)
    assert (caught.value.status, caught.value.param) == (400, "image 0")
    return caught.value.code, caught.value.message


def bomb() -> bytes:
    """A PNG of 60000 x 60000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


class TestDataUri:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
    def test_common_kinds_are_taken_as_they_are(self, kind: str) -> None:
        content = encoded(Image.new("RGB", (64, 48)), kind)
        assert read(uri(content, "data:application/octet-stream;charset=x;base64,")) == content

    def test_photo_that_lies_is_turned_upright(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = Image.open(io.BytesIO(read(uri(encoded(Image.new("RGB", (64, 48)), "JPEG", exif=exif)))))
        assert turned.size == (48, 64)

    @pytest.mark.parametrize(
        ("url", "code"),
        [
            (uri(b"no image"), "invalid_image"),
            (uri(SMALL[:40]), "invalid_image"),
            (uri(bomb()), "image_too_large"),
            (uri(encoded(Image.new("1", (1001, 1000)))), "image_too_large"),
            (uri(b"x" * 100_010), "image_too_large"),
            (uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "data:image/svg+xml;base64,"), "invalid_image"),
            (uri(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "invalid_image"),
            ("data:image/png;base64,%%%", "invalid_base64"),
            ("data:image/png,abc", "invalid_image_url"),
            ("data:", "invalid_image_url"),
        ],
    )
    def test_what_is_no_image_or_too_large_is_refused(self, url: str, code: str) -> None:
        assert fault(url)[0] == code

    @pytest.mark.parametrize("content", [bomb(), encoded(Image.new("1", (1001, 1000)))])
    def test_pixels_are_held_against_our_own_limit(self, content: bytes) -> None:
        assert "at most 1000000 are taken (--max-image-pixels)" in fault(uri(content))[1]

    def test_limit_above_that_of_pillow_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
        assert fault(uri(SMALL))[0] == "image_too_large"
        allow_pixels(LIMITS.image_pixels)
        assert read(uri(SMALL)) == SMALL

    @pytest.mark.parametrize("url", ["/etc/hostname", "file:///etc/hostname", "ftp://example.com/a.png", "", "http://"])
    def test_nothing_but_http_is_followed(self, url: str) -> None:
        assert fault(url)[0] == "invalid_image_url"


@contextlib.contextmanager
def site() -> Iterator[str]:
    """A web server on this machine: an image, a large one, one that never ends, redirects."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place, _, target = self.path.partition("?")
            self.send_response({"/away": 302, "/loop": 302, "/none": 404}.get(place, 200))
            if place in ("/away", "/loop"):
                self.send_header("Location", target or place)
            if place == "/said":
                self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(1 << 20 if place == "/endless" else 1):
                    self.wfile.write(SMALL)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def here() -> Iterator[str]:
    with site() as url:
        yield url


class TestUrl:
    def test_image_is_fetched_where_that_is_allowed(self, here: str) -> None:
        assert read(f"{here}/image", allow_private=True) == SMALL
        assert read(f"{here}/away?{here}/image", allow_private=True) == SMALL

    @pytest.mark.parametrize(
        ("path", "code"),
        [("/none", "invalid_image_url"), ("/endless", "image_too_large"), ("/said", "image_too_large")],
    )
    def test_what_can_not_be_had_is_said(self, here: str, path: str, code: str) -> None:
        assert fault(here + path, allow_private=True)[0] == code

    def test_circle_of_redirects_ends(self, here: str) -> None:
        assert "redirects" in fault(f"{here}/loop", allow_private=True)[1]

    def test_private_address_is_refused(self, here: str) -> None:
        code, message = fault(f"{here}/image")
        assert code == "private_address"
        assert "--allow-private-urls" in message

    @pytest.mark.parametrize(
        "host", ["localhost", "127.1", "0x7f000001", "0177.0.0.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"]
    )
    def test_private_address_is_refused_by_any_name(self, here: str, host: str) -> None:
        port = here.rpartition(":")[2]
        assert fault(f"http://{host}:{port}/image")[0] in ("private_address", "invalid_image_url")

    def test_name_that_leads_to_a_private_address_is_refused(self, here: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The name server is the boundary here: what it says of a name is set."""

        async def resolve(_self: object, host: str, port: int = 0, **_: object) -> list[dict[str, object]]:
            return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

        monkeypatch.setattr(fetching.ThreadedResolver, "resolve", resolve)
        port = here.rpartition(":")[2]
        assert fault(f"http://pictures.example:{port}/image")[0] == "private_address"
        assert read(f"http://pictures.example:{port}/image", allow_private=True) == SMALL

    def test_redirect_to_a_private_address_is_refused(self, here: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first address passes for a public one; the second is a cloud's metadata."""
        monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
        assert read(f"{here}/image") == SMALL
        for target in ("http://169.254.169.254/latest", "http://[::1]:1/", "file:///etc/hostname"):
            assert fault(f"{here}/away?{target}")[0] in ("private_address", "invalid_image_url")


class TestIsPublic:
    @pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
    def test_public(self, address: str) -> None:
        assert is_public(address)

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
            "0.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
            "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "127.1", "localhost", "",
        ],
    )  # fmt: skip
    def test_private_or_no_address(self, address: str) -> None:
        assert not is_public(address)
