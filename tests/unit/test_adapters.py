"""The parts of an adapter, used by one for a framework that calls a function for each request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import pytest

from backjob import BackJob
from backjob.adapters import ActionCall, Arrival, Receiver, Reply, body_of, exit_response, listener_of_socket, served
from backjob.errors import AddressUnknown
from backjob.files import MemoryFiles
from backjob.http.listening import Listener
from backjob.model import Caller, Request, Response, Status
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.transports.sockets import SocketTransport
from backjob.worker.replies import CONCURRENCY_HEADER
from tests.unit.core import KEY, Bench, bench

PAGE: Final = (("Host", "shop.example"), ("Cookie", "user=ann"), ("X-Forwarded-For", "192.0.2.7"))

Page = Callable[[Request], str]


def user_of(request: Request) -> str | None:
    return (request.header("cookie") or "").partition("user=")[2] or None


@pytest.fixture
def world() -> Bench:
    return bench(owner=user_of, files=MemoryFiles())


def arrived(request: Request, *, in_thread: bool = True, is_test_client: bool = False) -> Arrival:
    return Arrival(request, scheme="https", address="192.0.2.9", in_thread=in_thread, is_test_client=is_test_client)


def no_socket() -> Listener:
    return listener_of_socket(None)


def serve(world: Bench, request: Request, page: Page, threads: int | None = 4) -> Response:
    """The whole adapter: the framework's ``page`` takes a request and returns a text."""
    receiver = Receiver(world.jobs)

    def act(call: ActionCall) -> None:
        with served(arrived(call.request)):
            text = page(call.request)
        call.response.begin(200, "OK", [("Content-Type", "text/plain")])
        call.response.write(text.encode(), is_whole=True)
        call.response.end()

    arrival = arrived(request)
    try:
        opened = receiver.open(arrival, no_socket, threads=threads)
        if opened is not None:
            return receiver.run(opened, request.body, act)
    except Reply as reply:
        return reply.response
    rest = request.path.removeprefix(receiver.status_prefix)
    if rest != request.path:
        return receiver.respond(arrival, rest)
    with served(arrival):
        try:
            return Response(200, "OK", (), page(request).encode())
        except BaseException as error:
            response = exit_response(error)
            if response is None:
                raise
            return response


def sent(world: Bench, job_id: str) -> Request:
    """The worker request for a job that was started."""
    world.step()
    sent = world.transport.sent[-1].delivery
    assert sent.job_id == job_id
    return sent.sign()


def started_by_ann(world: Bench, **options: Any) -> str:
    """A job that a page starts which Ann requests."""
    page = serve(world, Request("GET", "/page", PAGE), lambda _request: world.jobs.start("/work?a=1", **options))
    return page.body.decode()


def test_the_action_gets_the_request_that_start_was_given_as_from_its_caller(world: Bench) -> None:
    seen: list[Request] = []
    job_id = started_by_ann(world, method="POST", body=b"rows=5", headers={"Content-Type": "text/x-rows"})

    def page(request: Request) -> str:
        seen.append(request)
        print("printed", end=" ")
        return f"for {world.jobs.owner}"

    worker_request = sent(world, job_id)
    assert serve(world, worker_request, page).status == 200
    [request] = seen
    assert (request.method, request.target, request.body) == ("POST", "/work?a=1", b"rows=5")
    fields = {name.lower(): value for name, value in request.headers}
    assert {name.lower(): value for name, value in PAGE}.items() <= fields.items()
    assert fields["content-type"] == "text/x-rows"
    state = world.jobs.status(job_id)
    assert (state.status, state.owner, world.jobs.output(job_id).text) == (Status.COMPLETED, "ann", "printed for ann")
    assert serve(world, worker_request, page).status == 409
    assert len(seen) == 1


def test_a_call_has_its_caller_and_its_job(world: Bench) -> None:
    job_id = started_by_ann(world)
    calls: list[ActionCall] = []
    receiver = Receiver(world.jobs)
    opened = receiver.open(arrived(sent(world, job_id)), no_socket)
    assert opened is not None
    receiver.run(opened, b"", calls.append)
    [call] = calls
    assert call.caller == Caller("https", "shop.example", "192.0.2.9", (("X-Forwarded-For", "192.0.2.7"),))
    assert call.job.id == job_id
    assert world.jobs.status(job_id).status_text == "the action ended without a response"


def fails(world: Bench, _request: Request) -> str:
    world.jobs.fail("no rows")


def swallows(world: Bench, _request: Request) -> str:
    """A framework that turns everything that a route raises into a response."""
    try:
        return fails(world, _request)
    except BaseException as error:
        response = exit_response(error)
        assert response is not None
        return response.body.decode()


@pytest.mark.parametrize("page", [fails, swallows])
def test_fail_ends_the_job_even_if_the_framework_lets_no_exit_out_of_a_route(
    world: Bench, page: Callable[[Bench, Request], str]
) -> None:
    job_id = started_by_ann(world)
    serve(world, sent(world, job_id), partial(page, world))
    state = world.jobs.status(job_id)
    assert (state.status, state.status_text, world.jobs.output(job_id).text) == (Status.FAILED, "no rows", "")


def test_fail_in_an_ordinary_request_is_a_response(world: Bench) -> None:
    response = serve(world, Request("GET", "/page", PAGE), partial(fails, world))
    assert (response.status, response.body, response.header("cache-control")) == (500, b"no rows", "no-store")
    assert exit_response(ValueError("no exit")) is None


def test_the_server_sees_an_exception_of_the_action_once_its_end_is_written(world: Bench) -> None:
    def page(_request: Request) -> str:
        raise ValueError("the disk is full")

    job_id = started_by_ann(world)
    with pytest.raises(ValueError, match="the disk is full"):
        serve(world, sent(world, job_id), page)
    assert world.jobs.status(job_id).status is Status.FAILED


@pytest.mark.parametrize(("threads", "declared"), [(1, "one"), (4, "many"), (None, "many")])
def test_a_refusal_says_whether_the_server_handles_several_requests_at_once(
    world: Bench, threads: int | None, declared: str
) -> None:
    request = sent(world, started_by_ann(world))
    forged = Request(request.method, request.target + "1", request.headers)
    response = serve(world, forged, lambda _request: "", threads)
    assert (response.status, response.header(CONCURRENCY_HEADER)) == (403, declared)


@pytest.mark.parametrize(("in_thread", "running"), [(True, 1), (False, 100)])
def test_how_many_jobs_may_run_depends_on_the_server(in_thread: bool, running: int) -> None:
    world = bench(max_running=None)
    receiver = Receiver(world.jobs)
    receiver.open(arrived(Request("GET", "/"), in_thread=in_thread), no_socket, threads=2)
    assert world.engine.max_running() == running


def test_a_server_without_a_socket_leaves_the_address_unknown(world: Bench) -> None:
    with pytest.raises(AddressUnknown, match="does not show the socket"):
        no_socket()
    assert listener_of_socket(Socket(), tls=True).base_urls == ("https://127.0.0.1:8000",)


def test_a_test_client_shows_no_server_and_what_it_starts_is_refused() -> None:
    with BackJob(MemoryStore(), SocketTransport, MessageSigner(KEY)) as jobs:
        receiver = Receiver(jobs)
        arrival = arrived(Request("GET", "/"), is_test_client=True)
        assert receiver.open(arrival, lambda: listener_of_socket(Socket())) is None
        with served(arrival), pytest.raises(AddressUnknown, match="test client"):
            jobs.start("/work")


class Socket:
    family = 2

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8000)


# --- the status routes ----------------------------------------------------------------------------------------------


def test_status_routes_know_their_visitor_and_their_mount(world: Bench) -> None:
    job_id = started_by_ann(world)
    accept = ("Accept", "application/json")
    receiver = Receiver(world.jobs)
    for cookie, status in (("user=ann", 200), ("user=bob", 404)):
        request = Request("GET", f"/backjob/{job_id}", (("Host", "shop.example"), ("Cookie", cookie), accept))
        arrival = Arrival(request, scheme="https", address="", mount="/shop")
        response = receiver.respond(arrival, f"/{job_id}")
        assert response.status == status
        if status == 200:
            assert b"/shop/backjob/" in response.body


def test_the_body_of_a_status_route_is_read_to_its_end_and_closed(world: Bench) -> None:
    def page(_request: Request) -> str:
        world.jobs.finish(file=b"0" * 200_000, name="zeros.txt")
        return ""

    job_id = started_by_ann(world)
    serve(world, sent(world, job_id), page)
    world.step()

    async def chunks_of(path: str, most: float = math.inf) -> list[bytes]:
        request = Request("GET", f"/backjob{path}", PAGE)
        answer = await Receiver(world.jobs).arespond(arrived(request, in_thread=False), path)
        assert answer.status == 200
        chunks: list[bytes] = []
        async with aclosing(body_of(answer)) as body:
            async for chunk in body:
                chunks.append(chunk)
                if len(chunks) >= most:
                    break
        if answer.download is not None:
            with pytest.raises(ValueError, match="closed"):
                answer.download.read()
        return chunks

    async def scenario() -> None:
        async with asyncio.timeout(20):
            chunks = await chunks_of(f"/{job_id}/file")
            assert (len(chunks), b"".join(chunks)) == (4, b"0" * 200_000)
            assert len(await chunks_of(f"/{job_id}/file", most=1)) == 1
            assert len(await chunks_of("/progress.js")) == 1
            assert world.engine.broadcast.count == 0
            assert await chunks_of(f"/{job_id}/events", most=1)
            assert world.engine.broadcast.count == 0

    asyncio.run(scenario())
