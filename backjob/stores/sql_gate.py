"""Who may connect: so many at once, and for a moment after the server was not there nobody.

Each vain attempt costs time, and a pool's waiters are not woken by one: without this, forty threads would queue up for
a server that is gone, and each call take seconds to fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from backjob.errors import StoreUnavailable

__all__ = ["Gate"]

_SHUT_FOR: Final = 0.25  # s


class Gate:
    """In front of a pool with this much room. ``name`` is what errors call the database; ``patience`` is in seconds."""

    def __init__(self, name: str, room: int, patience: float) -> None:
        self._name = name
        self._size = room
        self._patience = patience
        self._reason = ""
        self.open_anew()

    def open_anew(self) -> None:
        """In a forked child: whoever is inside is in the parent."""
        self._room = threading.BoundedSemaphore(self._size)
        self._shut_until = 0.0

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Within it a connection may be had. Raises `StoreUnavailable` where there is no room, or just was no server."""
        room = self._room
        if not room.acquire(timeout=self._patience):
            raise StoreUnavailable(f"{self._name}: no connection became free within {self._patience:g} s")
        try:
            if time.monotonic() < self._shut_until:
                raise StoreUnavailable(self._reason)
            yield
        finally:
            room.release()

    def shut(self, reason: str) -> None:
        """The server is not there: let nobody in for a moment, and tell them why."""
        self._reason = reason
        self._shut_until = time.monotonic() + _SHUT_FOR
