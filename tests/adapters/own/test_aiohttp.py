"""The adapter that docs/own-adapter.md shows, with real requests over a socket. All scenarios run on it too."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Final, TypeAlias

import pytest
from attrs import frozen

from backjob import BackJob, JobState, Status
from backjob.clock import SystemClock
from backjob.files import MemoryFiles
from backjob.jobs import engine_of
from backjob.model import Request
from backjob.protocols import Grant
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.transports.sockets import SocketTransport
from tests.docs.pages import ROOT

aiohttp: Any = pytest.importorskip("aiohttp", reason="the example needs aiohttp: pip install -e '.[test]'")
web: Any = pytest.importorskip("aiohttp.web")

EXAMPLE: Final = ROOT / "docs" / "examples" / "aiohttp_report" / "backjob_aiohttp.py"
KEY: Final = "of these tests alone: 0b8d5f7e21c94a63"
WAIT: Final = 60.0
ANN: Final = {"Cookie": "user=ann"}

sys.path.insert(0, str(EXAMPLE.parent))
setup: Final[Any] = import_module("backjob_aiohttp").setup

JOBS: Final[Any] = web.AppKey("jobs", BackJob)

Action: TypeAlias = Callable[[Any], Awaitable[Any]]


@frozen
class Site:
    """A running application and its jobs."""

    jobs: BackJob
    client: Any
    port: int

    async def page(self, method: str, path: str, json: Any = None, **headers: str) -> tuple[int, Any, bytes]:
        """Status, headers and body of a page that Ann requests."""
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.client.request(method, url, headers=ANN | headers, json=json) as page:
            return page.status, page.headers, await page.read()

    async def run(self, path: str, **options: Any) -> JobState:
        """Start a job from a page of this site, with these arguments of `start`, and wait for its end."""
        status, _, body = await self.page("POST", f"/start{path}", options)
        assert status == 200, body
        return await self.jobs.ajoin(body.decode(), WAIT)


@asynccontextmanager
async def serving(*actions: Action, middlewares: Any = (), **options: Any) -> AsyncIterator[Site]:
    """Serve actions at their names during the block."""
    with BackJob(MemoryStore(), SocketTransport, MessageSigner(KEY), **options) as jobs:

        async def start(request: Any) -> Any:
            job_id = await jobs.astart(request.path.removeprefix("/start"), **await request.json())
            return web.Response(text=job_id)

        app = web.Application(middlewares=middlewares)
        app[JOBS] = jobs
        app.router.add_post("/start/{name}", start)
        for action in actions:
            app.router.add_route("*", f"/{action.__name__}", action)
        setup(app, jobs)
        runner = web.AppRunner(app, shutdown_timeout=1, handler_cancellation=True)
        async with asyncio.timeout(WAIT), aiohttp.ClientSession() as client:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                yield Site(jobs, client, runner.addresses[0][1])
            finally:
                await runner.cleanup()


def go(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


# --- the end of an action -------------------------------------------------------------------------------------------


async def flaky(request: Any) -> Any:
    jobs = request.app[JOBS]
    if jobs.attempt == 1:
        raise ValueError("the disk is full")
    return web.Response(text=f"again for {jobs.owner}")


def test_an_action_that_raised_is_retried() -> None:
    async def test() -> None:
        async with serving(flaky, owner=user_of) as site:
            state = await site.run("/flaky", as_owner=True, retries=1, retry_delay=0)
            assert (state.status, state.attempt, state.status_text) == (Status.COMPLETED, 2, "again for ann")
            assert [run["reason"] for run in state.history] == ["ValueError: the disk is full"]
            assert (await site.run("/flaky")).status_text == "ValueError: the disk is full"

    go(test())


async def nothing(request: Any) -> Any:
    return None


async def forbidden(request: Any) -> Any:
    raise web.HTTPForbidden(text="not yours")


async def moved(request: Any) -> Any:
    raise web.HTTPFound("/login")


def test_what_is_no_response_and_what_is_raised_as_one_fail_the_job() -> None:
    async def test() -> None:
        async with serving(nothing, forbidden, moved) as site:
            assert "NoneType" in (await site.run("/nothing")).status_text
            assert (await site.run("/forbidden")).status_text == "403 Forbidden: not yours"
            assert (await site.run("/moved")).status_text == "302 Found → /login"

    go(test())


async def catching(request: Any, handler: Action) -> Any:
    try:
        return await handler(request)
    except Exception as error:
        request.app[JOBS].note_error(error)
        return web.Response(text="sorry", status=500)


def test_middlewares_get_the_request_of_the_action_without_its_signature() -> None:
    seen: list[tuple[str, str, str]] = []

    async def noting(request: Any, handler: Action) -> Any:
        seen.append((request.path_qs, request.headers.get("Cookie", ""), request.headers["User-Agent"]))
        return await handler(request)

    async def test() -> None:
        async with serving(nothing, middlewares=[web.middleware(noting)]) as site:
            await site.page("GET", "/nothing?a=1", **{"User-Agent": "Browser/7"})
            await site.page("POST", "/start/nothing", {"query": {"a": 1}}, **{"User-Agent": "Browser/7"})
            [job] = site.jobs.find()
            await site.jobs.ajoin(job.id, WAIT)

    go(test())
    assert seen[0] == seen[2] == ("/nothing?a=1", "user=ann", "Browser/7")


async def broken(request: Any) -> Any:
    raise ValueError("the disk is full")


async def failing(request: Any) -> Any:
    request.app[JOBS].fail("no rows")


def test_a_middleware_that_catches_exceptions_can_note_them_and_swallows_no_exit() -> None:
    async def test() -> None:
        async with serving(broken, failing, middlewares=[web.middleware(catching)]) as site:
            assert (await site.run("/broken")).status_text == "ValueError: the disk is full"
            assert (await site.run("/failing")).status_text == "no rows"
            status, _, body = await site.page("GET", "/failing")
            assert (status, body) == (500, b"no rows")

    go(test())


# --- the response of an action --------------------------------------------------------------------------------------


async def file(request: Any) -> Any:
    return web.FileResponse(EXAMPLE, headers={"Content-Disposition": "attachment"})


async def compressed(request: Any) -> Any:
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_compression(web.ContentCoding.gzip)
    await response.prepare(request)
    await response.write(b"Exported 50 rows")
    return response


async def compressed_whole(request: Any) -> Any:
    response = web.Response(text="Exported 60 rows")
    response.enable_compression(web.ContentCoding.gzip)
    return response


def test_files_and_compressed_responses_are_results() -> None:
    async def test() -> None:
        async with serving(file, compressed, compressed_whole, files=MemoryFiles()) as site:
            state = await site.run("/file")
            assert state.status is Status.COMPLETED
            status, headers, body = await site.page("GET", f"{site.jobs.status_url(state.id)}/file")
            assert (status, body) == (200, EXAMPLE.read_bytes())
            assert headers["Content-Disposition"].startswith("attachment")
            for name, text in (("compressed", "Exported 50 rows"), ("compressed_whole", "Exported 60 rows")):
                state = await site.run(f"/{name}")
                assert (state.status, site.jobs.output(state.id).text) == (Status.COMPLETED, text)

    go(test())


# --- connections ----------------------------------------------------------------------------------------------------


def test_an_action_runs_to_its_end_after_its_connection_is_lost() -> None:
    async def test() -> None:
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def slow(request: Any) -> Any:
            begun.set()
            await may_end.wait()
            return web.Response(text=f"read {len(await request.read())} bytes")

        async with serving(slow) as site:
            job_id, signed = await waiting(site, b"x" * 1000)
            _, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(head(signed, 1000) + signed.body)
            await begun.wait()
            writer.transport.abort()
            await site.page("GET", "/")  # by now the server has noticed that
            may_end.set()
            state = await site.jobs.ajoin(job_id, WAIT)
            assert (state.status, state.status_text) == (Status.COMPLETED, "read 1000 bytes")

    go(test())


def test_a_request_that_breaks_off_within_its_body_claims_nothing() -> None:
    async def test() -> None:
        async with serving(broken) as site:
            job_id, signed = await waiting(site, b"x" * 1000)
            _, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(head(signed, 1000) + signed.body[:10])
            await writer.drain()
            writer.transport.abort()
            await site.page("GET", "/")
            assert (await site.jobs.astatus(job_id)).status is Status.STARTED

    go(test())


async def waiting(site: Site, body: bytes) -> tuple[str, Request]:
    """A job that waits, and a worker request for it."""
    path = "/slow"
    options = {"method": "POST", "body": body.decode(), "as_current_user": False, "delay": 3600}
    _, _, job_id = await site.page("POST", f"/start{path}", options)
    now = int(SystemClock().now().timestamp())
    grant = Grant(job_id.decode(), 1, 1, now, now + 60)
    return job_id.decode(), engine_of(site.jobs).signer.sign(Request("POST", path, body=body), grant)


def head(request: Request, length: int) -> bytes:
    return f"{request.method} {request.target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def test_when_the_server_shuts_down_other_processes_may_deliver_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[str] = []

    async def test() -> None:
        async with serving() as site:
            monkeypatch.setattr(engine_of(site.jobs).monitor, "give_leases_back", lambda: given_back.append("all"))

    go(test())
    assert given_back == ["all"]


# --- the status routes and the hooks --------------------------------------------------------------------------------


def user_of(request: Any) -> str | None:
    """The owner hook, which gets aiohttp's request too."""
    user: str | None = request.http.cookies.get("user")
    return user


def test_the_hooks_get_the_request_of_aiohttp() -> None:
    async def test() -> None:
        async with serving(failing, owner=user_of) as site:
            state = await site.run("/failing")
            assert state.owner == "ann"
            assert (await site.page("GET", f"/backjob/{state.id}"))[0] == 200
            assert (await site.page("GET", f"/backjob/{state.id}", Cookie="user=bob"))[0] == 404

    go(test())


def test_head_has_the_length_of_the_page_and_no_body() -> None:
    async def test() -> None:
        async with serving(failing, owner=user_of) as site:
            state = await site.run("/failing")
            _, of_get, page = await site.page("GET", f"/backjob/{state.id}", Accept="text/html")
            status, of_head, body = await site.page("HEAD", f"/backjob/{state.id}", Accept="text/html")
            assert (status, body) == (200, b"")
            assert of_head["Content-Length"] == of_get["Content-Length"] == str(len(page))

    go(test())


def test_the_access_log_has_no_signature(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(failing) as site:
            await site.run("/failing")

    with caplog.at_level(logging.INFO, "aiohttp.access"):
        go(test())
    lines = [record.getMessage() for record in caplog.records if record.name == "aiohttp.access"]
    assert [line for line in lines if "GET /failing" in line]
    assert [line for line in lines if "signature" in line] == []
