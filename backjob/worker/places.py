"""How many jobs one process runs."""

from __future__ import annotations

import threading


class Places:
    """The places in which jobs run in one process: keep it in a `PerProcess`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.taken = 0

    def take(self, most: float) -> bool:
        """Take a place, unless ``most`` of them are taken."""
        with self._lock:
            if self.taken >= most:
                return False
            self.taken += 1
            return True

    def release(self) -> None:
        """Give a place back."""
        with self._lock:
            self.taken -= 1
