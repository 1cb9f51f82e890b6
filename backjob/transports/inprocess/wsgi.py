"""Calls a WSGI application (PEP 3333) with a request, as a server does."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from backjob.http.addresses import BaseURL
from backjob.http.serving import IN_PROCESS
from backjob.http.wire import fields_to_send
from backjob.model import Request, Response
from backjob.transports.inprocess.responses import Collected, failed

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

_UNPREFIXED: Final = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})


def call_wsgi(app: WSGIApplication, request: Request, base: BaseURL) -> Response:
    """Call the application in this thread, and return its complete response: a 500, which is logged, if it raises.

    ``base`` is the application's URL for a request that no other one has started. An error that is no `Exception` is
    raised.
    """
    collected = Collected(request)

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        del exc_info  # nothing has been sent, so the new head replaces the old one
        code, _, reason = status.partition(" ")
        collected.begin(int(code), reason, headers)
        return collected.write

    try:
        chunks = app(environ_of(request, base), start_response)
        try:
            for chunk in chunks:
                collected.write(chunk)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        return collected.response()
    except Exception:
        return failed(request)


def environ_of(request: Request, base: BaseURL) -> WSGIEnvironment:
    """Return the environ of a request whose target arrives as it is: the application, or else the middleware, moves its mount."""
    path = _decoded(request.path)
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "" if request.mount else _decoded(base.prefix),
        "PATH_INFO": path,
        "QUERY_STRING": request.query,
        "REQUEST_URI": request.target,
        "RAW_URI": request.target,
        "SERVER_NAME": base.address.host,
        "SERVER_PORT": str(base.address.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "backjob",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": base.scheme,
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        IN_PROCESS: _decoded(request.mount),
    }
    for name, value in fields_to_send(request, base.authority):
        if "_" in name:
            continue  # as servers do: X_User would become the same variable as X-User
        key = name.upper().replace("-", "_")
        key = key if key in _UNPREFIXED else f"HTTP_{key}"
        separator = "; " if key == "HTTP_COOKIE" else ", "
        environ[key] = f"{environ[key]}{separator}{value}" if key in environ else value
    return environ


def _decoded(path: str) -> str:
    return unquote_to_bytes(path).decode("latin-1")
