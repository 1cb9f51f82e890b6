"""Gives a process's leases back when it ends, so that another process delivers its jobs at once.

A process that serves no requests, such as a shell or a command, may have started its jobs a moment ago. So it first waits
until they are claimed.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Final, Protocol

_PATIENCE: Final = 5.0  # s, for all claims together; and as long again for closing
_PAUSE: Final = 0.05  # s


class Leaving(Protocol):
    """The methods of a monitor that the end of its process needs."""

    @property
    def is_running(self) -> bool: ...

    def has_unclaimed(self, timeout: float) -> bool: ...

    def close(self, timeout: float) -> None: ...


_children: Final[set[int]] = set()
_leaving: Final[weakref.WeakKeyDictionary[Leaving, int]] = weakref.WeakKeyDictionary()


def leave_at_exit(monitor: Leaving) -> None:
    """Close the monitor when this process exits normally."""
    _leaving[monitor] = os.getpid()
    multiprocessing = sys.modules.get("multiprocessing")  # in its children it is loaded
    if multiprocessing is not None and multiprocessing.parent_process() is not None and os.getpid() not in _children:
        from multiprocessing.util import Finalize  # noqa: PLC0415

        # A child that multiprocessing has forked runs its finalizers, but no exit handlers. granian's workers are such.
        _children.add(os.getpid())
        Finalize(None, _leave, exitpriority=0)


def wait_for_claims(monitors: Sequence[Leaving]) -> None:
    """Wait until the jobs that these monitors deliver are claimed, but no longer than 5 s."""
    until = time.monotonic() + _PATIENCE
    pause = threading.Event()
    waiting = list(monitors)
    while waiting and (left := until - time.monotonic()) > 0:
        waiting = [monitor for monitor in waiting if monitor.has_unclaimed(left)]
        if waiting:
            pause.wait(_PAUSE)


@atexit.register
def _leave() -> None:
    # A forked child has its parent's entries.
    monitors = [monitor for monitor, pid in list(_leaving.items()) if pid == os.getpid() and monitor.is_running]
    wait_for_claims(monitors)
    until = time.monotonic() + _PATIENCE
    for monitor in monitors:
        monitor.close(max(0.0, until - time.monotonic()))
