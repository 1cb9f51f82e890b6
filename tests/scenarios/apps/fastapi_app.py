"""The scenario site as a FastAPI application, with dependencies."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, Request
from starlette.responses import Response

from backjob import BackJob
from backjob.asgi import BackJobMiddleware
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.apps.scopes import mounted, visit_of
from tests.scenarios.apps.starlette_replies import response_of, response_of_async
from tests.scenarios.coroutines import answer_async
from tests.scenarios.site import METHODS, Visit, answer

__all__ = ["app", "bare"]

bare = FastAPI()


def the_jobs() -> BackJob:
    """A dependency: the `BackJob`."""
    return _jobs


async def the_visit(request: Request) -> Visit:
    """A dependency: the request with its body."""
    return visit_of(request.scope, await request.body())


Jobs = Annotated[BackJob, Depends(the_jobs)]
Seen = Annotated[Visit, Depends(the_visit)]


@bare.get("/coroutine/{name}", response_class=Response)
async def coroutine(jobs: Jobs, visit: Seen) -> Response:
    """The coroutine actions."""
    return response_of_async(await answer_async(jobs, visit))


@bare.get("/by-url")
async def by_url(jobs: Jobs, request: Request) -> dict[str, str]:
    """Start the coroutine "report" by its URL."""
    return {"id": await jobs.astart(request.url_for("coroutine", name="report"))}


@bare.api_route("/{path:path}", methods=list(METHODS), response_class=Response)
def site(jobs: Jobs, visit: Seen) -> Response:
    """Every page of the site."""
    return response_of(answer(jobs, visit))


_jobs = make_jobs()
bare.add_middleware(BackJobMiddleware, jobs=_jobs)
app = mounted(bare)
