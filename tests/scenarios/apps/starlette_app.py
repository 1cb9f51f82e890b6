"""The scenario site as a Starlette application. Errors below ``/within`` pass through a `BaseHTTPMiddleware`."""

from __future__ import annotations

from anyio import from_thread
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from backjob.asgi import BackJobMiddleware
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.apps.scopes import mounted, prefixed, visit_of
from tests.scenarios.apps.starlette_replies import response_of, response_of_async
from tests.scenarios.coroutines import answer_async
from tests.scenarios.site import METHODS, answer

__all__ = ["app", "bare", "behind_proxy", "debug", "jobs"]

jobs = make_jobs()


def site(request: Request) -> Response:
    """Every page of the site."""
    return response_of(answer(jobs, visit_of(request.scope, from_thread.run(request.body))))


async def coroutine(request: Request) -> Response:
    """The actions that are coroutines."""
    return response_of_async(await answer_async(jobs, visit_of(request.scope, b"")))


async def by_url(request: Request) -> Response:
    """Start the coroutine "report" by its URL."""
    return JSONResponse({"id": await jobs.astart(request.url_for("coroutine", name="report"))})


async def afterwards(request: Request) -> Response:
    """Respond first, then report from a background task."""

    def work() -> None:
        print("after the response", end="")
        jobs.update(80)
        if "fail" in request.query_params:
            jobs.fail("after the response")

    return PlainTextResponse("answered", background=BackgroundTask(work))


class _Within(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def _application(*, is_debugged: bool) -> Starlette:
    application = Starlette(
        debug=is_debugged,
        routes=[
            Route("/by-url", by_url),
            Route("/work/afterwards", afterwards),
            Route("/coroutine/{name}", coroutine),
            Route("/within/{name}", coroutine, middleware=[Middleware(_Within)]),
            Route("/{path:path}", site, methods=METHODS),
        ],
    )
    application.add_middleware(BackJobMiddleware, jobs=jobs)
    return application


bare = _application(is_debugged=False)
app = mounted(bare)
behind_proxy = prefixed(bare)
debug = mounted(_application(is_debugged=True))
