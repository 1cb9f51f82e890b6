"""Completes the future of a delivery, whatever has become of it meanwhile."""

from __future__ import annotations

import logging
from concurrent.futures import Future, InvalidStateError

from backjob.errors import BackJobError, ConnectionLost, TransportError
from backjob.model import Response

__all__ = ["reason_of", "settle"]

_log = logging.getLogger("backjob.transports")


def reason_of(error: BaseException) -> str:
    """Return why a delivery could not be signed. The text of a foreign error is left out: it might quote a secret."""
    return str(error) if isinstance(error, BackJobError) else type(error).__name__


def settle(future: Future[Response], outcome: Response | BaseException) -> None:
    """Set the result or the exception of a future, unless it was cancelled or settled before. Never raises.

    Any thread may call it, and several may. An error that is no `TransportError` becomes the cause of a
    `ConnectionLost`, because the request may have arrived.
    """
    try:
        try:
            if isinstance(outcome, Response):
                future.set_result(outcome)
            else:
                future.set_exception(_as_transport_error(outcome))
        except InvalidStateError:  # it was cancelled, or another thread came first
            if future.cancelled():
                future.set_running_or_notify_cancel()
    except BaseException:  # a callback's SystemExit must not end the thread
        _log.exception("a callback of a worker request failed")


def _as_transport_error(error: BaseException) -> TransportError:
    # The traceback's frames would keep the whole exchange in memory for as long as the error exists.
    error = error.with_traceback(None)
    if isinstance(error, TransportError):
        return error
    lost = ConnectionLost(reason_of(error))
    lost.__cause__ = error
    return lost
