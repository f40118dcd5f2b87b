"""Images behind URLs: fetched within limits, and never from where only this machine can go.

A server that fetches what strangers name can be made to read its own network: a cloud's metadata, a database without
a password. So every address that a name resolves to is checked, the connection goes to a checked address and to no
other, and each redirect is checked anew.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from deepeyes.serving.errors import ApiError, refused

if TYPE_CHECKING:
    from deepeyes.serving.limits import Limits

FETCH_SECONDS = 20.0  # for one image with all its redirects; a client waits for its answer meanwhile
MAX_REDIRECTS = 4
REDIRECTS = (301, 302, 303, 307, 308)
AGENT = "deepeyes-serve"
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
CHUNK = 1 << 16


class _PrivateAddressError(OSError):
    """A name leads to an address that is not of the public internet."""


def is_public(address: str) -> bool:
    """Tells whether an IP address is one of the public internet, whatever it is wrapped in."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in NAT64:
            inner = ipaddress.IPv4Address(ip.packed[-4:])
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class _PublicResolver(AbstractResolver):
    """Resolves names to public addresses; aiohttp connects to what it returns."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Returns the addresses of a name.

        Raises:
            _PrivateAddressError: One of them is not public; a name with both kinds is no honest one.
        """
        found = await self._inner.resolve(host, port, family=family)
        for result in found:
            if not is_public(result["host"]):
                raise _PrivateAddressError(f"{host} leads to the private address {result['host']}")
        return found

    async def close(self) -> None:
        """Closes the resolver beneath."""
        await self._inner.close()


class Fetcher:
    """Gets images from URLs. Made in a running event loop."""

    def __init__(self, limits: Limits, *, allow_private: bool = False) -> None:
        """Makes a fetcher.

        Args:
            limits: Its `image_bytes` is the most that is read.
            allow_private: Whether private addresses may be read from, for a closed network of trusted clients.
        """
        self._limits = limits
        self._allow_private = allow_private
        connector = aiohttp.TCPConnector(resolver=None if allow_private else _PublicResolver(), use_dns_cache=False)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
            headers={"User-Agent": AGENT, "Accept": "image/*", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()

    async def fetch(self, url: str, param: str) -> bytes:
        """Returns what stands behind a URL.

        Args:
            url: http or https.
            param: The field of the request that holds it, for the error.

        Raises:
            ApiError: It can't be read; the message says why.
        """
        try:
            return await asyncio.wait_for(self._follow(url), FETCH_SECONDS)
        except ApiError as error:
            error.param = param
            raise
        except _PrivateAddressError as error:
            raise self._private(str(error), param) from error
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            if isinstance(cause := error.__cause__ or getattr(error, "os_error", None), _PrivateAddressError):
                raise self._private(str(cause), param) from error
            said = str(error) or f"no answer in {FETCH_SECONDS:g} s"
            raise refused(
                f"the image {url[:200]!r} can't be fetched: {said[:200]}", param, "invalid_image_url"
            ) from error

    def _private(self, said: str, param: str) -> ApiError:
        message = f"{said}; images are fetched from public addresses alone (serve --allow-private-urls)"
        return refused(message, param, "private_address")

    async def _follow(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url)
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status in REDIRECTS and (place := response.headers.get("Location")):
                    url = urljoin(url, place)
                    continue
                if response.status != 200:  # noqa: PLR2004 - HTTP
                    raise refused(
                        f"the image {url[:200]!r} can't be fetched: status {response.status}", code="invalid_image_url"
                    )
                return await self._read(response)
        raise refused(f"more than {MAX_REDIRECTS} redirects, the last to {url[:200]!r}", code="invalid_image_url")

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host:
            raise refused(f"expected an http(s) URL or a data URI, found {url[:100]!r}", code="invalid_image_url")
        literal = host.replace(".", "").isdigit() or ":" in host  # an address, about which no resolver is asked
        if literal and not self._allow_private and not is_public(host):
            raise _PrivateAddressError(f"{host} is a private address or none")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        most = self._limits.image_bytes
        content = bytearray()
        if (response.content_length or 0) <= most:
            async for chunk in response.content.iter_chunked(CHUNK):
                content += chunk
                if len(content) > most:
                    break
            else:
                return bytes(content)
        raise refused(f"the image is larger than {most} bytes (--max-image-bytes)", code="image_too_large")
