"""How often a monitor looks for jobs with the label of an older key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_INTERVAL: Final = 60.0  # s; doubles up to the next, because each search may read the whole table
_LONGEST_INTERVAL: Final = 600.0


class Relabelling:
    """Gives jobs the label of the current key. ``relabel`` does so for some of them, and returns how many."""

    def __init__(self, relabel: Callable[[], int]) -> None:
        self._relabel = relabel
        self._interval = _INTERVAL

    def run(self) -> float:
        """Relabel some jobs. Returns the seconds until the next call; 0 if perhaps more are left. Raises `StoreError`."""
        if self._relabel():
            self._interval = _INTERVAL
            return 0.0
        pause, self._interval = self._interval, min(2 * self._interval, _LONGEST_INTERVAL)
        return pause
