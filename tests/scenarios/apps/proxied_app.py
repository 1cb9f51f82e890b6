"""The plain scenario site behind middlewares that stand before backjob's.

Its page ``/ready`` is outside of the middleware, so that a test's first request is also the first that backjob sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

from tests.scenarios.apps.plain_app import app as plain

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["app", "fixed", "one_host"]


def _with_page(app: WSGIApplication, *, host: str | None = None) -> WSGIApplication:
    def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/ready":
            start_response("200 OK", [("Content-Length", "0")])
            return [b""]
        if host is not None and environ.get("HTTP_HOST") != host:
            start_response("400 Bad Request", [("Content-Length", "0")])
            return [b""]
        return app(environ, start_response)

    return site


app = _with_page(plain)
fixed = _with_page(ProxyFix(plain, x_for=1, x_proto=1, x_host=1, x_port=1, x_prefix=1))
one_host = _with_page(plain, host="shop.example")
