"""Answers a `JobExit` in the innermost layer of Django's handler, so that all middlewares see a response.

Django turns an `Exception` into a response at each middleware. Another error skips the rest of all of them: spans stay
open, counters are wrong. Django has no hook that is called between the last middleware and the view for every view.
"""

from __future__ import annotations

from functools import wraps
from typing import Any, Final, cast

from django.core.handlers.base import BaseHandler
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from backjob.worker.outcomes import left_by
from backjob.worker.replies import no_store
from backjob.worker.running import current

_MARK: Final = "_backjob_answers_exits"


def answer_exits() -> None:
    """Have handlers that are made from now on respond to a `JobExit`. Transactions are rolled back, as for any error."""
    handler: Any = BaseHandler  # its methods are replaced
    if hasattr(handler, _MARK):
        return
    sync, in_event_loop = handler._get_response, handler._get_response_async  # noqa: SLF001

    @wraps(sync)
    def get_response(self: BaseHandler, request: HttpRequest) -> HttpResponseBase:
        try:
            return cast("HttpResponseBase", sync(self, request))
        except BaseException as error:
            answer = _answer(error)
            if answer is None:
                raise
            return answer

    @wraps(in_event_loop)
    async def get_response_async(self: BaseHandler, request: HttpRequest) -> HttpResponseBase:
        try:
            return cast("HttpResponseBase", await in_event_loop(self, request))
        except BaseException as error:
            answer = _answer(error)
            if answer is None:
                raise
            return answer

    handler._get_response, handler._get_response_async = get_response, get_response_async  # noqa: SLF001
    setattr(handler, _MARK, True)


def _answer(error: BaseException) -> HttpResponse | None:
    """Return the response to a `JobExit`; None for any other error."""
    job_exit = left_by(error)
    if job_exit is None:
        return None
    response: Any = HttpResponse(str(job_exit).encode(), status=job_exit.status, headers=dict(no_store()))
    if current.get() is not None:
        response._has_been_logged = True  # noqa: SLF001 - the job says it; it is no error of the site
    return cast("HttpResponse", response)
