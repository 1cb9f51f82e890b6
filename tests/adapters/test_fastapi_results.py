"""What a FastAPI endpoint returns, as the result of its job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from backjob import Status
from backjob.asgi import BackJobMiddleware
from backjob.files import DirectoryFiles
from backjob.jobs.states import file_of
from backjob.model import Job
from tests.unit import test_asgi
from tests.unit.core import Bench, bench

fastapi: Any = pytest.importorskip("fastapi", reason="needs FastAPI: pip install -e '.[test]'")
responses: Any = pytest.importorskip("fastapi.responses")
gzip: Any = pytest.importorskip("starlette.middleware.gzip")


@pytest.fixture
def world(tmp_path: Path) -> Bench:
    return bench(files=DirectoryFiles(tmp_path / "files"))


@pytest.fixture
def run(world: Bench) -> Callable[..., Job]:
    def run(endpoint: Callable[..., Any], *, compressed: bool = False, **scope: Any) -> Job:
        app = fastapi.FastAPI()
        app.add_api_route("/work", endpoint, response_model=None)
        if compressed:
            app.add_middleware(gzip.GZipMiddleware, minimum_size=1)
        job: Job = test_asgi.run(world, app, **scope)[1]
        return job

    return run


def content(world: Bench, job: Job) -> bytes:
    file = world.engine.open_file(job.id)
    assert file is not None
    with file:
        return file.read()


@pytest.mark.parametrize("compressed", [False, True])
def test_what_an_endpoint_returns_is_the_result(run: Callable[..., Job], compressed: bool) -> None:
    async def endpoint() -> dict[str, int]:
        return {"rows": 50}

    job = run(endpoint, compressed=compressed)
    assert (job.status, job.result) == (Status.COMPLETED, {"rows": 50})


def test_an_endpoint_that_returns_nothing_has_no_result(run: Callable[..., Job]) -> None:
    job = run(lambda: None)
    assert (job.status, job.result, job.output_size) == (Status.COMPLETED, None, 0)


def test_an_async_generator_is_output(world: Bench, run: Callable[..., Job]) -> None:
    async def rows() -> AsyncIterator[str]:
        for number in range(3):
            await asyncio.sleep(0)
            yield f"row {number}\n"

    job = run(lambda: responses.StreamingResponse(rows(), media_type="text/plain"))
    assert world.jobs.output(job.id).text == "row 0\nrow 1\nrow 2\n"


def test_a_streamed_attachment_is_the_jobs_file(world: Bench, run: Callable[..., Job]) -> None:
    async def rows() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield f"{number},x\n".encode()

    headers = {"Content-Disposition": 'attachment; filename="rows.csv"'}
    job = run(lambda: responses.StreamingResponse(rows(), media_type="text/csv", headers=headers))
    assert (file_of(job) or {})["name"] == "rows.csv"
    assert content(world, job) == "".join(f"{number},x\n" for number in range(1000)).encode()


@pytest.mark.parametrize("extensions", [{}, {"http.response.pathsend": {}}])
def test_a_file_response_is_the_jobs_file_whatever_the_server_can_send(
    world: Bench, run: Callable[..., Job], tmp_path: Path, extensions: dict[str, Any]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n" * 50_000)
    job = run(lambda: responses.FileResponse(path, filename="Übersicht.csv"), extensions=extensions)
    assert file_of(job) == {"name": "Übersicht.csv", "type": "text/csv; charset=utf-8", "size": 200_000}
    assert content(world, job) == path.read_bytes()


def test_the_detail_of_an_http_exception_is_the_message(run: Callable[..., Job]) -> None:
    async def endpoint() -> None:
        raise fastapi.HTTPException(404, "No such customer")

    assert run(endpoint).status_text == "404 Not Found: No such customer"


def test_the_errors_of_a_validation_are_the_message(run: Callable[..., Job]) -> None:
    async def endpoint(rows: int, name: str = fastapi.Query(min_length=3)) -> None: ...

    endpoint.__annotations__.update(rows=int, name=str)
    text = run(endpoint).status_text or ""
    assert text.endswith(": query.rows: Field required; query.name: Field required")
    assert text.startswith("422 ")


def test_an_exception_is_unexpected(world: Bench) -> None:
    async def endpoint() -> None:
        raise KeyError("secret")

    app = fastapi.FastAPI()
    app.add_api_route("/work", endpoint)
    world.start()
    world.step()
    scope, body = test_asgi.arrival(world)
    server = test_asgi.Server([test_asgi.request_message(body)])

    with pytest.raises(KeyError):
        server.serve(BackJobMiddleware(app, world.jobs), scope)
    job = world.job(world.transport.sent[-1].delivery.job_id)
    assert (job.status, job.status_text, job.error) == (Status.FAILED, "KeyError: 'secret'", "unexpected")
