"""Times in the output: each line begins with the moment at which its first character was written."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final

_SEQUENCES: Final = r"(?:\x1b\[[0-?]*[ -/]*[@-~])*"
# A carriage return begins the line anew, so what follows it needs a time too. Escape sequences, such as "erase the line",
# stay in front of it.
_NEXT: Final = re.compile(rf"([\r\n]{_SEQUENCES})(?=[^\r\n\x1b])")
_FIRST: Final = re.compile(rf"((?:\A|[\r\n]){_SEQUENCES})(?=[^\r\n\x1b])")
_NOTHING: Final = re.compile(rf"{_SEQUENCES}\Z")
_BREAK: Final = re.compile(r"[\r\n]")


class Stamps:
    """Writes the time (UTC) at the beginning of each line. Thread-safe. ``now`` is called once for each text."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._is_at_beginning = True

    def stamped(self, text: str) -> str:
        """Return the text, which follows those of earlier calls, with times."""
        if not text:
            return text
        rest = _BREAK.split(text)[-1]
        with self._lock:
            begins = self._is_at_beginning
            if begins or len(rest) < len(text):
                self._is_at_beginning = _NOTHING.match(rest) is not None
        stamp = f"{self._now():%Y-%m-%d %H:%M:%S}Z "
        return (_FIRST if begins else _NEXT).sub(rf"\g<1>{stamp}", text)
