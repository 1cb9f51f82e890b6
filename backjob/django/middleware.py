"""The middleware, for WSGI and ASGI; it must be the first in MIDDLEWARE."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.utils.functional import Promise

from backjob.django.connections import job_context
from backjob.django.owners import keep_owner
from backjob.django.requests import (
    DjangoServing,
    comes_from_server,
    is_served_alone,
    listener_of,
    move_mount,
    outside_of,
    restore,
    routed_requests,
    threads_of,
    urls_below_mount,
)
from backjob.django.sessions import merge_session_changes
from backjob.django.site import jobs
from backjob.http.serving import serving
from backjob.jobs import Engine, check_without_engine
from backjob.worker.offload import raise_if_cancelled, shielded
from backjob.worker.outcomes import Outcome, error_to_raise, exit_of, status_of
from backjob.worker.replies import CONCURRENCY_HEADER, Reply, WorkerRequest, no_store, show_outside
from backjob.worker.responses import ActionResponse
from backjob.worker.running import Running, current
from backjob.worker.task_exits import contain_tasks

__all__ = ["BackJobMiddleware"]

_BECOMES_4XX: Final = (Http404, PermissionDenied, BadRequest)
_LARGE_CHUNK: Final = 1 << 16  # bytes: to write more to a file could block the event loop

_log = logging.getLogger("backjob")


class BackJobMiddleware:
    """Recognises worker requests and runs their actions; it passes all other requests on unchanged."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        self._knows_server = False
        jobs.load_store()
        # Django calls this hook before each view. A sync hook would cost each async request a switch of threads.
        self.process_view = self._before_view_async if self._is_async else self._before_view
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        return self._in_event_loop(request) if self._is_async else self._in_thread(request)

    def _before_view(self, request: HttpRequest, *_view: Any) -> None:
        if current.get() is not None:
            merge_session_changes(request)
            keep_owner(request)

    async def _before_view_async(self, *call: Any) -> None:
        if current.get() is not None:
            await sync_to_async(self._before_view)(*call)

    def process_exception(self, _request: HttpRequest, exception: Exception) -> None:
        """Keep the message of an exception that Django turns into a 4xx response, whose page does not have it."""
        running = current.get()
        if running is not None:
            running.message = _message_of(exception)

    # --- WSGI -------------------------------------------------------------------------------------------------------

    def _in_thread(self, request: HttpRequest) -> HttpResponseBase:
        site = jobs.engine_if_usable()
        if not self._knows_server:
            self._knows_server = True
            if is_served_alone(request):
                _log.warning(
                    "this server serves one request at a time: while a job runs, every page waits, its progress page "
                    "too; start the server with threads or more workers"
                )
        try:
            opened = _open(site, request)
            if site is None or opened is None:
                with _served(request):
                    return cast("HttpResponseBase", self._get_response(request))
            running = _claim(site, request, opened)
        except Reply as reply:
            show_outside(reply, *outside_of(request))
            time.sleep(reply.hold)
            return _replied(reply, request)
        except BaseException as error:
            return _exit_response(error)
        response, outcome = self._act(site, request, running)
        site.worker.end(running, outcome)
        return _done(running, response, outcome)

    def _act(self, site: Engine, request: HttpRequest, running: Running) -> tuple[Any, Outcome]:
        response: Any = None
        collected = ActionResponse(running)
        error: BaseException | None = None
        with _served(request), urls_below_mount(request), job_context(running.job.id), running.active():
            try:
                if running.job.as_owner:
                    site.run_as_owner(running.job, request)
                response = self._get_response(request)
                try:
                    _begin(collected, response)
                    if response.streaming:
                        _consume(collected, response.streaming_content)
                    collected.end()
                finally:
                    _close(response)
            except BaseException as raised:
                error = raised
        return response, collected.outcome(error, site.clock.now())

    # --- ASGI -------------------------------------------------------------------------------------------------------

    async def _in_event_loop(self, request: HttpRequest) -> HttpResponseBase:
        site = jobs.built or await sync_to_async(jobs.engine_if_usable)()
        try:
            opened = _open(site, request)
            if site is None or opened is None:
                with _served(request):
                    return cast("HttpResponseBase", await self._get_response(request))
            running = await shielded(sync_to_async(_claim)(site, request, opened))
        except Reply as reply:
            show_outside(reply, *outside_of(request))
            if reply.hold:
                await asyncio.sleep(reply.hold)
            return _replied(reply, request)
        except BaseException as error:
            return _exit_response(error)
        return _done(running, *await shielded(self._act_and_end(site, request, running)))

    async def _act_and_end(self, site: Engine, request: HttpRequest, running: Running) -> tuple[Any, Outcome]:
        response: Any = None
        collected = ActionResponse(running)
        error: BaseException | None = None
        contain_tasks()
        with _served(request), urls_below_mount(request), job_context(running.job.id), running.active():
            try:
                if running.job.as_owner:
                    await sync_to_async(site.run_as_owner)(running.job, request)
                response = await self._get_response(request)
                try:
                    await sync_to_async(_begin)(collected, response)
                    if response.streaming and response.is_async:
                        await _consume_async(collected, response.streaming_content)
                    elif response.streaming:
                        await sync_to_async(_consume)(collected, response.streaming_content)
                    collected.end()
                finally:
                    await sync_to_async(_close)(response)
            except BaseException as raised:
                error = raised
        outcome = collected.outcome(error, site.clock.now())
        await sync_to_async(site.worker.end)(running, outcome)
        raise_if_cancelled(error)
        return response, outcome


# --- shared by both -----------------------------------------------------------------------------------


def _open(site: Engine | None, request: HttpRequest) -> WorkerRequest | None:
    if site is None:
        check_without_engine(lambda: routed_requests(request))
        return None
    move_mount(request)
    listener = partial(listener_of, request)
    if comes_from_server(request):
        site.request_arrived(listener, threads_of(request))
    opened = site.worker_request(lambda: routed_requests(request), listener)
    show_outside(opened, *outside_of(request))
    return opened


def _claim(site: Engine, request: HttpRequest, opened: WorkerRequest) -> Running:
    body = request.read(opened.length) if opened.length else b""
    running = site.worker.claim(opened, body)
    try:
        restore(request, opened.request, running.job.caller, running.fields, body)
    except BaseException as error:
        site.worker.end(running, Outcome(error=error))
        raise
    # The signature proves what a CSRF token would: that this site itself made the request.
    marked: Any = request
    marked._dont_enforce_csrf_checks = True  # noqa: SLF001
    return running


@contextmanager
def _served(request: HttpRequest) -> Iterator[None]:
    token = serving.set(DjangoServing(request))
    try:
        yield
    finally:
        serving.reset(token)


def _begin(collected: ActionResponse, response: Any) -> None:
    """Collect an action's response, and its body unless that is streamed."""
    collected.begin(response.status_code, response.reason_phrase, response.items())
    if not response.streaming:
        collected.write(response.content, is_whole=True)


def _consume(collected: ActionResponse, chunks: Iterator[bytes]) -> None:
    for chunk in chunks:
        collected.write(chunk)


async def _consume_async(collected: ActionResponse, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        if collected.may_block or len(chunk) > _LARGE_CHUNK:
            await sync_to_async(collected.write)(chunk)
        else:
            collected.write(chunk)


def _message_of(exception: Exception) -> str | None:
    text = exception.args[0] if exception.args else None
    return str(text) if isinstance(exception, _BECOMES_4XX) and isinstance(text, str | Promise) else None


def _close(response: Any) -> None:
    """Close the action's response without the signal `request_finished`, which the server's response sends."""
    for closer in response._resource_closers:  # noqa: SLF001 - close() would send the signal
        closer()
    response._resource_closers.clear()  # noqa: SLF001
    response.closed = True


def _done(running: Running, response: Any, outcome: Outcome) -> HttpResponse:
    """Return the response to the monitor. Django logs an error of the action with its traceback, but not ``fail()``."""
    if (error := error_to_raise(running, outcome)) is not None:
        raise error
    answer: Any = _plain(status_of(outcome), "", running.headers)
    # Django does not log a response with this mark: an error is logged already, and an exit is not an error.
    answer._has_been_logged = response is None or getattr(response, "_has_been_logged", False)  # noqa: SLF001
    return cast("HttpResponse", answer)


def _replied(reply: Reply, request: HttpRequest) -> HttpResponse:
    response: Any = _plain(reply.status, str(reply), reply.headers)
    response._has_been_logged = True  # noqa: SLF001 - by backjob, and not once for each forged request
    response[CONCURRENCY_HEADER] = "one" if is_served_alone(request) else "many"
    return cast("HttpResponse", response)


def _exit_response(error: BaseException) -> HttpResponse:
    """Return the response for a person whose route raised a `JobExit`; re-raise any other error."""
    job_exit = exit_of(error)
    if job_exit is None:
        raise error
    return _plain(job_exit.status, str(job_exit), no_store())


def _plain(status: int, text: str, headers: tuple[tuple[str, str], ...]) -> HttpResponse:
    return HttpResponse(text.encode(), status=status, headers=dict(headers))
