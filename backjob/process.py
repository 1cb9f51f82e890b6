"""What belongs to one process: state that a forked child makes anew, and a log line that repeats once a minute at most."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from backjob.protocols import Clock

__all__ = ["Outage", "PerProcess"]

T = TypeVar("T")

_INTERVAL: Final = 60.0

_log = logging.getLogger("backjob")


class PerProcess(Generic[T]):
    """A value that each process makes for itself.

    After a fork the parent's threads do not exist, its locks may be held forever, and its connections must not be used.
    Every call of `get` compares process ids, because uwsgi forks without running Python's fork hooks.

    ``make`` must have no effects: two threads may call it at once, and one result is dropped. ``abandon`` gets the value
    that was inherited from the parent, once, in the child.
    """

    def __init__(self, make: Callable[[], T], abandon: Callable[[T], object] | None = None) -> None:
        self._make = make
        self._abandon = abandon
        self._values: dict[int, T] = {}

    def get(self) -> T:
        """Return the value of the current process."""
        pid = os.getpid()
        try:
            return self._values[pid]
        except KeyError:
            pass
        # One atomic step without a lock: a lock might have been held when the process was forked.
        value = self._values.setdefault(pid, self._make())
        for other in [key for key in self._values if key != pid]:
            inherited = self._values.pop(other, None)
            if inherited is not None and self._abandon is not None:
                self._abandon(inherited)
        return value


class Outage:
    """Logs that the store is away: a warning once a minute, and debug lines in between. For one thread."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._quiet_until = -math.inf

    def tell(self, message: str, *arguments: object) -> None:
        """Log a warning, or a debug line if the last warning is less than a minute old."""
        now = self._monotonic()
        if now < self._quiet_until:
            _log.debug(message, *arguments)
            return
        self._quiet_until = now + _INTERVAL
        _log.warning(message, *arguments)
