"""The socket threads of the transports that a test has made."""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["note_earlier_threads", "socket_threads"]

_EARLIER: Final[set[threading.Thread]] = set()


def note_earlier_threads() -> None:
    """Leave out the threads of earlier tests, which may end at any time."""
    _EARLIER.clear()
    _EARLIER.update(threading.enumerate())


def socket_threads() -> list[threading.Thread]:
    """The threads that have started since."""
    return [one for one in threading.enumerate() if one.name == "backjob-sockets" and one not in _EARLIER]
