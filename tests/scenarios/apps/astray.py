"""Scenario sites that are misconfigured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.scenarios.apps.plain import site_of
from tests.scenarios.apps.plain_app import app, jobs
from tests.scenarios.site import owner_in

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["behind_a_login", "without_middleware"]

without_middleware = site_of(jobs)


def behind_a_login(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The site with a login check in front of everything, including the middleware."""
    if environ["PATH_INFO"] != "/ready" and owner_in(environ.get("HTTP_COOKIE")) is None:
        start_response("302 Found", [("Location", "/login"), ("Content-Length", "0")])
        return [b""]
    return app(environ, start_response)
