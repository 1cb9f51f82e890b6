"""Calls ``on_end`` and receivers of signals in a thread of their own, so that slow ones delay neither jobs nor leases."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from attrs import frozen

from backjob.delivery.leaving import leave_at_exit

_MOST_WAITING: Final = 1000
_REST: Final = 1.0  # s: then the thread gives back its connections
_IDLE: Final = 30.0  # s: then it ends

_log = logging.getLogger("backjob")


@frozen(eq=False, repr=False)
class _Call:
    """A call that waits. ``dropped`` is called if it can't be made."""

    job_id: str
    callback: Callable[[], object]
    dropped: Callable[[], object] | None


class Callbacks:
    """Makes calls one after another, each at most once: keep it in a `PerProcess`. Thread-safe.

    Its thread starts when there is something to call. ``leave`` closes what an adapter keeps for each thread; ``what`` is
    called, in the log's words.
    """

    def __init__(self, leave: Callable[[], object], what: str = "on_end", thread: str = "backjob-callbacks") -> None:
        self._leave = leave
        self._what = what
        self._thread = thread
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._has_thread = False
        self._is_calling = False
        self._is_closed = False
        leave_at_exit(self)

    @property
    def is_running(self) -> bool:
        """Whether there are calls left to make at the end of the process."""
        return self._has_thread

    @property
    def count(self) -> int:
        """How many calls wait to be made."""
        return len(self._calls)

    def has_unclaimed(self, timeout: float) -> bool:  # noqa: ARG002 - for `leave_at_exit`
        """Return False: the process need not stay for the sake of this."""
        return False

    def call(self, job_id: str, callback: Callable[[], object], dropped: Callable[[], object] | None = None) -> None:
        """Have the thread call this; without a thread, call it here. If 1000 calls are waiting, log an error and drop it.

        ``dropped`` is called instead then, and also if the process ends first.
        """
        with self._changed:
            if len(self._calls) >= _MOST_WAITING:
                _log.error(
                    "job %s: %s is too slow: %d calls are waiting, so it is not called for this job",
                    job_id, self._what, _MOST_WAITING,
                )  # fmt: skip
                callback = dropped or _nothing
            elif not self._is_closed and self._ensure_thread():
                self._calls.append(_Call(job_id, callback, dropped))
                self._changed.notify_all()
                return
        _make(job_id, callback)

    def flush(self, timeout: float) -> bool:
        """Wait until all calls are made, for at most ``timeout`` seconds. Returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._calls and not self._is_calling, timeout)

    def close(self, timeout: float) -> None:
        """Make the waiting calls, for at most ``timeout`` s, and end the thread. Later calls run in the caller's thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if not self._has_thread or self.flush(timeout):
            return
        with self._changed:
            left, is_calling = [*self._calls], self._is_calling
            self._calls.clear()
        _log.error("the process ends before %s has returned for %d jobs", self._what, len(left) + is_calling)
        for call in left:
            if call.dropped is not None:
                _make(call.job_id, call.dropped)

    def _ensure_thread(self) -> bool:
        if not self._has_thread:
            try:
                threading.Thread(target=self._run, name=self._thread, daemon=True).start()
            except RuntimeError:  # the system starts no more threads
                return False
            self._has_thread = True
        return True

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (call := self._next()) is not None:
            _make(call.job_id, call.callback)
            del call  # and with it what the call refers to
            with self._changed:
                self._is_calling = False
                self._changed.notify_all()
        _make("", self._leave)

    def _next(self) -> _Call | None:
        for pause in (_REST, _IDLE):
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._is_closed, pause)
                if self._calls:
                    self._is_calling = True
                    return self._calls.popleft()
                if self._is_closed or pause == _IDLE:
                    self._has_thread = False
                    return None
            _make("", self._leave)
        return None


def _nothing() -> None:
    """Do nothing."""


def _make(job_id: str, callback: Callable[[], object]) -> None:
    try:
        callback()
    except BaseException:
        _log.exception("a callback for job %s failed", job_id)
