"""What the served application and the benchmark have in common: the signer's key, and notes through a named pipe."""

from __future__ import annotations

import os
import select
import struct
import time
from pathlib import Path
from typing import Final

__all__ = ["END", "FIRST_LINE", "KEY", "Notes", "NotesWriter"]

KEY: Final = "nothing but measured, 9f81c07ae254b6"
FIRST_LINE: Final = b"f"
END: Final = b"e"

_NOTE: Final = struct.Struct("=cd")
_TIMEOUT: Final = 30.0


class NotesWriter:
    """Notes what happens, with the monotonic clock (s), which the processes of a machine share."""

    def __init__(self, path: str) -> None:
        self._pipe = os.open(path, os.O_WRONLY)

    def note(self, kind: bytes) -> None:
        os.write(self._pipe, _NOTE.pack(kind, time.monotonic()))


class Notes:
    """The reading end; it makes the pipe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._pipe = os.open(path, os.O_RDWR)  # for writing too, so that it opens at once and never ends

    def wait(self, kind: bytes) -> float:
        """When the next note of this kind was made (s); others are passed over."""
        while True:
            ready, _, _ = select.select([self._pipe], [], [], _TIMEOUT)
            assert ready, f"no note {kind!r} came within {_TIMEOUT:g} s"
            found, when = _NOTE.unpack(os.read(self._pipe, _NOTE.size))
            if found == kind:
                return float(when)

    def close(self) -> None:
        os.close(self._pipe)
