"""Shared by the served application and the benchmark: the signer's key, and timestamps through a named pipe."""

from __future__ import annotations

import os
import select
import struct
import time
from pathlib import Path
from typing import Final

__all__ = ["END", "FIRST_LINE", "KEY", "Notes", "NotesWriter"]

KEY: Final = "for benchmarks only, 9f81c07ae254b6"
FIRST_LINE: Final = b"f"
END: Final = b"e"

_NOTE: Final = struct.Struct("=cd")
_TIMEOUT: Final = 30.0


class NotesWriter:
    """Writes events with the time of the monotonic clock (s), which all processes of a machine share."""

    def __init__(self, path: str) -> None:
        self._pipe = os.open(path, os.O_WRONLY)

    def note(self, kind: bytes) -> None:
        os.write(self._pipe, _NOTE.pack(kind, time.monotonic()))


class Notes:
    """Reads events from a pipe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Open the pipe for writing too, so that opening does not block and reading finds no EOF.
        self._pipe = os.open(path, os.O_RDWR)

    @classmethod
    def made(cls, path: Path) -> Notes:
        """Create the pipe."""
        os.mkfifo(path)
        return cls(path)

    def wait(self, kind: bytes) -> float:
        """Return the time (s) of the next event of this kind; skip others."""
        while True:
            ready, _, _ = select.select([self._pipe], [], [], _TIMEOUT)
            assert ready, f"no event {kind!r} within {_TIMEOUT:g} s"
            found, when = _NOTE.unpack(os.read(self._pipe, _NOTE.size))
            if found == kind:
                return float(when)

    def close(self) -> None:
        os.close(self._pipe)
