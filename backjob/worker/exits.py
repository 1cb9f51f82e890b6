"""Distinguishes errors that are no `Exception`: those of an action must not end the server, those of the server must.

``sys.exit()`` in an action fails its job. But a server may raise `SystemExit` in an action on purpose, from a signal
handler: gunicorn does so when a worker exceeds its timeout.
"""

from __future__ import annotations

import functools
import logging
import opcode
import signal
from collections.abc import Callable, Iterator
from types import CodeType, TracebackType
from typing import Any, Final

_RAISING: Final = frozenset({"RAISE_VARARGS", "RERAISE"})

_log = logging.getLogger("backjob")


class TaskExit(BaseException):
    """A task of an action raised the `SystemExit` or `KeyboardInterrupt` that is the cause."""


def singles(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in an exception group, in order, or the error itself; the cause of a `TaskExit`."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from singles(inner)
    elif isinstance(error, TaskExit) and error.__cause__ is not None:
        yield error.__cause__
    else:
        yield error


def is_from_signal(error: BaseException) -> bool:
    """Return whether a signal handler raised this error, or one of its group, so that the process must end."""
    return any(_is_from_signal(single) for single in singles(error))


def _is_from_signal(error: BaseException) -> bool:
    if isinstance(error, Exception):
        return False
    frames = list(_frames(error.__traceback__))
    if not frames:
        return False
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()}
    if any(entry.tb_frame.f_code in handlers for entry in frames):
        return True
    # Python's own handler of SIGINT has no frame, but no statement of the program raises its error.
    return isinstance(error, KeyboardInterrupt) and not _is_raised(frames[-1])


def _frames(entry: TracebackType | None) -> Iterator[TracebackType]:
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _code(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    code: CodeType | None = getattr(getattr(handler, "__func__", handler), "__code__", None)
    return code


def _is_raised(entry: TracebackType) -> bool:
    return opcode.opname[entry.tb_frame.f_code.co_code[entry.tb_lasti]] in _RAISING


def call_contained(hook: Callable[[], object], what: str, *arguments: object) -> None:
    """Call a function of the application, and log what it raises, so that it ends neither the caller nor the server."""
    try:
        hook()
    except BaseException as error:
        if is_from_signal(error):
            raise
        _log.exception(f"{what} failed", *arguments)
