"""Keeps the signatures of worker requests out of access logs and out of reports of errors.

A logged signature is worthless once its run has been claimed, but a log need not show it. The middleware already hides it
from what reads the environ or the scope after it; this module is for what has read the request before.
"""

from __future__ import annotations

import copy
import logging
from typing import Any, Final, TypeVar

from backjob.http.worker_requests import without_signature
from backjob.overriding import override

__all__ = ["SignatureFilter", "redact", "without_signature"]

_T = TypeVar("_T")

_DEEPEST: Final = 30


class SignatureFilter(logging.Filter):
    """Removes signatures from every record that passes: add it to the logger or the handler of an access log."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = _redacted(record.msg, _DEEPEST)
        if record.args:
            if isinstance(record.args, dict):
                args: Any = copy.copy(
                    record.args
                )  # gunicorn's is of a kind of its own, which shows "-" for missing values
                args.update({name: _redacted(value, _DEEPEST) for name, value in args.items()})
                record.args = args
            else:
                record.args = _redacted(record.args, _DEEPEST)
        return True


def redact(event: _T, hint: object = None) -> _T:  # noqa: ARG001 - Sentry passes it
    """Return an event of Sentry without signatures: ``sentry_sdk.init(before_send=redact, before_send_transaction=redact)``.

    It works on any value made of dicts, lists, tuples and texts.
    """
    found: _T = _redacted(event, _DEEPEST)
    return found


def _redacted(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return without_signature(value)
    if isinstance(value, bytes):
        return without_signature(value.decode("latin-1")).encode("latin-1") if b"backjob" in value else value
    if depth == 0:
        return value
    if type(value) is dict:
        return {name: _redacted(one, depth - 1) for name, one in value.items()}
    if type(value) is list:
        return [_redacted(one, depth - 1) for one in value]
    if type(value) is tuple:
        return tuple(_redacted(one, depth - 1) for one in value)
    return value
