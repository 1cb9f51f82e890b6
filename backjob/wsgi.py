"""WSGI (PEP 3333): translate, then ask `worker`. `BackJobMiddleware` must be the outermost of the application's own."""

from __future__ import annotations

import codecs
import io
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

from backjob.errors import AddressUnknown, JobExit
from backjob.http.addresses import learnt_base_url
from backjob.http.serving import FORWARDED_FIELDS, Serving, serving, text_decoder
from backjob.http.targets import canonical_path
from backjob.jobs import BackJob, Engine, engine_of
from backjob.lifecycle import status_line
from backjob.model import Caller, Headers, Request
from backjob.protocols import Verified
from backjob.status.endpoints import Ask, Endpoints
from backjob.worker.claiming import CONCURRENCY_HEADER, Outcome, Refusal, exit_of, no_store
from backjob.worker.running import Running

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["BackJobMiddleware", "StatusApp", "base_url_of", "request_of", "restore", "serving_of"]

_ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | None"

_UNPREFIXED: Final = {"CONTENT_TYPE": "Content-Type", "CONTENT_LENGTH": "Content-Length"}


class BackJobMiddleware:
    """Recognises worker requests and runs their actions; everything else passes through as it came.

    With ``status`` it also serves the status routes under the `BackJob`'s ``status_prefix``.
    """

    def __init__(self, app: WSGIApplication, jobs: BackJob | Engine, status: bool = True) -> None:
        self._app = app
        self._jobs = engine_of(jobs)
        self._status = StatusApp(jobs) if status else None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._jobs.monitor.ensure_running()
        if self._jobs.transport is None:
            self._learn(environ)
        try:
            request = request_of(environ)
            verified = self._jobs.worker.open(request)
            if verified is not None:
                return self._work(environ, start_response, verified)
        except Refusal as refusal:
            headers = (*refusal.headers, (CONCURRENCY_HEADER, _concurrency(environ)))
            return _answer(start_response, f"{refusal.status} {refusal.reason}", headers, str(refusal))
        if self._status is not None and (below := self._status.below(environ)) is not None:
            return self._status(below, start_response)
        return self._pass_on(environ, start_response)

    def _learn(self, environ: WSGIEnvironment) -> None:
        try:
            self._jobs.learn_address(base_url_of(environ))
        except AddressUnknown:
            return  # start() says so, to whom it concerns

    # --- a worker request -------------------------------------------------------------------------------------------

    def _work(self, environ: WSGIEnvironment, start_response: StartResponse, verified: Verified) -> Iterable[bytes]:
        length = self._jobs.worker.body_length(environ.get("CONTENT_LENGTH"))
        body = environ["wsgi.input"].read(length) if length else b""
        running = self._jobs.worker.claim(verified, body)
        restore(environ, verified.request, running.job.caller)
        environ["wsgi.input"] = io.BytesIO(body)
        token = serving.set(_Serving(environ))
        try:
            outcome = self._act(environ, running)
        finally:
            serving.reset(token)
        self._jobs.worker.end(running, outcome)
        if outcome.error is not None and exit_of(outcome.error) is None:
            raise outcome.error
        line = f"{outcome.status} {outcome.reason}".strip() if outcome.status else "500 Internal Server Error"
        return _answer(start_response, line, no_store(), "")

    def _act(self, environ: WSGIEnvironment, running: Running) -> Outcome:
        """Run the action to its end, whatever becomes of the connection: nobody else wants its body."""
        response = _Collected(running)
        error: BaseException | None = None
        with running.active():
            try:
                body = self._app(environ, response.start)
                try:
                    for chunk in body:
                        response.write(chunk)
                finally:
                    close = getattr(body, "close", None)
                    if close is not None:
                        close()
            except BaseException as raised:
                error = raised
        return Outcome(response.status, response.reason, response.location, error)

    # --- an ordinary request ----------------------------------------------------------------------------------------

    def _pass_on(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        here = _Serving(environ)
        token = serving.set(here)
        begun = False

        def begin(*arguments: Any) -> Any:
            nonlocal begun
            begun = True
            return start_response(*arguments)

        try:
            body = self._app(environ, begin)
        except BaseException as error:
            left = exit_of(error)
            if left is None:
                raise
            # PEP 3333: to begin a second time needs the exception, which some servers raise again in any case.
            exc_info = (type(left), left, None) if begun else None
            try:
                return _answer(start_response, status_line(left.status), no_store(), str(left), exc_info)
            except JobExit:
                return []  # the head has been sent: what began so ends so
        finally:
            serving.reset(token)
        file_wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(body, list | tuple) or (isinstance(file_wrapper, type) and isinstance(body, file_wrapper)):
            return body
        return _Body(body, here)


class _Collected:
    """Takes an action's response: its first line, and of a streamed text the chunks as output."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._decoder: codecs.IncrementalDecoder | None = None
        self.status = 0
        self.reason = ""
        self.location: str | None = None

    def start(
        self, status: str, headers: list[tuple[str, str]], _exc_info: _ExcInfo = None, /
    ) -> Callable[[bytes], object]:
        code, _, self.reason = status.partition(" ")
        self.status = int(code)
        fields = {name.lower(): value for name, value in headers}
        self.location = fields.get("location")
        self._decoder = text_decoder(self.status, fields.get("content-type", ""), has_length="content-length" in fields)
        return self.write

    def write(self, chunk: bytes, /) -> None:
        if self._decoder is not None:
            self._running.write(self._decoder.decode(chunk))


class _Body:
    """An ordinary response's body, whose generator may start jobs too, or leave by a `JobExit`."""

    def __init__(self, body: Iterable[bytes], here: _Serving) -> None:
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
    """The status routes as a WSGI application of its own, to be mounted at the `BackJob`'s ``status_prefix``.

    Event streams are served if the `BackJob` is given a number of ``streams``: each occupies a thread.
    """

    def __init__(self, jobs: BackJob | Engine) -> None:
        self._jobs = engine_of(jobs)
        self._endpoints = Endpoints(self._jobs, self._jobs.status_prefix)

    def below(self, environ: WSGIEnvironment) -> WSGIEnvironment | None:
        """The environ as it is below the prefix, or None if the request is for something else."""
        path = self._endpoints.below(environ.get("PATH_INFO", ""))
        if path is None:
            return None
        mount = environ.get("SCRIPT_NAME", "") + self._jobs.status_prefix
        return {**environ, "SCRIPT_NAME": mount, "PATH_INFO": path}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = request_of(environ)
        answer = self._endpoints.answer(
            Ask(
                method=request.method,
                path=environ.get("PATH_INFO", ""),
                query=environ.get("QUERY_STRING", ""),
                headers=request.headers,
                owner=self._jobs.owner_of(request),
                mount=_Serving(environ).mount,
            )
        )
        start_response(f"{answer.status} {answer.reason}", list(answer.headers))
        return [answer.body] if answer.stream is None else answer.stream


# --- translating ----------------------------------------------------------------------------------------------------


class _Serving:
    """An environ, translated when somebody asks.

    The mount is that of the middleware: dispatchers below it move more of the path to SCRIPT_NAME.
    """

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ
        self._path: str = environ.get("PATH_INFO", "")

    @property
    def request(self) -> Request:
        return request_of(self._environ)

    @property
    def caller(self) -> Caller:
        environ = self._environ
        forwarded = tuple(
            (name, environ[key])
            for name in FORWARDED_FIELDS
            if (key := "HTTP_" + name.upper().replace("-", "_")) in environ
        )
        return Caller(
            scheme=environ.get("wsgi.url_scheme", "http"),
            host=environ.get("HTTP_HOST", ""),
            address=environ.get("REMOTE_ADDR", ""),
            forwarded=forwarded,
        )

    @property
    def origin(self) -> str:
        caller = self.caller
        return f"{caller.scheme}://{caller.host}"

    @property
    def mount(self) -> str:
        mount: str = self._environ.get("SCRIPT_NAME", "")
        whole = mount + self._environ.get("PATH_INFO", "")
        if self._path and whole.endswith(self._path):
            mount = whole.removesuffix(self._path)
        return canonical_path(mount.encode("latin-1"))


def serving_of(environ: WSGIEnvironment) -> Serving:
    """The core's view of a request, for where no middleware shows one."""
    return _Serving(environ)


def request_of(environ: WSGIEnvironment) -> Request:
    """The request as it arrived, without its body."""
    raw = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    path = _path_of(raw) if raw else None
    decoded = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    rebuilt = path is None
    if path is None:
        path = canonical_path(decoded.encode("latin-1")) or "/"
    query = environ.get("QUERY_STRING", "")
    return Request(
        environ["REQUEST_METHOD"], f"{path}?{query}" if query else path, _headers_of(environ), raw=not rebuilt
    )


def _path_of(raw: str) -> str:
    if raw.startswith("/"):
        return raw.partition("?")[0]
    try:
        return urlsplit(raw).path or "/"
    except ValueError:
        return raw  # whatever it is, the application shall see it, and no signature fits


def _headers_of(environ: WSGIEnvironment) -> Headers:
    fields = []
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            fields.append((key[5:].replace("_", "-").title(), value))
        elif key in _UNPREFIXED and value:
            fields.append((_UNPREFIXED[key], value))
    return tuple(fields)


def base_url_of(environ: WSGIEnvironment) -> str:
    """The server's own base URL, from its socket where it shows one, else from its port. Raises `AddressUnknown`.

    Nothing that a client can forge is looked at: no Host, no forwarded field, no SERVER_NAME.
    """
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is not None:
        return learnt_base_url(connection.getsockname(), connection.family, tls=isinstance(connection, ssl.SSLSocket))
    port = str(environ.get("SERVER_PORT", ""))
    if not (port.isascii() and port.isdigit()) or not re.fullmatch(r"[0-9a-fA-F.:]+", environ.get("REMOTE_ADDR", "")):
        raise AddressUnknown("the server does not tell that it listens on a TCP port: set the base URL")
    return learnt_base_url(("0.0.0.0", int(port)), socket.AF_INET, tls=False)  # noqa: S104 - read as loopback


def _concurrency(environ: WSGIEnvironment) -> str:
    return "many" if environ.get("wsgi.multithread") or environ.get("wsgi.multiprocess") else "one"


def restore(environ: WSGIEnvironment, request: Request, caller: Caller | None) -> None:
    """Show the application the request that the developer asked for, as from the client that started it."""
    environ["QUERY_STRING"] = request.query
    for key in ("REQUEST_URI", "RAW_URI"):
        if key in environ:
            environ[key] = request.target
    for name in FORWARDED_FIELDS:
        environ.pop("HTTP_" + name.upper().replace("-", "_"), None)
    if caller is None:
        return
    environ["wsgi.url_scheme"] = caller.scheme
    environ["REMOTE_ADDR"] = caller.address
    if caller.host:
        environ["HTTP_HOST"] = caller.host
    for name, value in caller.forwarded:
        environ["HTTP_" + name.upper().replace("-", "_")] = value


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
