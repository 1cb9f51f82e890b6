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
        self.interval = _INTERVAL
        """Seconds until the next call of `run`, unless that says that more are left."""

    def run(self) -> bool:
        """Relabel some jobs. Returns whether perhaps more are left. Raises `StoreError`."""
        has_more = self._relabel() > 0
        self.interval = _INTERVAL if has_more else min(2 * self.interval, _LONGEST_INTERVAL)
        return has_more
