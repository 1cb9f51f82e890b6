"""The ASGI middleware: it restores and shields worker requests, and passes other requests on."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
from attrs import define, field

from backjob.asgi import BackJobMiddleware, StatusApp
from backjob.delivery.addresses import Addresses
from backjob.errors import JobFailed
from backjob.files import MemoryFiles
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Caller, Request, Status
from backjob.protocols import Store
from backjob.transports.sockets import SocketTransport
from backjob.worker.offload import shielded
from backjob.worker.outcomes import Outcome
from tests.unit.core import COOKIE, Bench, Here, bench, served
from tests.unit.gateways import scope_of

TIMEOUT = 25.0

T = TypeVar("T")


@pytest.fixture
def world() -> Bench:
    return bench()


def go(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new event loop, with a timeout."""

    async def limited() -> T:
        return await asyncio.wait_for(work, TIMEOUT)

    return asyncio.run(limited())


def request_message(body: bytes = b"", more_body: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more_body}


DISCONNECT = {"type": "http.disconnect"}


@define
class Server:
    """A minimal ASGI server. With ``has_disconnected`` the client has disconnected and `send` raises."""

    messages: list[dict[str, Any]] = field(factory=lambda: [request_message()])
    has_disconnected: bool = False
    status: int = 0
    headers: dict[str, str] = field(factory=dict)
    body: bytes = b""
    receives: int = 0

    async def receive(self) -> dict[str, Any]:
        self.receives += 1
        return self.messages.pop(0) if self.messages else DISCONNECT

    async def send(self, message: Any) -> None:
        if self.has_disconnected:
            raise OSError("the client has disconnected")
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
    """Return the scope of the last worker request that was sent, and its body."""
    request = world.transport.sent[-1].delivery.sign()
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers]
    headers += [(b"content-length", str(len(request.body)).encode()), *extra.pop("more_headers", ())]
    names = {name for name, _ in headers}
    assert len(names) == len(headers)
    return scope_of(request.path, request.query, method=request.method, headers=headers) | extra, request.body


def run(world: Bench, action: Any, *, server: Server | None = None, **extra: Any) -> tuple[Server, Any]:
    """Start, send, receive and run one job. Return the server and the job."""
    if not world.jobs.find(status=Status.STARTED):
        world.start()
    world.step()
    scope, body = arrival(world, **extra)
    server = server or Server([request_message(body)])
    assert server.serve(BackJobMiddleware(action, world.jobs), scope) == b""
    return server, world.job(world.transport.sent[-1].delivery.job_id)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def recording() -> tuple[Callable[[Any, Any, Any], Awaitable[None]], dict[str, Any]]:
    """Return an action, and the dict to which it copies its scope."""
    seen: dict[str, Any] = {}

    async def action(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await ok(scope, receive, send)

    return action, seen


async def never(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


# --- root paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", ["/work", "/shop/work"])
def test_a_worker_request_is_recognised_with_and_without_the_root_path(world: Bench, shown: str) -> None:
    _, job = run(world, ok, root_path="/shop", path=shown, raw_path=shown.encode())
    assert job.status is Status.COMPLETED


def test_an_application_mounted_below_the_middleware_does_not_change_the_mount(world: Bench) -> None:
    """Starlette changes the root path in the scope, Litestar the path."""
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
def test_a_url_runs_below_a_root_path_that_the_server_adds(world: Bench, raw: bool) -> None:
    """Uvicorn adds the root path to each path, whether the sender stripped it (a proxy) or did not (backjob)."""
    action, seen = recording()
    caller = Caller("https", "shop.example", "")
    with served(Here(Request("GET", "/sh%20op/page"), caller, "/sh%20op")):
        world.start("https://shop.example/sh%20op/work")
    raw_path = b"/sh%20op/sh%20op/work" if raw else None
    _, job = run(world, action, root_path="/sh op", path="/sh op/sh op/work", raw_path=raw_path)
    assert (job.status, seen["path"]) == (Status.COMPLETED, "/sh op/work")
    assert seen["raw_path"] == (b"/sh%20op/work" if raw else None)


def test_a_path_that_repeats_the_root_path_stays_below_it(world: Bench) -> None:
    action, seen = recording()
    with served(Here(mount="/shop")):
        world.start("/shop/work")
    run(world, action, root_path="/shop", path="/shop/shop/work", raw_path=b"/shop/shop/work")
    assert seen["path"] == "/shop/shop/work"


def test_a_route_that_repeats_the_root_path_runs_unchanged_if_the_server_adds_none(world: Bench) -> None:
    action, seen = recording()
    with served(Here(Request("GET", "/app/page"), Caller("https", "shop.example", ""), "/app")):
        world.start("https://shop.example/app/app/users")
    _, job = run(world, action, root_path="/app", path="/app/app/users", raw_path=b"/app/app/users")
    assert (job.status, seen["path"]) == (Status.COMPLETED, "/app/app/users")


# --- worker requests ------------------------------------------------------------------------------------------------


def test_the_action_gets_the_started_request_as_if_its_caller_had_sent_it(world: Bench) -> None:
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
    assert seen["backjob.job"] == world.jobs.find()[0].id
    assert "backjob-signature" not in str(seen)
    assert not world.jobs.is_background


def test_a_body_in_chunks_is_joined(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == request_message(b"in chunks")
        await ok(scope, receive, send)

    world.start("/work", method="POST", body=b"in chunks")
    chunks = [request_message(b"in ", more_body=True), request_message(b"", more_body=True), request_message(b"chunks")]
    _, job = run(world, action, server=Server(chunks))
    assert job.status is Status.COMPLETED


def test_streamed_text_becomes_output_but_a_page_does_not(world: Bench) -> None:
    async def streamed(scope: Any, receive: Any, send: Any) -> None:
        content_type = (b"Content-Type", b"text/plain")
        await send({"type": "http.response.start", "status": 200, "headers": [content_type]})
        text = "ä€".encode()
        for chunk in (text[:1], text[1:3], text[3:]):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
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
def test_the_status_decides_how_the_job_ends(world: Bench, status: int, headers: Any, ended: Status) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body"})

    server, job = run(world, action)
    assert (server.status, job.status) == (status, ended)
    assert server.headers["cache-control"] == "no-store"
    assert "location" not in server.headers
    if headers:
        assert "/login" in job.status_text


@pytest.mark.parametrize("started", [False, True])
def test_an_error_ends_the_job_failed_and_is_raised_again(world: Bench, started: bool) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        if started:
            await ok(scope, receive, send)
        raise ValueError("oops")

    with pytest.raises(ValueError, match="oops"):
        run(world, action)
    state = world.jobs.find()[0]
    assert (state.status, state.status_text) == (Status.FAILED, "ValueError: oops")


@pytest.mark.parametrize("grouped", [False, True])
def test_fail_ends_the_job_and_the_monitor_gets_a_response(world: Bench, grouped: bool) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        if grouped:
            raise BaseExceptionGroup("tasks", [JobFailed("why")])
        world.jobs.fail("why")

    server, job = run(world, action)
    assert (job.status, job.status_text, server.status) == (Status.FAILED, "why", 500)


@pytest.mark.parametrize("depth", [1, 2])
def test_fail_is_found_beside_starlettes_error_about_a_missing_response(world: Bench, depth: int) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        error: BaseException = JobFailed("why")
        for _ in range(depth):
            errors: list[BaseException] = [error, RuntimeError("No response returned.")]
            error = BaseExceptionGroup("tasks", errors)
        raise error

    server, job = run(world, action)
    assert (job.status, job.status_text, server.status) == (Status.FAILED, "why", 500)


def test_starlettes_error_about_a_missing_response_alone_is_an_error(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("No response returned.")

    with pytest.raises(RuntimeError):
        run(world, action)
    assert world.jobs.find()[0].status_text == "RuntimeError: No response returned."


def test_fail_beside_another_error_ends_the_job_with_the_group(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        raise BaseExceptionGroup("tasks", [JobFailed("why"), ValueError("oops")])

    with pytest.raises(ExceptionGroup):
        run(world, action)
    assert world.jobs.find()[0].status_text.startswith("BaseExceptionGroup")


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), BaseException("odd")]
)
@pytest.mark.parametrize("grouped", [False, True])
def test_an_exit_of_the_action_fails_its_job_and_nothing_else(
    world: Bench, error: BaseException, grouped: bool
) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        raise BaseExceptionGroup("tasks", [error]) if grouped else error

    server, job = run(world, action)
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    assert (job.status, job.status_text, server.status) == (Status.FAILED, text, 500)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("how", ["gather", "group", "thread"])
def test_an_exit_of_a_task_of_the_action_fails_its_job_and_leaves_the_event_loop_running(
    world: Bench, error: BaseException, how: str
) -> None:
    async def leave() -> None:
        await asyncio.sleep(0)
        raise error

    def leave_in_thread() -> None:
        raise error

    async def action(scope: Any, receive: Any, send: Any) -> None:
        if how == "gather":
            await asyncio.gather(leave())
        elif how == "thread":
            await asyncio.to_thread(leave_in_thread)
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(leave())
                await asyncio.sleep(30)

    server, job = run(world, action)
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    assert (job.status, job.status_text, server.status) == (Status.FAILED, text, 500)


def test_a_task_of_an_action_that_is_cancelled_before_it_begins_leaves_nothing_behind(world: Bench) -> None:
    async def never() -> None:
        raise AssertionError

    async def action(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.create_task(never(), name="mine")
        assert task.get_name() == "mine"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ok(scope, receive, send)

    _, job = run(world, action)
    assert job.status is Status.COMPLETED


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


def test_an_action_may_start_jobs_as_the_current_user(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        await world.jobs.astart("/child")
        await ok(scope, receive, send)

    with served():
        world.start(as_current_user=True)
    run(world, action)
    world.step()
    assert world.transport.sent[-1].delivery.sign().header("Cookie") == COOKIE


def test_a_refusal_names_its_reason_and_runs_no_action(world: Bench) -> None:
    world.start(method="POST", body=b"body")
    world.step()
    scope, body = arrival(world)

    def answer(app: Any, scope: dict[str, Any], body: bytes) -> Server:
        server = Server([request_message(body)])
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


# --- a client that disconnects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [[DISCONNECT], [request_message(b"bo", more_body=True), DISCONNECT]],
    ids=["before the body", "within the body"],
)
def test_a_request_whose_client_disconnects_before_its_body_is_complete_claims_nothing(
    world: Bench, messages: list[Any]
) -> None:
    world.start(method="POST", body=b"body")
    server, job = run(world, never, server=Server(messages))
    assert (server.status, job.status, job.token) == (0, Status.STARTED, None)


def test_an_action_completes_although_its_client_has_disconnected(world: Bench) -> None:
    server, job = run(world, ok, server=Server(has_disconnected=True))
    assert (server.status, job.status) == (0, Status.COMPLETED)


def test_an_action_gets_no_disconnect_while_it_runs(world: Bench) -> None:
    async def action(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting = asyncio.ensure_future(receive())
        assert await asyncio.wait({waiting}, timeout=0.05) == (set(), {waiting})
        waiting.cancel()
        await ok(scope, receive, send)

    server, job = run(world, action)  # the server would send http.disconnect
    assert job.status is Status.COMPLETED
    assert server.receives == 1


def test_an_action_gets_the_disconnect_once_its_response_is_complete(world: Bench) -> None:
    received: list[Any] = []

    async def action(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        assert await asyncio.wait({waiting}, timeout=0.05) == (set(), {waiting})
        await send({"type": "http.response.body"})
        received.extend((await waiting, await receive()))

    _, job = run(world, action)
    assert (job.status, received) == (Status.COMPLETED, [DISCONNECT, DISCONNECT])


def test_a_cancelled_request_waits_for_its_actions_end(world: Bench) -> None:
    world.start()
    world.step()
    scope, _ = arrival(world)

    async def scenario() -> list[Status]:
        started, may_end = asyncio.Event(), asyncio.Event()

        async def action(scope: Any, receive: Any, send: Any) -> None:
            started.set()
            await may_end.wait()
            await ok(scope, receive, send)

        server = Server()
        request = asyncio.create_task(BackJobMiddleware(action, world.jobs)(scope, server.receive, server.send))
        await started.wait()
        for _ in range(3):
            request.cancel()
            await asyncio.wait({request}, timeout=0.01)
        seen = [world.jobs.find()[0].status]
        may_end.set()
        await request
        return [*seen, world.jobs.find()[0].status]

    assert go(scenario()) == [Status.IN_PROGRESS, Status.COMPLETED]


class _SlowStore:
    """A store whose claim blocks until the test allows it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.claiming, self.may_claim = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def change(self, *arguments: Any) -> Any:
        self.claiming.set()
        assert self.may_claim.wait(TIMEOUT)
        return self._store.change(*arguments)


def test_a_request_cancelled_while_its_job_is_claimed_still_runs_it(world: Bench) -> None:
    world.start()
    world.step()
    scope, _ = arrival(world)
    slow = _SlowStore(world.store.store)
    store: Any = slow
    world.engine.worker._store = store

    async def scenario() -> None:
        server = Server()
        request = asyncio.create_task(BackJobMiddleware(ok, world.jobs)(scope, server.receive, server.send))
        assert await asyncio.to_thread(slow.claiming.wait, TIMEOUT)
        request.cancel()
        await asyncio.wait({request}, timeout=0.01)
        slow.may_claim.set()
        await request

    go(scenario())
    assert world.jobs.find()[0].status is Status.COMPLETED


def test_shielded_work_can_be_cancelled_itself() -> None:
    async def scenario() -> None:
        inner: asyncio.Future[asyncio.Task[Any] | None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            inner.set_result(asyncio.current_task())
            await asyncio.Event().wait()

        outer = asyncio.create_task(shielded(work()))
        task = await inner
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer

    go(scenario())


def test_the_shutdown_of_the_event_loop_ends_its_jobs_failed(world: Bench) -> None:
    world.start()
    world.step()
    scope, _ = arrival(world)

    async def shut_down() -> None:
        started = asyncio.Event()

        async def action(scope: Any, receive: Any, send: Any) -> None:
            started.set()
            await asyncio.Event().wait()

        server = Server()
        request = asyncio.create_task(BackJobMiddleware(action, world.jobs)(scope, server.receive, server.send))
        await started.wait()
        assert not request.done()

    go(shut_down())  # asyncio.run() cancels the remaining tasks
    state = world.jobs.find()[0]
    assert (state.status, state.status_text) == (Status.FAILED, "CancelledError")


# --- ordinary requests ----------------------------------------------------------------------------------------------


def test_an_ordinary_request_is_passed_on_unchanged(world: Bench) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((scope, receive, await receive()))
        await ok(scope, receive, send)

    server, scope = Server([request_message(b"a")]), scope_of("/page", "a=1")
    before = dict(scope)
    receive = server.receive
    go(BackJobMiddleware(app, world.jobs)(scope, receive, server.send))
    assert seen[0] is scope
    assert scope == before
    assert seen[1:] == [receive, request_message(b"a")]
    assert (server.status, server.body) == (200, b"ok")


STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


def test_websockets_are_passed_on(world: Bench) -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.append(arguments)

    server = Server()
    arguments: tuple[Any, ...] = ({"type": "websocket"}, server.receive, server.send)
    go(BackJobMiddleware(app, world.jobs)(*arguments))
    assert seen == [arguments]


def test_at_the_servers_shutdown_other_processes_may_deliver_what_waits(
    world: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(world.monitor, "give_leases_back", lambda: seen.append("given back"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((scope, send))
        seen.append(await receive())
        seen.append(await receive())

    server, scope = Server([STARTUP, SHUTDOWN]), {"type": "lifespan"}
    go(BackJobMiddleware(app, world.jobs)(scope, server.receive, server.send))
    assert seen == [scope, server.send, STARTUP, "given back", SHUTDOWN]


@pytest.mark.parametrize("grouped", [False, True])
def test_fail_in_an_ordinary_request_is_a_500(world: Bench, grouped: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if grouped:
            raise BaseExceptionGroup("g", [BaseExceptionGroup("h", [JobFailed("no")])])
        world.jobs.fail("no")

    server = Server()
    assert server.serve(BackJobMiddleware(app, world.jobs), scope_of()) == b"no"
    assert (server.status, server.headers["x-content-type-options"]) == (500, "nosniff")


def test_fail_after_the_status_is_sent_ends_the_response(world: Bench) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        world.jobs.fail("no")

    server = Server()
    assert server.serve(BackJobMiddleware(app, world.jobs), scope_of()) == b""
    assert server.status == 200


def test_a_background_only_route_gives_403_to_an_ordinary_request(world: Bench) -> None:
    @world.jobs.background_only
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ok(scope, receive, send)

    server = Server()
    server.serve(BackJobMiddleware(app, world.jobs), scope_of())
    assert server.status == 403
    _, job = run(world, app)
    assert job.status is Status.COMPLETED


def test_an_error_of_the_application_is_raised_unchanged(world: Bench) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Server().serve(BackJobMiddleware(app, world.jobs), scope_of())
    assert world.engine.current_owner() is None


def test_concurrent_requests_have_separate_contexts() -> None:
    world = bench(owner=lambda request: request.header("cookie"))

    async def scenario() -> set[str | None]:
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

    assert go(scenario()) == {"a", "b"}


# --- the application's own address ----------------------------------------------------------------------------------


def test_a_request_is_served_although_no_address_can_be_learnt(world: Bench) -> None:
    world.engine.addresses = Addresses(SocketTransport)
    assert Server().serve(BackJobMiddleware(ok, world.jobs), scope_of(server=None)) == b"ok"
    assert world.jobs.transport is None


# --- the status routes ----------------------------------------------------------------------------------------------


def test_the_middleware_serves_the_status_routes(world: Bench) -> None:
    job_id = world.start()
    server = Server()
    body = server.serve(BackJobMiddleware(never, world.jobs), scope_of(world.jobs.status_url(job_id)))
    assert server.status == 200
    assert job_id.encode() in body


def test_with_status_false_the_application_gets_requests_for_the_status_routes(world: Bench) -> None:
    app = BackJobMiddleware(ok, world.jobs, status=False)
    assert Server().serve(app, scope_of(world.jobs.status_url(world.start()))) == b"ok"


def _mounted(world: Bench) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """Mount the status routes as frameworks do: they extend the root path and keep the path."""
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
        (True, "/shop", "/shop"),  # a framework that mounts adds the root path to the path
    ],
)
def test_the_page_links_to_assets_below_its_own_mount(world: Bench, mounted: bool, root: str, path: str) -> None:
    app = _mounted(world) if mounted else BackJobMiddleware(never, world.jobs)
    reference = world.jobs.status_url(world.start())
    scope = scope_of(path + reference, root_path=root)
    scope["headers"].append((b"accept", b"text/html"))
    page = Server().serve(app, scope).decode()
    assert f'"{root}/backjob/progress.js"' in page


def test_the_owner_hook_sees_what_middleware_put_into_the_scope() -> None:
    world = bench(owner=lambda request: request.scope["session"].get("user"))
    found: list[str | None] = []

    async def site(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = {"user": "ann"}
        if scope["path"] == "/page":
            found.append(await asyncio.to_thread(world.engine.current_owner))
            await ok(scope, receive, send)
            return
        mounted = {**scope, "root_path": "/backjob"}
        await StatusApp(world.jobs)(mounted, receive, send)

    app = BackJobMiddleware(site, world.jobs, status=False)
    job_id = world.start(owner="ann")
    for path in ("/page", f"/backjob/{job_id}"):
        server = Server()
        server.serve(app, scope_of(path))
        assert server.status == 200
    assert found == ["ann"]


def test_an_owner_hook_that_raises_breaks_no_asset() -> None:
    def owner(_request: Any) -> str:
        raise KeyError("session")

    world = bench(owner=owner)
    app = BackJobMiddleware(ok, world.jobs)
    server = Server()
    server.serve(app, scope_of("/backjob/progress.js"))
    assert server.status == 200
    with pytest.raises(KeyError):  # the server answers 500 and logs it
        Server().serve(app, scope_of("/backjob/job"))


def test_the_owner_hook_is_called_outside_the_event_loop() -> None:
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


def test_head_has_no_body_and_other_methods_get_405(world: Bench) -> None:
    app = BackJobMiddleware(never, world.jobs)
    path = world.jobs.status_url(world.start())
    get, head, post = Server(), Server(), Server()
    length = len(get.serve(app, scope_of(path)))
    assert head.serve(app, scope_of(path, method="HEAD")) == b""
    assert (head.status, int(head.headers["content-length"])) == (200, length)
    post.serve(app, scope_of(path, method="POST"))
    assert (post.status, post.headers["allow"]) == (405, "GET, HEAD, DELETE")


# --- event streams --------------------------------------------------------------------------------------------------


@define
class Listener(Server):
    """A client that reads a stream until it disconnects."""

    disconnects: asyncio.Event = field(factory=asyncio.Event)
    receives_body: asyncio.Event = field(factory=asyncio.Event)

    async def receive(self) -> dict[str, Any]:
        if not self.messages:
            await self.disconnects.wait()
        return await super().receive()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message.get("body"):
            self.receives_body.set()

    def listen(self, world: Bench, job_id: str, leaf: str = "events") -> asyncio.Future[None]:
        scope = scope_of(f"{world.jobs.status_url(job_id)}/{leaf}")
        app: Any = BackJobMiddleware(never, world.jobs)
        serving: asyncio.Future[None] = asyncio.ensure_future(app(scope, self.receive, self.send))
        return serving


def test_a_stream_is_sent_as_it_grows_without_a_content_length(world: Bench) -> None:
    async def scenario() -> tuple[Listener, bytes]:
        job_id, listener = world.start(), Listener()
        serving = listener.listen(world, job_id)
        await listener.receives_body.wait()
        first = listener.body
        world.jobs.cancel(job_id)
        await asyncio.to_thread(world.engine.broadcast.step)
        await serving
        return listener, first

    listener, first = go(scenario())
    assert (listener.status, first) == (200, b"retry: 2000\n\n")
    assert "content-length" not in listener.headers
    assert b"event: end\n" in listener.body


def test_a_disconnect_closes_the_stream_at_once(world: Bench) -> None:
    async def scenario() -> None:
        listener = Listener()
        serving = listener.listen(world, world.start())
        await listener.receives_body.wait()
        assert world.engine.broadcast.count == 1
        listener.disconnects.set()
        await serving

    go(scenario())
    assert world.engine.broadcast.count == 0


def test_a_failed_send_closes_the_stream(world: Bench) -> None:
    async def scenario() -> None:
        await Listener(has_disconnected=True).listen(world, world.start())

    go(scenario())
    assert world.engine.broadcast.count == 0


def test_cancelling_the_request_closes_the_stream(world: Bench) -> None:
    async def scenario() -> None:
        listener = Listener()
        serving = listener.listen(world, world.start())
        await listener.receives_body.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    go(scenario())
    assert world.engine.broadcast.count == 0


@pytest.mark.parametrize("kind", ["http.response.start", "http.response.body"])
def test_a_client_that_does_not_read_in_time_loses_its_stream(
    world: Bench, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backjob.asgi._LONGEST_SEND", 0.01)

    class Stuck(Listener):
        async def send(self, message: Any) -> None:
            if message["type"] == kind:
                await asyncio.Event().wait()
            await super().send(message)

    async def scenario() -> Listener:
        listener = Stuck()
        await listener.listen(world, world.start())
        return listener

    assert go(scenario()).body == b""
    assert world.engine.broadcast.count == 0


def test_streams_of_one_loop_are_woken_together(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> int:
        job_id, listeners = world.start(), [Listener() for _ in range(20)]
        serving = [listener.listen(world, job_id) for listener in listeners]
        for listener in listeners:
            await listener.receives_body.wait()
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
        thread.join(TIMEOUT)
        return calls

    assert go(scenario()) == 1


# --- a job that runs as its owner -----------------------------------------------------------------------------------


@pytest.mark.parametrize("may", [True, False])
def test_an_adapters_hook_lets_the_action_run_as_its_owner_or_refuses_it(
    world: Bench, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_as_owner(job: Any, scope: Any) -> None:
        assert threading.current_thread() is not threading.main_thread(), "it may block"
        if not may:
            raise JobFailed("the owner has left")
        scope["user"] = job.owner

    monkeypatch.setattr(world.engine, "run_as_owner", run_as_owner)
    action, seen = recording()
    world.start(owner="ann", as_owner=True, as_current_user=False, retries=1)
    _, job = run(world, action)
    assert (job.status, seen.get("user")) == ((Status.COMPLETED, "ann") if may else (Status.FAILED, None))
    assert may or job.status_text == "the owner has left"


def test_the_hook_is_not_called_for_other_jobs(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.engine, "run_as_owner", lambda *_: pytest.fail("called"))
    world.start(owner="ann", as_current_user=False)
    _, job = run(world, ok)
    assert job.status is Status.COMPLETED


# --- downloads ------------------------------------------------------------------------------------------------------------


class CountedFiles(MemoryFiles):
    """Counts the bytes that are read, and remembers whether the file was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.opened: list[io.BytesIO] = []

    def open(self, job_id: str, name: str) -> Any:
        files = self

        class Counted(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                chunk = super().read(size)
                files.count += len(chunk)
                return chunk

        with super().open(job_id, name) as file:
            self.opened.append(Counted(file.read()))
        return self.opened[-1]


SIZE = 50 * (1 << 16)


def with_file(files: CountedFiles) -> tuple[Bench, str]:
    world = bench(files=files)
    running = world.run()
    with running.active():
        world.jobs.finish(file=bytes(SIZE), name="rows.bin")
    world.engine.worker.end(running, Outcome(200))
    return world, running.job.id


def test_a_download_is_sent_whole_and_its_file_is_closed() -> None:
    files = CountedFiles()
    world, job_id = with_file(files)

    async def scenario() -> Listener:
        listener = Listener()
        await listener.listen(world, job_id, "file")
        return listener

    listener = go(scenario())
    assert (listener.status, listener.headers["content-length"], len(listener.body)) == (200, str(SIZE), SIZE)
    assert files.opened[0].closed


def test_a_download_ends_when_its_client_disconnects_although_send_raises_nothing() -> None:
    files = CountedFiles()
    world, job_id = with_file(files)

    class Leaving(Listener):
        async def send(self, message: Any) -> None:
            await super().send(message)
            if message.get("body"):
                self.disconnects.set()
                await asyncio.sleep(0)

    async def scenario() -> None:
        await Leaving().listen(world, job_id, "file")

    go(scenario())
    assert files.count < SIZE
    assert files.opened[0].closed


def test_a_failed_send_closes_the_file() -> None:
    files = CountedFiles()
    world, job_id = with_file(files)

    async def scenario() -> None:
        await Listener(has_disconnected=True).listen(world, job_id, "file")

    go(scenario())
    assert files.opened[0].closed
