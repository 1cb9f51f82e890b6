"""Draining: a process that is about to shut down takes no more work, and long actions hand over.

The flag is a plain attribute, so that a signal handler may set it: it takes no lock and calls nothing.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

__all__ = ["Draining", "drain_on_signals"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_POLL_INTERVAL: Final = 0.05  # s


class Draining:
    """Whether this process drains: because of a signal, for all applications in it, or because ``is_on`` was set, for this one.

    ``is_busy()`` returns whether the process still runs jobs of this application. A process that a signal would end at once
    waits for them, at most ``limit`` seconds.
    """

    def __init__(self, is_busy: Callable[[], bool] = lambda: False, limit: float = 25.0) -> None:
        self.is_busy = is_busy
        self.limit = limit
        self._is_on = False
        _known.add(self)

    @property
    def is_on(self) -> bool:
        """Whether to claim, lease and send nothing new, and to hand over what can be continued elsewhere."""
        return self._is_on or _process.got_signal

    @is_on.setter
    def is_on(self, value: bool) -> None:
        self._is_on = value


class _Process:
    """The signals that this process got. ``waits`` is the thread that ends the process once it has drained, if any."""

    def __init__(self) -> None:
        self.got_signal = False
        self.waits: _Waiting | None = None


_process: Final = _Process()
_known: Final[weakref.WeakSet[Draining]] = weakref.WeakSet()


def drain_on_signals() -> None:
    """Have this process drain at SIGTERM and SIGINT, and then do what it did before.

    If there is no other handler, so that the signal would end the process at once, it ends when it runs no more jobs; a
    second signal ends it at once. Only the first call has an effect. Raises `RuntimeError` in any thread but the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "drain_on_signals() was called in a thread, but Python sets signal handlers only in the main thread; "
            "call it where the server starts or, under gunicorn, in post_worker_init"
        )
    for number in _SIGNALS:
        previous = signal.getsignal(number)
        is_ours = isinstance(getattr(previous, "__self__", None), _Chained)
        # An ignored signal ends nothing. None is a handler that was not set by Python, which a new one would replace.
        if is_ours or previous is signal.SIG_IGN or previous is None:
            continue
        # A method, so that `worker.exits` finds its code in the traceback of what the server raises in it.
        signal.signal(number, _Chained(previous).handle)


class _Chained:
    """A signal handler in front of the one that was there."""

    def __init__(self, previous: Any) -> None:
        self._previous = previous
        self._would_end = previous in (signal.SIG_DFL, signal.default_int_handler)
        if self._would_end and _process.waits is None:
            _process.waits = _Waiting()

    def handle(self, number: int, frame: FrameType | None) -> None:
        _process.got_signal = True
        if self._would_end and _process.waits is not None and _process.waits.takes_over(number):
            return
        if self._previous is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:
            self._previous(number, frame)


class _Waiting:
    """A thread that waits until the process runs no more jobs and then sends it the signal again.

    The main thread goes on meanwhile: a server such as waitress still answers requests. The thread is started beforehand,
    since a signal handler may interrupt code that holds the locks that starting one takes.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put() may interrupt another call of itself
        self._has_begun = False
        threading.Thread(target=self._wait, name="backjob-draining", daemon=True).start()

    def takes_over(self, number: int) -> bool:
        """Have the thread repeat this signal later. Returns False if it has taken one before, or in a forked child."""
        if self._has_begun or self._pid != os.getpid():
            return False
        self._has_begun = True
        self._signals.put(number)
        return True

    def _wait(self) -> None:
        number = self._signals.get()
        deadline = time.monotonic() + max((one.limit for one in list(_known)), default=0.0)
        while time.monotonic() < deadline and any(one.is_busy() for one in list(_known)):
            time.sleep(_POLL_INTERVAL)
        # Sent to the main thread, which may be blocked in a system call: only it runs signal handlers.
        main = threading.main_thread().ident
        if main is not None:
            signal.pthread_kill(main, number)
