"""The scenario site as a Pyramid application within the WSGI middleware."""

from __future__ import annotations

from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from backjob.wsgi import BackJobMiddleware
from tests.scenarios.apps.config import mounted
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.site import METHODS, Visit, answer

__all__ = ["app", "jobs"]

jobs = make_jobs()


def site(request: Request) -> Response:
    """Every page of the site."""
    reply = answer(jobs, _visit(request))
    response: Any = Response(status=reply.status, content_type=None, headerlist=list(reply.headers.items()))
    response.headers["Content-Type"] = reply.content_type
    response._abs_headerlist = lambda _environ: list(response.headerlist)  # or it would make a Location absolute
    if isinstance(reply.body, str):
        response.body = reply.body.encode()
    else:
        response.app_iter = (chunk.encode() for chunk in reply.body)
    return response


@jobs.background_only
def guarded(request: Request) -> Response:
    """A view that takes the request alone, as Pyramid finds out by its signature."""
    return Response(f"guarded {request.path_info}", content_type="text/plain")


def _visit(request: Request) -> Visit:
    environ = request.environ
    return Visit(
        method=request.method,
        path=request.path_info,
        query=request.query_string,
        raw=environ.get("REQUEST_URI") or environ.get("RAW_URI"),
        mount=request.script_name,
        headers={name.lower(): value for name, value in request.headers.items()},
        body=request.body,
        address=request.remote_addr or "",
        scheme=request.scheme,
        host=request.host,
        parameters=dict(request.params),
    )


def _application() -> BackJobMiddleware:
    with Configurator() as config:
        config.add_route("guarded", "/guarded")
        config.add_view(guarded, route_name="guarded")
        config.add_route("site", "/*path")
        config.add_view(site, route_name="site", request_method=METHODS)
        return BackJobMiddleware(config.make_wsgi_app(), jobs)


app = mounted(_application())
