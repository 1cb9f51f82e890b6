"""How many more connections a process may open: its limit of file descriptors, and that of a server that uses select()."""

from __future__ import annotations

import errno
import math
import os
import resource
import sys
from typing import Final

from backjob.process import RareWarnings
from backjob.protocols import Clock

FD_SETSIZE: Final = 1024
"""select() can't watch a descriptor from this number on, and a server that uses it ends with an error."""

_MAX_IN_FLIGHT: Final = 10_000
_MIN_RESERVE: Final = 64
"""File descriptors left for everything else: at the limit, SQLite, open() and imports fail too."""

_COUNT_INTERVAL: Final = 0.1  # s
_OPEN: Final = "/dev/fd"


class Descriptors:
    """Bounds the connections of one process by the descriptors that are open now, counted at most every 0.1 s."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._warnings = RareWarnings(clock)
        self._count_from = -math.inf
        self._capacity = 0

    def capacity(self, given: int | None, connections: int) -> int:
        """Return how many connections may be open, of which ``connections`` are. ``given`` replaces the usual number."""
        now = self._monotonic()
        if now >= self._count_from:
            # In this order: while one thread counts, another one must not get the value from before the first count.
            self._capacity = _capacity(given, connections)
            self._count_from = now + _COUNT_INTERVAL
            if not self._capacity:
                self._warnings.warn("full", "jobs wait: too many file descriptors are open in this process")
        return self._capacity


def waits_with_select() -> bool:
    """Return whether a server in this process may wait for its connections with select().

    waitress does, unless ``asyncore_use_poll`` is set. The other servers use poll(), epoll() or kqueue().
    """
    return "waitress.wasyncore" in sys.modules


def _capacity(given: int | None, connections: int) -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = sys.maxsize
    usual = max(1, min(_MAX_IN_FLIGHT, limit - max(_MIN_RESERVE, limit // 4))) if given is None else given
    others = _open_descriptors() - connections
    if waits_with_select():
        # The server itself accepts each of these connections, so each takes two descriptors. Half of all descriptors
        # are left for the connections of visitors.
        usual = min(usual, (FD_SETSIZE // 2 - others) // 2)
    return max(0, min(usual, limit - min(_MIN_RESERVE, limit // 4) - others))


def _open_descriptors() -> int:
    try:
        return len(os.listdir(_OPEN)) - 1  # noqa: PTH208 - a count of names; the listing has one open too
    except OSError as error:
        return sys.maxsize if error.errno in (errno.EMFILE, errno.ENFILE) else 0
