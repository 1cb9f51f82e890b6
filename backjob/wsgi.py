"""WSGI (PEP 3333): the middleware, which must be the application's outermost, and the status routes."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from backjob.adapters import ActionCall, Receiver, served, visit
from backjob.errors import JobExit
from backjob.http.environ import (
    EnvironServing,
    comes_from_server,
    listener_of,
    move_mount,
    request_of,
    restore,
    routed_request,
    threads_of,
)
from backjob.http.serving import serving
from backjob.http.worker_requests import hide_signature
from backjob.jobs import BackJob, Engine, check_without_engine, engine_of
from backjob.lifecycle import status_line
from backjob.model import Headers
from backjob.protocols import Signer
from backjob.status.endpoints import Endpoints
from backjob.worker.outcomes import exit_of
from backjob.worker.replies import CONCURRENCY_HEADER, Reply, WorkerRequest, no_store, show_outside
from backjob.worker.responses import ActionResponse

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["BackJobMiddleware", "HideSignature", "StatusApp"]

_ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | None"


class BackJobMiddleware:
    """Recognises worker requests and runs their actions; it passes all other requests on unchanged.

    With ``status`` it also serves the status routes under the `BackJob`'s ``status_prefix``.
    """

    def __init__(self, app: WSGIApplication, jobs: BackJob | Engine, status: bool = True) -> None:
        self._app = app
        self._jobs = engine_of(jobs)
        self._receiver = Receiver(jobs)
        self._status = StatusApp(jobs) if status else None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        listener = partial(listener_of, environ)
        move_mount(environ)
        if comes_from_server(environ):
            self._jobs.request_arrived(listener, threads_of(environ))
        try:
            opened = self._jobs.worker_request(lambda: (routed_request(environ),), listener)
            show_outside(opened, environ)
            if opened is not None:
                return self._work(environ, start_response, opened)
        except Reply as reply:
            show_outside(reply, environ)
            time.sleep(reply.hold)
            return _reply(environ, start_response, reply)
        if self._status is not None and (below := self._status.below(environ)) is not None:
            with served(EnvironServing(environ)):  # for a job that runs again as the current user
                return self._status(below, start_response)
        return _pass_on(self._app, environ, start_response)

    # --- a worker request -------------------------------------------------------------------------------------------

    def _work(self, environ: WSGIEnvironment, start_response: StartResponse, opened: WorkerRequest) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(opened.length) if opened.length else b""
        answer = self._receiver.run(opened, body, partial(self._act, environ))
        return _answer(start_response, f"{answer.status} {answer.reason}".strip(), answer.headers, "")

    def _act(self, environ: WSGIEnvironment, call: ActionCall) -> None:
        """Run the action to its end, even if the connection is lost."""
        response = call.response
        with served(EnvironServing(environ)):
            restore(environ, call.opened.request, call.caller, call.running.fields)
            environ["wsgi.input"] = io.BytesIO(call.body)
            if call.job.as_owner:
                self._jobs.run_as_owner(call.job, environ)
            chunks = self._app(environ, partial(_begin, response))
            is_whole = isinstance(chunks, list | tuple)
            try:
                for chunk in chunks:
                    response.write(chunk, is_whole=is_whole)
                response.end()
            finally:
                close = getattr(chunks, "close", None)
                if close is not None:
                    close()


class HideSignature:
    """Hides the signatures of worker requests from everything inside of it but `BackJobMiddleware`.

    Wrap the whole application in it if something around the middleware reads queries, such as tracing or an access log.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        hide_signature(environ)
        return self._app(environ, start_response)


def without_engine(
    app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse, signer: Signer | None = None
) -> Iterable[bytes]:
    """Serve a request of an application whose engine can't be built: all but worker requests are passed on."""
    try:
        check_without_engine(lambda: (routed_request(environ),), signer)
    except Reply as reply:
        show_outside(reply, environ)
        return _reply(environ, start_response, reply)
    return _pass_on(app, environ, start_response)


def _reply(environ: WSGIEnvironment, start_response: StartResponse, reply: Reply) -> Iterable[bytes]:
    many = environ.get("wsgi.multithread") or environ.get("wsgi.multiprocess")
    headers = (*reply.headers, (CONCURRENCY_HEADER, "many" if many else "one"))
    return _answer(start_response, f"{reply.status} {reply.reason}", headers, str(reply))


def _pass_on(app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Serve an ordinary request, which may start jobs or raise a `JobExit`."""
    here = EnvironServing(environ)
    token = serving.set(here)
    has_started = False

    def start(*arguments: Any) -> Any:
        nonlocal has_started
        has_started = True
        return start_response(*arguments)

    try:
        body = app(environ, start)
    except BaseException as error:
        job_exit = exit_of(error)
        if job_exit is None:
            raise
        # PEP 3333: a second start_response() needs exc_info; some servers re-raise it in any case.
        exc_info = (type(job_exit), job_exit, None) if has_started else None
        try:
            return _answer(start_response, status_line(job_exit.status), no_store(), str(job_exit), exc_info)
        except JobExit:
            return []  # the headers have been sent, so the response ends here
    finally:
        serving.reset(token)
    file_wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(body, list | tuple) or (isinstance(file_wrapper, type) and isinstance(body, file_wrapper)):
        return body
    return _Body(body, here)


def _begin(
    response: ActionResponse, status: str, headers: list[tuple[str, str]], _exc_info: _ExcInfo = None, /
) -> Callable[[bytes], object]:
    """``start_response`` of an action."""
    code, _, reason = status.partition(" ")
    response.begin(int(code), reason, headers)
    return response.write


class _Body:
    """The body of an ordinary response: its generator may start jobs too, or raise a `JobExit`."""

    def __init__(self, body: Iterable[bytes], here: EnvironServing) -> None:
        self._body = body
        self._chunks = iter(body)
        self._here = here

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = serving.set(self._here)
        try:
            return next(self._chunks)
        except BaseException as error:
            if exit_of(error) is None:
                raise
            raise StopIteration from None
        finally:
            serving.reset(token)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


class StatusApp:
    """The status routes as a WSGI application, for you to mount at the `BackJob`'s ``status_prefix``.

    It serves event streams only if you give the `BackJob` a number of ``streams``: each occupies a thread.
    """

    def __init__(self, jobs: BackJob | Engine) -> None:
        self._jobs = engine_of(jobs)
        self._endpoints = Endpoints(self._jobs, self._jobs.status_prefix)

    def below(self, environ: WSGIEnvironment) -> WSGIEnvironment | None:
        """Return the environ of a request below the prefix, or None for any other request."""
        path = self._endpoints.below(environ.get("PATH_INFO", ""))
        if path is None:
            return None
        mount = environ.get("SCRIPT_NAME", "") + self._jobs.status_prefix
        return {**environ, "SCRIPT_NAME": mount, "PATH_INFO": path}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request, here = request_of(environ), EnvironServing(environ)
        path = environ.get("PATH_INFO", "")
        answer = self._endpoints.respond(visit(self._jobs, request, here, path, here.mount))
        start_response(f"{answer.status} {answer.reason}", list(answer.headers))
        return answer.stream or answer.download or [answer.body]


def _answer(
    start_response: StartResponse, line: str, headers: Headers, text: str, exc_info: Any = None
) -> Iterable[bytes]:
    body = text.encode()
    fields = [*headers, ("Content-Length", str(len(body)))]
    if exc_info is None:
        start_response(line, fields)
    else:
        start_response(line, fields, exc_info)
    return [body]
