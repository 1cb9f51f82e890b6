"""Who may connect: so many at once, and while the server is not there one after the other.

Each vain attempt costs time, and a pool's waiters are not woken by one: without this, forty threads would queue up for
a server that is gone, and each call take seconds to fail.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from backjob.errors import StoreUnavailable

__all__ = ["Gate"]


class Gate:
    """In front of a pool with this much room. ``name`` is what errors call the database; ``patience`` is in seconds."""

    def __init__(self, name: str, room: int, patience: float) -> None:
        self._name = name
        self._size = room
        self._patience = patience
        self.open_anew()

    def open_anew(self) -> None:
        """In a forked child: whoever is inside is in the parent."""
        self._room = threading.BoundedSemaphore(self._size)
        self._trying = threading.Lock()
        self._reason: str | None = None

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Within it a connection may be had. Raises `StoreUnavailable` where there is no room, or no server so far and
        somebody else is trying already.
        """
        room, trying = self._room, self._trying
        if not room.acquire(timeout=self._patience):
            raise StoreUnavailable(f"{self._name}: no connection became free within {self._patience:g} s")
        is_trying = False
        try:
            reason = self._reason
            if reason is not None:
                is_trying = trying.acquire(blocking=False)
                if not is_trying:
                    raise StoreUnavailable(reason)
            yield
        finally:
            if is_trying:
                trying.release()
            room.release()

    def shut(self, reason: str) -> None:
        """The server is not there: from now on one at a time may try, and the others are told why."""
        self._reason = reason

    def open(self) -> None:
        """The server is there."""
        self._reason = None
