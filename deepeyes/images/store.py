"""A store of images: each is made once however many trajectories ask for it, in bounded memory."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE_STORE_BYTES = 1 << 30  # decoded images kept for reuse, a process; a view of 0.6 megapixels takes 1.8 MB


class ImageStore:
    """Things by key, each made once however many trajectories ask at once, within a byte budget."""

    def __init__(self, budget: int = IMAGE_STORE_BYTES) -> None:
        """Makes an empty store.

        Args:
            budget: Bytes that it may hold; what was used longest ago is dropped first. One thing always fits.
                A trajectory that still uses what was dropped keeps it in memory.
        """
        self._kept: LRUCache[str, tuple[Future[Any], int]] = LRUCache(budget, lambda kept: min(kept[1], budget))
        self._making: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self._kept.currsize)

    def __len__(self) -> int:
        """Number of things held."""
        return len(self._kept)

    def get(self, key: str, make: Callable[[], tuple[Any, int]], pool: ThreadPoolExecutor | None = None) -> Future[Any]:
        """Returns the future of what is, or will be, under `key`.

        Args:
            key: Equal for equal things.
            make: Makes the thing and tells its size in bytes. What it raises goes to those who wait, and is not kept.
            pool: Where `make` runs; by default here and now. Who waits inside a pool must make there and then, or
                all of its threads could wait for a job that none is left to do.
        """
        with self._lock:
            if key in self._kept:
                return self._kept[key][0]
            if key in self._making:
                return self._making[key]
            future = self._making[key] = Future()
            future.set_running_or_notify_cancel()  # so that one trajectory that is aborted does not end the others
        if pool is None:
            self._make(key, make, future)
        else:
            pool.submit(self._make, key, make, future)
        return future

    def _make(self, key: str, make: Callable[[], tuple[Any, int]], future: Future[Any]) -> None:
        try:
            thing, nbytes = make()
        except BaseException as error:  # noqa: BLE001 - goes to those who wait
            with self._lock:
                del self._making[key]
            future.set_exception(error)
            return
        with self._lock:
            del self._making[key]
            self._kept[key] = future, nbytes
        future.set_result(thing)
