"""Answers a `JobExit` where Flask calls a view, so that all ``after_request`` functions run, and the session is saved."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Flask, Response

from backjob.worker.outcomes import left_by
from backjob.worker.replies import no_store


def answer_exits(app: Flask) -> None:
    """Have the application respond to a `JobExit` of a view or of a ``before_request`` function."""
    patched: Any = app  # for type checkers methods can't be replaced
    patched.preprocess_request = _answering(app.preprocess_request)
    patched.dispatch_request = _answering(app.dispatch_request)


def _answering(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def answering(*context: Any) -> Any:  # Flask 3.2 passes its context
        try:
            return call(*context)
        except BaseException as error:
            job_exit = left_by(error)
            if job_exit is None:
                raise
            return Response(str(job_exit), job_exit.status, list(no_store()))

    return answering
