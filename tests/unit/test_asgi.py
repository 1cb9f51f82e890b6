"""The ASGI middleware: what it translates, what it shields an action from, and what it leaves alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
from attrs import define, field

from backjob.asgi import BackJobMiddleware, StatusApp, base_url_of, request_of, serving_of, spellings, to_its_end
from backjob.errors import AddressUnknown, JobFailed
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Caller, Request, Status
from backjob.protocols import Store
from tests.unit.core import COOKIE, Bench, Here, bench, served

PATIENCE = 10.0

T = TypeVar("T")


@pytest.fixture
def world() -> Bench:
    return bench()


def go(work: Coroutine[Any, Any, T]) -> T:
    """Run it in an event loop of its own, with a limit."""

    async def limited() -> T:
        return await asyncio.wait_for(work, PATIENCE)

    return asyncio.run(limited())


def scope_of(path: str = "/page", query: str = "", **extra: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8000")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        **extra,
    }


def said(body: bytes = b"", more_body: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more_body}


GONE = {"type": "http.disconnect"}


@define
class Server:
    """As much of an ASGI server as is needed; with ``deaf``, the client is gone and `send` says so."""

    messages: list[dict[str, Any]] = field(factory=lambda: [said()])
    deaf: bool = False
    status: int = 0
    headers: dict[str, str] = field(factory=dict)
    body: bytes = b""
    receives: int = 0

    async def receive(self) -> dict[str, Any]:
        self.receives += 1
        return self.messages.pop(0) if self.messages else GONE

    async def send(self, message: Any) -> None:
        if self.deaf:
            raise OSError("the client is gone")
        if message["type"] == "http.response.start":
            assert not self.status, "http.response.start twice"
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            assert self.status
            self.body += message.get("body", b"")

    def serve(self, app: Any, scope: dict[str, Any]) -> bytes:
        go(app(scope, self.receive, self.send))
        return self.body


def arrival(world: Bench, **extra: Any) -> tuple[dict[str, Any], bytes]:
    """The scope of the worker request that was sent last, and its body."""
    request = world.transport.sent[-1].delivery.sign()
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers]
    headers += [(b"content-length", str(len(request.body)).encode()), *extra.pop("more_headers", ())]
    names = {name for name, _ in headers}
    assert len(names) == len(headers)
    return scope_of(request.path, request.query, method=request.method, headers=headers) | extra, request.body


def run(world: Bench, action: Any, *, server: Server | None = None, **extra: Any) -> tuple[Server, Any]:
    """Start, send, receive and run one job; the server's side, and the job."""
    if not world.jobs.find(status=Status.STARTED):
        world.start()
    world.step()
    scope, body = arrival(world, **extra)
    server = server or Server([said(body)])
    assert server.serve(BackJobMiddleware(action, world.jobs), scope) == b""
    return server, world.job(world.transport.sent[-1].delivery.job_id)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def never(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


# --- translating ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "target", "raw"),
    [
        ({"raw_path": b"/a%2Fb"}, "/a%2Fb?x=1", True),
        ({"raw_path": b"/a%2Fb?x=1"}, "/a%2Fb?x=1", True),
        ({"raw_path": None}, "/a/b?x=1", False),
        ({"raw_path": None, "path": "/ü b"}, "/%C3%BC%20b?x=1", False),
        ({"raw_path": None, "path": "", "query_string": b""}, "/", False),
    ],
)
def test_the_target_is_that_of_the_wire_as_far_as_the_server_shows_it(
    extra: dict[str, Any], target: str, raw: bool
) -> None:
    request = request_of(scope_of("/a/b", "x=1") | extra)
    assert (request.target, request.raw) == (target, raw)


def test_headers_caller_and_mount_are_translated() -> None:
    headers = [(b"Host", b"shop.example"), (b"cookie", COOKIE.encode()), (b"x-forwarded-for", b"192.0.2.7")]
    scope = scope_of(root_path="/sh op", headers=headers, scheme="https")
    assert request_of(scope).header("cookie") == COOKIE
    here = serving_of(scope)
    assert here.caller == Caller("https", "shop.example", "127.0.0.1", (("X-Forwarded-For", "192.0.2.7"),))
    assert here.mount == "/sh%20op"
    assert serving_of(scope_of(client=None, headers=[])).caller == Caller("http", "", "")


@pytest.mark.parametrize(
    ("path", "root", "targets"),
    [
        ("/work", "", ["/work"]),
        ("/shop/work", "/shop", ["/shop/work", "/work"]),
        ("/work", "/shop", ["/work"]),
        ("/shopping", "/shop", ["/shopping"]),
        ("/shop/shop/work", "/shop", ["/shop/shop/work", "/shop/work"]),
    ],
)
def test_a_request_may_have_been_spelled_without_the_root_path(path: str, root: str, targets: list[str]) -> None:
    found = spellings(scope_of(path, "x=1", root_path=root))
    assert [request.target for request in found] == [f"{target}?x=1" for target in targets]


@pytest.mark.parametrize("shown", ["/work", "/shop/work"])
def test_a_worker_request_is_recognised_with_the_root_path_put_back_or_not(world: Bench, shown: str) -> None:
    _, job = run(world, ok, root_path="/shop", path=shown, raw_path=shown.encode())
    assert job.status is Status.COMPLETED


def test_what_a_framework_mounts_below_itself_does_not_move_the_application(world: Bench) -> None:
    """Starlette changes the root path in the scope itself, Litestar the path."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope |= {"root_path": "/shop/admin", "path": "/page"}
        seen.append(world.jobs.status_url(job_id))
        started.append(await world.jobs.astart("http://shop.example/shop/work"))
        await ok(scope, receive, send)

    job_id, started = world.start(), list[str]()
    scope = scope_of("/shop/admin/page", root_path="/shop", raw_path=None, headers=[(b"host", b"shop.example")])
    Server().serve(BackJobMiddleware(app, world.jobs), scope)
    assert seen[0].startswith("/shop/backjob/")
    request = world.job(started[0]).request
    assert request is not None
    assert request.target == "/shop/work"


@pytest.mark.parametrize("raw", [True, False])
def test_a_url_is_run_where_the_server_puts_the_root_path_in_front(world: Bench, raw: bool) -> None:
    """As uvicorn does: what it was sent, by a proxy that strips or by ourselves that don't, is shown below the root path."""
    seen: dict[str, Any] = {}

    async def action(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await ok(scope, receive, send)

    caller = Caller("https", "shop.example", "")
    with served(Here(Request("GET", "/sh%20op/page"), caller, "/sh%20op")):
        world.start("https://shop.example/sh%20op/work")
    raw_path = b"/sh%20op/sh%20op/work" if raw else None
    _, job = run(world, action, root_path="/sh op", path="/sh op/sh op/work", raw_path=raw_path)
    assert (job.status, seen["path"]) == (Status.COMPLETED, "/sh op/work")
    assert seen["raw_path"] == (b"/sh%20op/work" if raw else None)


def test_a_path_stays_below_the_root_path_even_if_it_begins_with_the_same(world: Bench) -> None:
    seen: dict[str, Any] = {}

    async def action(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await ok(scope, receive, send)

    with served(Here(mount="/shop")):
        world.start("/shop/work")
    run(world, action, root_path="/shop", path="/shop/shop/work", raw_path=b"/shop/shop/work")
    assert seen["path"] == "/shop/shop/work"


def test_a_url_whose_route_begins_like_the_root_path_is_run_as_it_is_where_the_server_adds_none(world: Bench) -> None:
    seen: dict[str, Any] = {}

    async def action(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await ok(scope, receive, send)

    with served(Here(Request("GET", "/app/page"), Caller("https", "shop.example", ""), "/app")):
        world.start("https://shop.example/app/app/users")
    _, job = run(world, action, root_path="/app", path="/app/app/users", raw_path=b"/app/app/users")
    assert (job.status, seen["path"]) == (Status.COMPLETED, "/app/app/users")


def test_a_query_may_be_text_as_djangos_test_client_has_it() -> None:
    assert request_of({**scope_of(), "query_string": "x=%C3%BC"}).query == "x=%C3%BC"


# --- worker requests ------------------------------------------------------------------------------------------------


def test_the_action_sees_the_request_that_was_asked_for_as_from_its_caller(world: Bench) -> None:
    seen: dict[str, Any] = {}

    async def action(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope, body=(await receive())["body"], background=world.jobs.is_background)
        await ok(scope, receive, send)

    here = Here(
        Request("GET", "/", (("Cookie", COOKIE), ("User-Agent", "Browser/1"))),
        Caller("https", "shop.example", "192.0.2.7", (("X-Forwarded-For", "192.0.2.9"),)),
    )
    with served(here):
        world.start("/work", query={"a": 1}, method="POST", body=b"body", as_current_user=True)
    run(world, action, more_headers=[(b"x-forwarded-proto", b"http"), (b"forwarded", b"for=evil")])
    headers = dict(seen["headers"])
    assert (seen["query_string"], seen["path"], seen["body"]) == (b"a=1", "/work", b"body")
    assert (seen["scheme"], headers[b"host"], seen["client"]) == ("https", b"shop.example", ("192.0.2.7", 0))
    assert (headers[b"cookie"], headers[b"user-agent"]) == (COOKIE.encode(), b"Browser/1")
    assert headers[b"x-forwarded-for"] == b"192.0.2.9"
    assert not {b"x-forwarded-proto", b"forwarded"} & set(headers)
    assert len(headers) == len(seen["headers"])
    assert seen["background"]
    assert not world.jobs.is_background


def test_a_body_in_pieces_is_put_together(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == said(b"in pieces")
        await ok(scope, receive, send)

    world.start("/work", method="POST", body=b"in pieces")
    pieces = [said(b"in ", more_body=True), said(b"", more_body=True), said(b"pieces")]
    _, job = run(world, action, server=Server(pieces))
    assert job.status is Status.COMPLETED


def test_a_streamed_text_becomes_output_and_a_page_does_not(world: Bench) -> None:
    async def streamed(scope: Any, receive: Any, send: Any) -> None:
        content_type = (b"Content-Type", b"text/plain")
        await send({"type": "http.response.start", "status": 200, "headers": [content_type]})
        text = "ä€".encode()
        for piece in (text[:1], text[1:3], text[3:]):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        print("printed")
        await send({"type": "http.response.body"})

    _, job = run(world, streamed)
    assert world.jobs.output(job.id).text == "ä€printed\n"
    other = bench()
    _, job = run(other, ok)
    assert other.jobs.output(job.id).text == ""


@pytest.mark.parametrize(
    ("status", "headers", "ended"),
    [
        (204, [], Status.COMPLETED),
        (404, [], Status.FAILED),
        (302, [(b"location", b"/login")], Status.FAILED),
    ],
)
def test_the_first_line_decides_how_the_job_ends(world: Bench, status: int, headers: Any, ended: Status) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body"})

    server, job = run(world, action)
    assert (server.status, job.status) == (status, ended)
    assert server.headers["cache-control"] == "no-store"
    assert "location" not in server.headers
    if headers:
        assert "/login" in job.status_text


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_is_recorded_and_raised_on(world: Bench, begun: bool) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            await ok(scope, receive, send)
        raise ValueError("oops")

    with pytest.raises(ValueError, match="oops"):
        run(world, action)
    state = world.jobs.find()[0]
    assert (state.status, state.status_text) == (Status.FAILED, "ValueError: oops")


@pytest.mark.parametrize("grouped", [False, True])
def test_fail_ends_the_job_and_answers_the_monitor(world: Bench, grouped: bool) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        if grouped:
            raise BaseExceptionGroup("tasks", [JobFailed("why")])
        world.jobs.fail("why")

    server, job = run(world, action)
    assert (job.status, job.status_text, server.status) == (Status.FAILED, "why", 500)


@pytest.mark.parametrize("depth", [1, 2])
def test_fail_passes_starlettes_middleware_that_misses_a_response(world: Bench, depth: int) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        error: BaseException = JobFailed("why")
        for _ in range(depth):
            errors: list[BaseException] = [error, RuntimeError("No response returned.")]
            error = BaseExceptionGroup("tasks", errors)
        raise error

    server, job = run(world, action)
    assert (job.status, job.status_text, server.status) == (Status.FAILED, "why", 500)


def test_a_response_that_is_missed_for_another_reason_is_an_error(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("No response returned.")

    with pytest.raises(RuntimeError):
        run(world, action)
    assert world.jobs.find()[0].status_text == "RuntimeError: No response returned."


def test_fail_beside_another_error_is_that_error(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        raise BaseExceptionGroup("tasks", [JobFailed("why"), ValueError("oops")])

    with pytest.raises(BaseExceptionGroup):
        run(world, action)
    assert world.jobs.find()[0].status_text.startswith("BaseExceptionGroup")


def test_an_action_without_a_response_fails(world: Bench) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    server, job = run(world, silent)
    assert (server.status, job.status_text) == (500, "the action ended without a response")


def test_a_task_of_the_action_belongs_to_the_job(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        async def child() -> None:
            world.jobs.update(30, "by a task")

        await asyncio.create_task(child())
        await asyncio.to_thread(print, "by a thread")
        await ok(scope, receive, send)

    _, job = run(world, action)
    assert "by a thread\n" in world.jobs.output(job.id).text


def test_the_action_may_start_jobs_as_its_user(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        await world.jobs.astart("/child")
        await ok(scope, receive, send)

    with served():
        world.start(as_current_user=True)
    run(world, action)
    world.step()
    assert world.transport.sent[-1].delivery.sign().header("Cookie") == COOKIE


def test_refusals_name_their_reason_and_reach_no_action(world: Bench) -> None:
    world.start(method="POST", body=b"body")
    world.step()
    scope, body = arrival(world)

    def answer(app: Any, scope: dict[str, Any], body: bytes) -> Server:
        server = Server([said(body)])
        server.serve(BackJobMiddleware(app, world.jobs), scope)
        return server

    tampered = answer(never, scope | {"method": "PUT"}, body)
    assert (tampered.status, tampered.headers[REFUSAL_HEADER]) == (403, "signature")
    assert (tampered.headers["cache-control"], tampered.headers["backjob-concurrency"]) == ("no-store", "many")
    assert answer(never, scope, b"evil").status == 403
    assert answer(ok, scope, body).status == 200
    again = answer(never, scope, body)
    assert (again.status, again.headers[REFUSAL_HEADER]) == (409, "claimed")
    fields = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
    long = answer(never, scope | {"headers": [*fields, (b"content-length", b"9" * 12)]}, body)
    assert long.status == 413
    odd = answer(never, scope | {"headers": [*fields, (b"content-length", b"-1")]}, body)
    assert odd.status == 400


# --- a client that leaves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("messages", [[GONE], [said(b"bo", more_body=True), GONE]], ids=["at once", "in mid-body"])
def test_a_client_that_leaves_before_its_body_has_come_claims_nothing(world: Bench, messages: list[Any]) -> None:
    world.start(method="POST", body=b"body")
    server, job = run(world, never, server=Server(messages))
    assert (server.status, job.status, job.token) == (0, Status.STARTED, None)


def test_a_client_that_has_left_when_the_action_is_done_changes_nothing(world: Bench) -> None:
    server, job = run(world, ok, server=Server(deaf=True))
    assert (server.status, job.status) == (0, Status.COMPLETED)


def test_an_action_is_never_told_that_its_client_left(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listening = asyncio.ensure_future(receive())
        assert await asyncio.wait({listening}, timeout=0.05) == (set(), {listening})
        listening.cancel()
        await ok(scope, receive, send)

    server, job = run(world, action)  # the server would say http.disconnect
    assert job.status is Status.COMPLETED
    assert server.receives == 1


def test_once_its_response_is_complete_it_is_told_of_the_disconnect_that_frameworks_wait_for(world: Bench) -> None:
    told: list[Any] = []

    async def action(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listening = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        assert await asyncio.wait({listening}, timeout=0.05) == (set(), {listening})
        await send({"type": "http.response.body"})
        told.extend((await listening, await receive()))

    _, job = run(world, action)
    assert (job.status, told) == (Status.COMPLETED, [GONE, GONE])


def test_a_cancelled_request_waits_for_its_actions_end(world: Bench) -> None:
    world.start()
    world.step()
    scope, _ = arrival(world)

    async def story() -> list[Status]:
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def action(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await may_end.wait()
            await ok(scope, receive, send)

        server = Server()
        request = asyncio.create_task(BackJobMiddleware(action, world.jobs)(scope, server.receive, server.send))
        await begun.wait()
        for _ in range(3):
            request.cancel()
            await asyncio.wait({request}, timeout=0.01)
        seen = [world.jobs.find()[0].status]
        may_end.set()
        await request
        return [*seen, world.jobs.find()[0].status]

    assert go(story()) == [Status.IN_PROGRESS, Status.COMPLETED]


class _Hesitant:
    """A store whose claim waits for the test."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.claiming, self.may_claim = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def change(self, *arguments: Any) -> Any:
        self.claiming.set()
        assert self.may_claim.wait(PATIENCE)
        return self._store.change(*arguments)


def test_a_request_cancelled_while_its_job_is_claimed_still_runs_it(world: Bench) -> None:
    world.start()
    world.step()
    scope, _ = arrival(world)
    hesitant = _Hesitant(world.store.store)
    store: Any = hesitant
    world.engine.worker._store = store

    async def story() -> None:
        server = Server()
        request = asyncio.create_task(BackJobMiddleware(ok, world.jobs)(scope, server.receive, server.send))
        assert await asyncio.to_thread(hesitant.claiming.wait, PATIENCE)
        request.cancel()
        await asyncio.wait({request}, timeout=0.01)
        hesitant.may_claim.set()
        await request

    go(story())
    assert world.jobs.find()[0].status is Status.COMPLETED


def test_work_that_is_cancelled_itself_ends() -> None:
    async def story() -> None:
        inner: asyncio.Future[asyncio.Task[Any] | None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            inner.set_result(asyncio.current_task())
            await asyncio.Event().wait()

        outer = asyncio.create_task(to_its_end(work()))
        task = await inner
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer

    go(story())


def test_a_loop_that_shuts_down_ends_its_jobs_failed(world: Bench) -> None:
    world.start()
    world.step()
    scope, _ = arrival(world)

    async def shut_down() -> None:
        begun = asyncio.Event()

        async def action(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        server = Server()
        request = asyncio.create_task(BackJobMiddleware(action, world.jobs)(scope, server.receive, server.send))
        await begun.wait()
        assert not request.done()

    go(shut_down())  # asyncio.run() cancels what is left
    state = world.jobs.find()[0]
    assert (state.status, state.status_text) == (Status.FAILED, "CancelledError")


# --- ordinary requests ----------------------------------------------------------------------------------------------


def test_an_ordinary_request_passes_as_it_is(world: Bench) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((scope, receive, await receive()))
        await ok(scope, receive, send)

    server, scope = Server([said(b"a")]), scope_of("/page", "a=1")
    before = dict(scope)
    receive = server.receive
    go(BackJobMiddleware(app, world.jobs)(scope, receive, server.send))
    assert seen[0] is scope
    assert scope == before
    assert seen[1:] == [receive, said(b"a")]
    assert (server.status, server.body) == (200, b"ok")


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_whatever_is_no_http_is_let_pass(world: Bench, kind: str) -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.append(arguments)

    server = Server()
    arguments: tuple[Any, ...] = ({"type": kind}, server.receive, server.send)
    go(BackJobMiddleware(app, world.jobs)(*arguments))
    assert seen == [arguments]


@pytest.mark.parametrize("grouped", [False, True])
def test_fail_in_an_ordinary_request_is_a_500(world: Bench, grouped: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if grouped:
            raise BaseExceptionGroup("g", [BaseExceptionGroup("h", [JobFailed("no")])])
        world.jobs.fail("no")

    server = Server()
    assert server.serve(BackJobMiddleware(app, world.jobs), scope_of()) == b"no"
    assert (server.status, server.headers["x-content-type-options"]) == (500, "nosniff")


def test_fail_after_the_first_line_ends_the_response_where_it_is(world: Bench) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        world.jobs.fail("no")

    server = Server()
    assert server.serve(BackJobMiddleware(app, world.jobs), scope_of()) == b""
    assert server.status == 200


def test_a_route_for_jobs_only_answers_403_to_people(world: Bench) -> None:
    @world.jobs.background_only
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ok(scope, receive, send)

    server = Server()
    server.serve(BackJobMiddleware(app, world.jobs), scope_of())
    assert server.status == 403
    _, job = run(world, app)
    assert job.status is Status.COMPLETED


def test_an_applications_own_error_is_its_own(world: Bench) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Server().serve(BackJobMiddleware(app, world.jobs), scope_of())
    assert world.engine.current_owner() is None


def test_two_requests_at_a_time_do_not_see_each_other() -> None:
    world = bench(owner=lambda request: request.header("cookie"))

    async def story() -> set[str | None]:
        both = asyncio.Barrier(2)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await both.wait()
            found.add(world.engine.current_owner())
            await ok(scope, receive, send)

        found: set[str | None] = set()
        middleware = BackJobMiddleware(app, world.jobs)
        requests = [
            middleware(scope_of(headers=[(b"cookie", name)]), server.receive, server.send)
            for name, server in ((b"a", Server()), (b"b", Server()))
        ]
        await asyncio.gather(*requests)
        return found

    assert go(story()) == {"a", "b"}


# --- the application's own address ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "url"),
    [
        (("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        (("0.0.0.0", 8000), "http://0.0.0.0:8000"),
        (("::1", 8000), "http://[::1]:8000"),
        (["::ffff:127.0.0.1", 8000], "http://127.0.0.1:8000"),
    ],
)
def test_the_address_is_that_of_the_servers_socket_whatever_the_client_says(server: Any, url: str) -> None:
    evil = [(b"host", b"evil.example:1"), (b"x-forwarded-host", b"evil.example")]
    assert base_url_of(scope_of(server=server, headers=evil)) == url


@pytest.mark.parametrize(
    "server",
    [
        None,
        (),
        ("/run/app.sock", None),
        ("127.0.0.1", None),
        ("testserver", 80),
        ("evil.example", 80),
        ("127.0.0.1", 0),
    ],
)
def test_what_is_no_tcp_socket_tells_no_address(world: Bench, server: Any) -> None:
    with pytest.raises(AddressUnknown):
        base_url_of(scope_of(server=server))
    world.engine.transport = None
    assert Server().serve(BackJobMiddleware(ok, world.jobs), scope_of(server=server)) == b"ok"
    assert world.jobs.transport is None


# --- the status routes ----------------------------------------------------------------------------------------------


def test_the_middleware_serves_the_status_routes(world: Bench) -> None:
    job_id = world.start()
    server = Server()
    body = server.serve(BackJobMiddleware(never, world.jobs), scope_of(world.jobs.status_url(job_id)))
    assert server.status == 200
    assert job_id.encode() in body


def test_without_status_they_are_the_applications(world: Bench) -> None:
    app = BackJobMiddleware(ok, world.jobs, status=False)
    assert Server().serve(app, scope_of(world.jobs.status_url(world.start()))) == b"ok"


def _mounted(world: Bench) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """As frameworks mount an application: the root path grows, the path stays."""
    inner = StatusApp(world.jobs)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": scope["root_path"] + "/backjob"}, receive, send)

    return app


@pytest.mark.parametrize(
    ("mounted", "root", "path"),
    [
        (False, "", ""),
        (False, "/shop", "/shop"),
        (False, "/shop", ""),
        (True, "", ""),
        (True, "/shop", "/shop"),  # a framework that mounts puts the root path in front
    ],
)
def test_their_page_links_to_where_they_are(world: Bench, mounted: bool, root: str, path: str) -> None:
    app = _mounted(world) if mounted else BackJobMiddleware(never, world.jobs)
    reference = world.jobs.status_url(world.start())
    scope = scope_of(path + reference, root_path=root)
    scope["headers"].append((b"accept", b"text/html"))
    page = Server().serve(app, scope).decode()
    assert f'"{root}/backjob/progress.js"' in page


def test_the_owner_hook_is_asked_and_by_no_event_loop() -> None:
    threads: list[int] = []

    def owner(request: Request) -> str | None:
        threads.append(threading.get_ident())
        return request.header("x-user")

    world = bench(owner=owner)
    job_id = world.start(owner="5")

    def status(user: bytes) -> int:
        server = Server()
        scope = scope_of(f"/backjob/{job_id}", headers=[(b"x-user", user)])
        server.serve(BackJobMiddleware(never, world.jobs), scope)
        return server.status

    assert (status(b"5"), status(b"6"), status(b"")) == (200, 404, 404)
    assert threading.get_ident() not in threads


def test_head_and_methods_that_are_not_allowed(world: Bench) -> None:
    app = BackJobMiddleware(never, world.jobs)
    path = world.jobs.status_url(world.start())
    get, head, post = Server(), Server(), Server()
    length = len(get.serve(app, scope_of(path)))
    assert head.serve(app, scope_of(path, method="HEAD")) == b""
    assert (head.status, int(head.headers["content-length"])) == (200, length)
    post.serve(app, scope_of(path, method="POST"))
    assert (post.status, post.headers["allow"]) == (405, "GET, HEAD")


# --- event streams --------------------------------------------------------------------------------------------------


@define
class Listener(Server):
    """A client that listens until it leaves."""

    leaves: asyncio.Event = field(factory=asyncio.Event)
    hears: asyncio.Event = field(factory=asyncio.Event)

    async def receive(self) -> dict[str, Any]:
        if not self.messages:
            await self.leaves.wait()
        return await super().receive()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message.get("body"):
            self.hears.set()

    def listen(self, world: Bench, job_id: str) -> asyncio.Future[None]:
        scope = scope_of(f"{world.jobs.status_url(job_id)}/events")
        app: Any = BackJobMiddleware(never, world.jobs)
        serving: asyncio.Future[None] = asyncio.ensure_future(app(scope, self.receive, self.send))
        return serving


def test_a_stream_goes_out_as_it_comes_and_has_no_length(world: Bench) -> None:
    async def story() -> tuple[Listener, bytes]:
        job_id, listener = world.start(), Listener()
        serving = listener.listen(world, job_id)
        await listener.hears.wait()
        first = listener.body
        world.jobs.cancel(job_id)
        await asyncio.to_thread(world.engine.broadcast.step)
        await serving
        return listener, first

    listener, first = go(story())
    assert (listener.status, first) == (200, b"retry: 2000\n\n")
    assert "content-length" not in listener.headers
    assert b"event: end\n" in listener.body


def test_a_client_that_leaves_ends_its_stream_at_once(world: Bench) -> None:
    async def story() -> None:
        listener = Listener()
        serving = listener.listen(world, world.start())
        await listener.hears.wait()
        assert world.engine.broadcast.count == 1
        listener.leaves.set()
        await serving

    go(story())
    assert world.engine.broadcast.count == 0


def test_so_does_one_to_whom_nothing_can_be_sent(world: Bench) -> None:
    async def story() -> None:
        await Listener(deaf=True).listen(world, world.start())

    go(story())
    assert world.engine.broadcast.count == 0


def test_so_does_a_request_that_is_cancelled(world: Bench) -> None:
    async def story() -> None:
        listener = Listener()
        serving = listener.listen(world, world.start())
        await listener.hears.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    go(story())
    assert world.engine.broadcast.count == 0


@pytest.mark.parametrize("kind", ["http.response.start", "http.response.body"])
def test_so_does_one_who_takes_nothing(world: Bench, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backjob.asgi._LONGEST_SEND", 0.01)

    class Stuck(Listener):
        async def send(self, message: Any) -> None:
            if message["type"] == kind:
                await asyncio.Event().wait()
            await super().send(message)

    async def story() -> Listener:
        listener = Stuck()
        await listener.listen(world, world.start())
        return listener

    assert go(story()).body == b""
    assert world.engine.broadcast.count == 0


def test_streams_of_one_loop_are_woken_together(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> int:
        job_id, listeners = world.start(), [Listener() for _ in range(20)]
        serving = [listener.listen(world, job_id) for listener in listeners]
        for listener in listeners:
            await listener.hears.wait()
        loop, calls = asyncio.get_running_loop(), 0
        wake = loop.call_soon_threadsafe

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += threading.get_ident() == thread.ident
            return wake(*arguments, **options)

        world.jobs.cancel(job_id)
        thread = threading.Thread(target=world.engine.broadcast.step)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", counted)
            thread.start()
            await asyncio.gather(*serving)
        thread.join(PATIENCE)
        return calls

    assert go(story()) == 1
