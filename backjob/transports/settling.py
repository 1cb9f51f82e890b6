"""Completes the future of a delivery, whatever has become of it meanwhile."""

from __future__ import annotations

import logging
from concurrent.futures import Future

from backjob.errors import BackJobError, TransportError
from backjob.model import Response

_log = logging.getLogger("backjob.transports")


def reason_of(error: BaseException) -> str:
    """Return why a delivery could not be signed. The text of a foreign error is left out: it might quote a secret."""
    return str(error) if isinstance(error, BackJobError) else type(error).__name__


def settle(future: Future[Response], outcome: Response | TransportError) -> None:
    """Set the result or the exception of a future, unless it was cancelled. Never raises."""
    try:
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, TransportError):
            # The traceback's frames would keep the whole exchange in memory for as long as the error exists.
            future.set_exception(outcome.with_traceback(None))
        else:
            future.set_result(outcome)
    except BaseException:  # a callback's SystemExit must not end the thread
        _log.exception("a callback of a worker request failed")
