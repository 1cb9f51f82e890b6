"""Tools for one process: values that a forked child makes anew, threads, rate-limited logging."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Final, Generic, TypeVar

from backjob.clock import Clock
from backjob.errors import StoreError

__all__ = ["RETRY_PAUSE", "DaemonThreads", "Outage", "Passes", "PerProcess", "RareWarnings", "in_event_loop"]

T_co = TypeVar("T_co", covariant=True)

RETRY_PAUSE: Final = 1.0
"""Seconds before backjob retries what has failed, such as a call of the store."""

_WARNING_INTERVAL: Final = 60.0
_IDLE: Final = 30.0  # s; then an idle thread ends

_log = logging.getLogger("backjob")


class PerProcess(Generic[T_co]):
    """A value that each process makes for itself.

    After a fork the parent's threads do not exist, its locks may be held forever, and its connections must not be used.
    Every call of `get` compares process ids, because uwsgi forks without running Python's fork hooks.

    ``make`` must have no effects: two threads may call it at once, and one result is dropped. ``abandon`` gets the value
    that was inherited from the parent, once, in the child.
    """

    def __init__(self, make: Callable[[], T_co], abandon: Callable[[T_co], object] | None = None) -> None:
        self._make = make
        self._abandon = abandon
        self._values: dict[int, T_co] = {}

    def get(self) -> T_co:
        """Return the value of the current process."""
        pid = os.getpid()
        try:
            return self._values[pid]
        except KeyError:
            pass
        # One atomic step without a lock: a lock might have been held when the process was forked.
        value = self._values.setdefault(pid, self._make())
        for other in list(self._values):  # a copy in one step: another thread may be removing the same values
            inherited = self._values.pop(other, None) if other != pid else None
            if inherited is not None and self._abandon is not None:
                self._abandon(inherited)
        return value


class Passes:
    """A daemon thread that calls ``step`` again and again, until `close` or until ``is_idle()`` is true, if given.

    A step returns the seconds until the next one; `wake` cuts that time short. If a step raises, the thread logs it and
    goes on after a pause. ``at_end`` runs in the thread as its last call. Belongs to one process: keep it in a
    `PerProcess`. All methods are thread-safe.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], float],
        *,
        at_end: Callable[[], object],
        is_idle: Callable[[], bool] | None = None,
    ) -> None:
        self._name = name
        self._step = step
        self._at_end = at_end
        self._is_idle = is_idle
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def ensure_running(self) -> None:
        """Start the thread unless it is alive or `close` was called. Cheap enough for every request.

        Raises `RuntimeError` if the system starts no more threads.
        """
        if self._is_idle is None and self._thread is not None and self._thread.is_alive():
            return  # every request passes here, without taking the lock
        with self._lock:
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread

    @property
    def is_running(self) -> bool:
        """Whether the thread was started and not closed."""
        return self._thread is not None and not self._closed

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def wake(self) -> None:
        """Start the next step now."""
        self._woken.set()

    def close(self, timeout: float) -> bool:
        """End the thread and wait for it, at most ``timeout`` seconds. Returns False if there was no thread."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._woken.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        return thread is not None

    def _run(self) -> None:
        while self._goes_on():
            try:
                pause = self._step()
            except BaseException:  # a user's hook may raise even SystemExit, which must not end this thread
                pause = RETRY_PAUSE
                with suppress(BaseException):  # if memory is short, or a log handler is broken
                    _log.exception("a pass of the thread %s failed; the next one starts in %g s", self._name, pause)
            self._woken.wait(pause)
            self._woken.clear()
        self._at_end()

    def _goes_on(self) -> bool:
        with self._lock:
            if self._closed:
                return False
            if self._is_idle is not None and self._is_idle():
                # Under the lock: work that arrives now calls ensure_running(), which then starts another thread.
                self._thread = None
                return False
            return True


class DaemonThreads:
    """Runs calls in at most ``limit`` daemon threads, which start when they are needed and end when they are idle.

    Belongs to one process: keep it in a `PerProcess`. A call must not raise.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._calls: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._count = 0
        self._numbers = count(1)

    def run(self, call: Callable[[], object]) -> None:
        """Have a thread run the call. Raises `RuntimeError` if there is no thread and the system starts none."""
        with self._changed:
            self._calls.append(call)
            if self._idle >= len(self._calls):
                self._changed.notify()
            elif self._count < self._limit:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{next(self._numbers)}", daemon=True)
        self._count += 1
        try:
            thread.start()
        except RuntimeError:
            self._count -= 1
            if not self._count:
                self._calls.pop()
                raise

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call()
            del call  # and with it what the call refers to

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while not self._calls:
                self._idle += 1
                is_notified = self._changed.wait(_IDLE)
                self._idle -= 1
                if not is_notified and not self._calls:
                    self._count -= 1
                    return None
            return self._calls.popleft()


class RareWarnings:
    """Logs warnings that strangers can cause: of each kind one a minute, with the number of those in between.

    Thread-safe, and takes no lock.
    """

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._totals: dict[str, Iterator[int]] = {}
        self._logged: dict[str, tuple[float, int]] = {}

    def warn(self, kind: str, message: str, *arguments: object) -> None:
        """Log a warning, or a debug line if the last warning of this kind is less than a minute old."""
        total = next(self._totals.setdefault(kind, count(1)))
        now = self._monotonic()
        quiet_until, before = self._logged.get(kind, (-math.inf, 0))
        if now < quiet_until:
            _log.debug(message, *arguments)
            return
        self._logged[kind] = (now + _WARNING_INTERVAL, total)
        more = total - before - 1
        if more > 0:
            _log.warning(f"{message} (and %d more since the last such warning)", *arguments, more)
        else:
            _log.warning(message, *arguments)


class Outage:
    """Logs repeated failures: a warning once a minute, and debug lines in between."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._quiet_until = -math.inf

    def warn(self, message: str, *arguments: object) -> None:
        """Log a warning, or a debug line if the last warning is less than a minute old."""
        now = self._monotonic()
        if now < self._quiet_until:
            _log.debug(message, *arguments)
            return
        self._quiet_until = now + _WARNING_INTERVAL
        _log.warning(message, *arguments)

    def attempt(self, action: Callable[[], object], what: str, *arguments: object) -> Exception | None:
        """Call ``action``. If it raises, log that ``what`` failed and return the exception; the caller retries."""
        try:
            action()
        except StoreError as error:
            self.warn(f"{what} waits for the store: %s", *arguments, error)
            return error
        except Exception as error:
            _log.exception(f"{what} failed; backjob retries", *arguments)
            return error
        return None


def in_event_loop() -> bool:
    """Whether this thread is running a coroutine, so that a blocking call would delay all others."""
    # This package does not import asyncio; while another thread does, the module has no function yet, and no loop runs.
    get_running_loop = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # documented despite its name
    return get_running_loop is not None and get_running_loop() is not None
