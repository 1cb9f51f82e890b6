"""Captures the records of `logging` that an action emits.

A handler of our own on the root logger would change how the application logs: `logging.basicConfig` and Flask configure
nothing if there is one, and Python's handler of last resort falls silent. So `logging.Logger.callHandlers` is wrapped,
which gets each record that its logger lets through, once.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, TypeAlias

Take: TypeAlias = Callable[[logging.LogRecord], "AbstractContextManager[object] | None"]
"""Takes a record of a job, and returns a context in which to call its handlers; None if it does not want the record."""

_OWN: Final = "backjob"

_installing: Final = threading.Lock()
_installed = False


def capture_logging(take: Take) -> None:
    """Have ``take`` called with each record, except for backjob's own, from now on. Only the first call has an effect."""
    global _installed  # noqa: PLW0603
    with _installing:
        if _installed:
            return
        _installed = True
        original = logging.Logger.callHandlers

        @functools.wraps(original)
        def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            context = None if record.name.partition(".")[0] == _OWN else take(record)
            if context is None:
                original(logger, record)
            else:
                with context:
                    original(logger, record)

        logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign,assignment]


def line_of(record: logging.LogRecord) -> str:
    """Return a record as a line of output: its level, logger and message, without a traceback."""
    try:
        message = record.getMessage()
    except Exception:  # the arguments do not fit; handlers report it
        message = str(record.msg)
    return f"{record.levelname} {record.name}: {message}\n"
