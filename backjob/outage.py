"""A store that is away is told of in the log once a minute, however many jobs wait for it."""

from __future__ import annotations

import logging
import math
from typing import Final

from backjob.protocols import Clock

__all__ = ["Outage"]

_INTERVAL: Final = 60.0

_log = logging.getLogger("backjob")


class Outage:
    """What the parts of one process's monitor have to say of their store. For the monitor's thread alone."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._quiet_until = -math.inf

    def tell(self, message: str, *arguments: object) -> None:
        """Log a warning, or within a minute of the last one a line for debugging."""
        now = self._monotonic()
        if now < self._quiet_until:
            _log.debug(message, *arguments)
            return
        self._quiet_until = now + _INTERVAL
        _log.warning(message, *arguments)
