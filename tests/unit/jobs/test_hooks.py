"""The hooks ``owner``, ``may_see_all`` and ``may_manage_all``: sync or async, through WSGI and ASGI, with the framework's request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from backjob import asgi, wsgi
from backjob.errors import InvalidRequest
from backjob.jobs import BackJob
from backjob.worker.offload import BlockedLoop, note_loop, to_thread, wait_for
from tests.unit.core import Bench, bench, served
from tests.unit.gateways import environ_of, scope_of

Hook = Callable[[Any], Any]
Loops = list[asyncio.AbstractEventLoop | None]


def hooks(loops: Loops, *, is_async: bool) -> dict[str, Any]:
    """Return hooks that read the framework's own request, and note in which event loop they ran."""

    def field(request: Any, name: str) -> str | None:
        if hasattr(request, "environ"):
            value: str | None = request.environ.get(f"HTTP_{name.upper()}")
            return value
        found = dict(request.scope["headers"]).get(name.encode())
        return None if found is None else found.decode()

    def owner(request: Any) -> str | None:
        return field(request, "user")

    def may_see_all(request: Any) -> bool:
        return field(request, "role") == "staff"

    def may_manage_all(request: Any) -> bool:
        return field(request, "role") == "admin"

    def as_async(hook: Hook) -> Hook:
        async def call(request: Any) -> Any:
            await asyncio.sleep(0)
            loops.append(asyncio.get_running_loop())
            return hook(request)

        return call

    chosen: dict[str, Hook] = {"owner": owner, "may_see_all": may_see_all, "may_manage_all": may_manage_all}
    return {name: as_async(hook) for name, hook in chosen.items()} if is_async else chosen


def by_wsgi(jobs: BackJob, path: str, method: str = "GET", **fields: str) -> tuple[int, Any]:
    statuses: list[str] = []
    extra = {f"HTTP_{name.upper()}": value for name, value in fields.items()}
    app = wsgi.BackJobMiddleware(lambda *_: [], jobs)

    def start(status: str, headers: Any, _error: Any = None) -> Any:
        statuses.append(status)

    body = b"".join(app(environ_of(path, REQUEST_METHOD=method, **extra), start))
    return int(statuses[0][:3]), json.loads(body)


def by_asgi(jobs: BackJob, path: str, method: str = "GET", **fields: str) -> tuple[int, Any]:
    async def app(*_: Any) -> None:
        raise AssertionError("the status routes answer")

    return asyncio.run(ask(asgi.BackJobMiddleware(app, jobs), path, method, **fields))


async def ask(app: Any, path: str, method: str = "GET", **fields: str) -> tuple[int, Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1:8000"), *((name.encode(), value.encode()) for name, value in fields.items())]
    await app(scope_of(path, method=method, headers=headers), receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


GATEWAYS = pytest.mark.parametrize("by", [by_wsgi, by_asgi])
KINDS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
MEANT = {"authorization": "Bearer abc"}


def world_with(loops: Loops, *, is_async: bool) -> Bench:
    return bench(**hooks(loops, is_async=is_async))


@GATEWAYS
@KINDS
def test_each_visitor_gets_the_rights_that_the_hooks_give(by: Any, is_async: bool) -> None:
    world = world_with([], is_async=is_async)
    job_id = world.start(owner="ann")
    path = f"/backjob/{job_id}"
    statuses = {
        "owner": by(world.jobs, path, user="ann")[0],
        "other": by(world.jobs, path, user="bob")[0],
        "nobody": by(world.jobs, path)[0],
        "staff": by(world.jobs, path, role="staff")[0],
        "admin": by(world.jobs, path, role="admin")[0],
    }
    assert statuses == {"owner": 200, "other": 404, "nobody": 404, "staff": 200, "admin": 200}
    assert by(world.jobs, f"{path}/cancel", "POST", role="staff", **MEANT)[0] == 403
    assert by(world.jobs, f"{path}/cancel", "POST", user="bob", **MEANT)[0] == 404
    assert by(world.jobs, f"{path}/cancel", "POST", role="admin")[0] == 403
    assert by(world.jobs, f"{path}/cancel", "POST", role="admin", **MEANT)[0] == 200


@GATEWAYS
@KINDS
def test_the_list_has_whose_jobs_the_hooks_say(by: Any, is_async: bool) -> None:
    world = world_with([], is_async=is_async)
    anns, bobs = world.start(owner="ann"), world.start(owner="bob")

    def ids(**fields: str) -> set[str]:
        status, body = by(world.jobs, "/backjob/", **fields)
        assert status == 200
        return {job["id"] for job in body["jobs"]}

    assert ids(user="ann") == {anns}
    assert ids(role="staff") == ids(role="admin", user="ann") == {anns, bobs}
    assert ids() == set()


def test_an_async_hook_under_asgi_runs_in_the_servers_event_loop() -> None:
    loops: Loops = []
    world = world_with(loops, is_async=True)

    async def app(*_: Any) -> None:
        raise AssertionError

    async def main() -> asyncio.AbstractEventLoop:
        assert (await ask(asgi.BackJobMiddleware(app, world.jobs), "/backjob/", user="ann"))[0] == 200
        return asyncio.get_running_loop()

    loop = asyncio.run(main())
    assert set(loops) == {loop}


def test_an_async_owner_hook_names_the_owner_of_a_new_job() -> None:
    async def owner(request: Any) -> str:
        await asyncio.sleep(0)
        return "ann"

    world = bench(owner=owner)
    with served():
        assert world.job(world.jobs.start("/work")).owner == "ann"

        async def handler() -> str:
            with pytest.raises(InvalidRequest, match=r"owner: is an async function.*astart"):
                world.jobs.start("/work")
            return await world.jobs.astart("/work")

        assert world.job(asyncio.run(handler())).owner == "ann"


def test_a_sync_handler_of_an_async_server_starts_a_job_with_an_async_hook() -> None:
    loops: Loops = []

    async def owner(request: Any) -> str:
        loops.append(asyncio.get_running_loop())
        return "ann"

    world = bench(owner=owner)
    started: list[str] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        # As frameworks call a handler that is no coroutine.
        started.append(await asyncio.to_thread(world.jobs.start, "/work"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1"})

    async def main() -> None:
        await ask(asgi.BackJobMiddleware(app, world.jobs), "/page")

    asyncio.run(main())
    assert world.job(started[0]).owner == "ann"
    assert len(set(loops)) == 1


def test_a_hook_that_raises_fails_the_request_and_gives_no_right() -> None:
    async def may_see_all(request: Any) -> bool:
        raise PermissionError("no")

    world = bench(may_see_all=may_see_all)
    with pytest.raises(PermissionError):
        by_wsgi(world.jobs, f"/backjob/{world.start()}")


def test_waiting_for_a_coroutine_in_its_own_loop_raises_at_once_and_leaves_no_warning() -> None:
    async def never() -> None:
        raise AssertionError

    async def main() -> None:
        with pytest.raises(BlockedLoop):
            wait_for(never())

    asyncio.run(main())


def test_a_coroutine_sees_the_context_of_the_thread_that_waits_for_it() -> None:
    from contextvars import ContextVar

    seen: ContextVar[str] = ContextVar("seen", default="")

    async def read() -> str:
        return seen.get()

    def work(wait: Callable[[Awaitable[str]], str]) -> str:
        seen.set("here")
        return wait(read())

    async def main() -> str:
        note_loop()
        return await to_thread(work, wait_for)

    assert asyncio.run(main()) == "here"
    assert work(wait_for) == "here"
