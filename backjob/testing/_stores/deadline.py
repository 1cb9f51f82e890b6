"""Ends calls to a store that never return, with the stack of the thread that is stuck."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

__all__ = ["Deadline", "Deadlock"]

T = TypeVar("T")

_SIGNAL: Final = signal.SIGUSR2
_LONGEST_PAUSE: Final = 1.0  # s between two checks
_TURN: Final = 1e-6  # s


class Deadlock(AssertionError):
    """Threads are stuck in calls to a store."""


class _Interrupted(BaseException):
    """Raised within a call that takes too long; a store's ``except Exception`` must not catch it."""


class Deadline:
    """The seconds (``patience``) after which a call to a store counts as stuck, in the main thread and in races.

    In the main thread a signal interrupts the call. Other threads can't be interrupted, so they are abandoned.
    ``is_stuck`` is true from then on: closing the store might never return either.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.is_stuck = False
        self._process, self._thread = os.getpid(), threading.get_ident()
        self._call: tuple[str, float] | None = None
        """The name of the call that the main thread makes, and when it began."""
        self._over = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the calls of the block."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread can have handlers of signals
            return
        before = signal.signal(_SIGNAL, self._interrupt)
        watch = threading.Thread(target=self._watch, name="store deadline", daemon=True)
        watch.start()
        try:
            yield
        finally:
            self._over.set()
            watch.join()
            signal.signal(_SIGNAL, signal.SIG_DFL if before is None else before)

    def call(self, name: str, method: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """The result of the method. Raises `Deadlock` if it does not return in time."""
        __tracebackhide__ = True
        if self._thread != threading.get_ident() or self._process != os.getpid():
            return method(*arguments, **named)
        self._call = name, time.monotonic()
        try:
            return method(*arguments, **named)
        except _Interrupted as interrupted:
            self.is_stuck = True
            raise Deadlock(
                f"promise broken: every call returns; {name} did not within {self.patience:g} s\n"
                f"its stack:\n{interrupted}"
            ) from None
        finally:
            self._call = None

    def at_once(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The results of the calls, each made from its own thread at the same moment. Raises the first error.

        Calls that have not returned in time break a promise.
        """
        results: dict[int, T] = {}
        errors: dict[int, BaseException] = {}
        barrier = threading.Barrier(len(calls))

        def run(index: int, call: Callable[[], T]) -> None:
            try:
                barrier.wait(self.patience)
                results[index] = call()
            except BaseException as error:
                errors[index] = error

        threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(calls)]
        deadline = time.monotonic() + self.patience
        with _restless():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        stuck = [thread for thread in threads if thread.is_alive()]
        error = errors[min(errors)] if errors else None
        if stuck:
            self.is_stuck = True
            where = sys._current_frames().get(stuck[0].ident or 0)  # noqa: SLF001 - the documented way
            raise Deadlock(
                f"promise broken: calls from many threads all return; {len(stuck)} did not within {self.patience:g} s\n"
                f"stack of one of them:\n{''.join(traceback.format_stack(where))}"
            ) from error
        if error is not None:
            raise error
        return [results[index] for index in range(len(calls))]

    def _watch(self) -> None:
        # Counts its own pauses, not the time: a machine that stalls for longer than ``patience`` stalls this thread too.
        pause = min(self.patience / 4, _LONGEST_PAUSE)
        watched, waited = None, 0.0
        while not self._over.wait(pause):
            call = self._call
            waited = waited + pause if call is watched else 0.0
            watched = call
            if call is not None and waited >= self.patience:
                signal.pthread_kill(self._thread, _SIGNAL)

    def _interrupt(self, _: int, frame: FrameType | None) -> None:
        call = self._call
        if call is not None and time.monotonic() - call[1] > self.patience:
            raise _Interrupted("".join(traceback.format_stack(frame)[-_FRAMES:]))


_FRAMES: Final = 8  # of the stack: those of the store, without pytest's


@contextmanager
def _restless() -> Iterator[None]:
    """Switch threads far more often than usual, so that steps that are not atomic are caught."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
