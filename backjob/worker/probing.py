"""Probes that the middleware answers after a pause, with which the doctor measures how many requests a server handles at once."""

from __future__ import annotations

import math
import re
import secrets
import threading
from collections.abc import Callable
from typing import Final

from backjob.model import Headers, Request

HOLD: Final = "hold"
"""The parameter of a signed probe: for how many seconds to hold its answer back."""

PROCESS_HEADER: Final = "backjob-process"
"""In the answer to a held probe: a random name of the answering process, a space, and how many jobs it may run (or -)."""

LONGEST_HOLD: Final = 1.0
"""The most seconds for which a probe's answer is held back."""

_MOST_HOLDS: Final = 64
_VALUE: Final = re.compile(rf"(?:^|&){HOLD}=([0-9]\.[0-9]{{1,3}})(?:&|$)")


class Holds:
    """The probes that this process holds back at this moment: a limited number, since each may occupy a thread.

    Keep it in a `PerProcess`. ``places`` returns how many jobs the process may run.
    """

    def __init__(self, monotonic: Callable[[], float], places: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._places = places
        self._lock = threading.Lock()
        self._ends: list[float] = []
        self._name = secrets.token_hex(6)

    def of(self, probe: Request) -> float:
        """Return for how long to hold back the answer to a verified probe: 0 for most."""
        found = _VALUE.search(probe.query)
        seconds = 0.0 if found is None else float(found[1])
        if not 0 < seconds <= LONGEST_HOLD:
            return 0.0
        now = self._monotonic()
        with self._lock:
            self._ends = [end for end in self._ends if end > now]
            if len(self._ends) >= _MOST_HOLDS:
                return 0.0
            self._ends.append(now + seconds)
        return seconds

    def headers(self) -> Headers:
        """Return the fields that describe this process, for the answer to a held probe."""
        places = self._places()
        return ((PROCESS_HEADER, f"{self._name} {'-' if math.isinf(places) else int(places)}"),)
