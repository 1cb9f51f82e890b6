"""A run that its action leaves, to be continued or retried: through the middlewares, frameworks and exception groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from backjob import asgi, wsgi
from backjob.jobs import BackJob
from backjob.lifecycle import history_of
from backjob.model import Job, Status
from tests.unit import test_asgi, test_wsgi
from tests.unit.core import Bench, bench

LEAVING: dict[str, tuple[Callable[[BackJob], object], str, int, int]] = {
    "continue_later": (lambda jobs: jobs.continue_later("half"), "continued", 202, 1),
    "retry": (lambda jobs: jobs.retry(5, "busy"), "busy", 503, 2),
}
leaving = pytest.mark.parametrize("method", LEAVING)


@pytest.fixture
def world() -> Bench:
    return bench()


def check(world: Bench, job: Job, method: str, status: int) -> None:
    _, reason, answered, attempt = LEAVING[method]
    assert status == answered
    assert (job.is_waiting, job.run, job.attempt) == (True, 2, attempt)
    assert history_of(job)[0]["reason"] == reason
    assert job.status is (Status.IN_PROGRESS if method == "continue_later" else Status.STARTED)
    assert job.cursor == ({"cursor": "half"} if method == "continue_later" else None)


def start(world: Bench) -> str:
    job_id = world.start(retries=1)
    world.step()
    return job_id


@leaving
@pytest.mark.parametrize("has_begun", [False, True])
def test_a_wsgi_action_leaves_its_run_also_while_its_response_is_streamed(
    world: Bench, method: str, has_begun: bool
) -> None:
    leave = LEAVING[method][0]

    def app(environ: Any, start_response: Any) -> Any:
        if not has_begun:
            leave(world.jobs)
        start_response("200 OK", [("Content-Type", "text/plain")])

        def chunks() -> Any:
            yield b"one "
            leave(world.jobs)

        return chunks()

    job_id = start(world)
    server = test_wsgi.Server()
    server.serve(wsgi.BackJobMiddleware(app, world.jobs), test_wsgi.arrival(world))
    status = int(server.line[:3])
    check(world, world.job(job_id), method, LEAVING[method][2] if has_begun else status)


def serve(world: Bench, app: Any) -> tuple[int, Job]:
    job_id = start(world)
    scope, body = test_asgi.arrival(world)
    server = test_asgi.Server([test_asgi.request_message(body)])
    server.serve(asgi.BackJobMiddleware(app, world.jobs), scope)
    return server.status, world.job(job_id)


async def pass_on(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    return response


@leaving
@pytest.mark.parametrize("shape", ["plain", "task group", "thread"])
@pytest.mark.parametrize("middlewares", [0, 2])
def test_an_action_of_a_framework_leaves_its_run(world: Bench, method: str, shape: str, middlewares: int) -> None:
    leave = LEAVING[method][0]

    async def part() -> None:
        leave(world.jobs)

    async def in_loop(request: Request) -> Response:
        if shape == "plain":
            await part()
        async with asyncio.TaskGroup() as group:
            group.create_task(part())
        return PlainTextResponse("never")

    def in_thread(request: Request) -> Response:
        leave(world.jobs)
        return PlainTextResponse("never")

    app = Starlette(
        routes=[Route("/work", in_thread if shape == "thread" else in_loop)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=pass_on)] * middlewares,
    )
    status, job = serve(world, app)
    check(world, job, method, status)


def test_an_error_beside_the_exit_in_a_group_fails_the_job(world: Bench) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            world.jobs.continue_later(1)
        except BaseException as error:
            raise BaseExceptionGroup("both", [error, ValueError("broken")]) from None

    job_id = world.start()
    world.step()
    scope, body = test_asgi.arrival(world)
    server = test_asgi.Server([test_asgi.request_message(body)])
    with pytest.raises(BaseExceptionGroup):
        server.serve(asgi.BackJobMiddleware(app, world.jobs), scope)
    job = world.job(job_id)
    assert job.status is Status.FAILED
