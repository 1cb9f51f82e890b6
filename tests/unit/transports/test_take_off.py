"""`SocketTransport`: the first steps of a delivery, in the thread that sends it."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from backjob.errors import ConnectionLost, NotSent
from backjob.model import Request
from backjob.testing.transports import PATIENCE, OneDelivery, Peer, answer
from backjob.transports.sockets import SocketTransport, resolver
from backjob.transports.sockets.loop import SocketLoop
from tests.unit.transports.test_sockets import (
    LONG,
    PRELUDE,
    eventually,
    exchange,
    full_listener,
    open_descriptors,
    run_script,
    transport_to,
)
from tests.unit.transports.threads import socket_threads

GET = Request("GET", "/")


@define
class Departing:
    """A delivery to an address that was reached before. ``act`` is called when it is signed, which is once it has a connection."""

    reached: object | None
    act: Callable[[], object] = field(default=lambda: None)
    request: Request = GET
    deadline: datetime = field(factory=lambda: datetime.now(UTC) + timedelta(seconds=60))
    job_id: str = "job"
    attempt: int = 1

    def sign(self) -> Request:
        self.act()
        return self.request


@define
class Site:
    """A server that does not respond before ``gate`` is set, except to the first request, and a transport that has reached it."""

    peer: Peer
    transport: SocketTransport
    reached: object | None
    gate: threading.Event

    @property
    def loop(self) -> SocketLoop:
        return self.transport._loops.get()

    def is_idle(self) -> bool:
        return self.transport._loops.get().connections == 0


@contextmanager
def reached_site() -> Iterator[Site]:
    gate = threading.Event()
    with Peer() as peer, transport_to(peer.base_url) as transport:
        first = OneDelivery(GET)
        assert transport.send(first).result(PATIENCE).status == 200
        peer.next_call()
        peer.script = lambda _: answer() if gate.wait(PATIENCE) else b""
        assert eventually(lambda: transport._loops.get().connections == 0)
        try:
            yield Site(peer, transport, first.reached, gate)
        finally:
            gate.set()


@pytest.fixture
def site() -> Iterator[Site]:
    with reached_site() as site:
        yield site


def fail(error: BaseException) -> Callable[..., Any]:
    def failing(*_: object) -> None:
        raise error

    return failing


@pytest.mark.parametrize("request_", [GET, LONG], ids=["short", "longer than the buffers"])
def test_the_thread_that_sends_connects_signs_and_writes_without_a_wake(
    site: Site, monkeypatch: pytest.MonkeyPatch, request_: Request
) -> None:
    wakes: list[bool] = []
    monkeypatch.setattr(site.loop, "_wake", lambda: wakes.append(True))
    threads: list[threading.Thread] = []
    future = site.transport.send(Departing(site.reached, lambda: threads.append(threading.current_thread()), request_))
    assert threads == [threading.current_thread()]
    assert len(site.peer.next_call().body) == len(request_.body)
    site.gate.set()
    assert future.result(PATIENCE).status == 200
    assert wakes == []
    monkeypatch.undo()


def test_a_delivery_that_has_taken_off_can_be_cancelled(site: Site) -> None:
    future = site.transport.send(Departing(site.reached))
    site.peer.next_call()
    assert site.loop.connections == 1
    assert future.cancel()
    assert eventually(site.is_idle)


def test_a_transport_that_is_closed_during_a_take_off_closes_the_connection(site: Site) -> None:
    descriptors = open_descriptors()
    error = site.transport.send(Departing(site.reached, site.transport.close)).exception(PATIENCE)
    assert isinstance(error, ConnectionLost)
    assert str(error) == "the transport was closed"
    assert site.is_idle()
    assert eventually(lambda: open_descriptors() <= descriptors)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_the_thread_that_sends_goes_through_and_closes_the_connection(
    site: Site, error: type[BaseException]
) -> None:
    descriptors, threads = open_descriptors(), socket_threads()
    with pytest.raises(error):
        site.transport.send(Departing(site.reached, fail(error())))
    assert eventually(lambda: site.is_idle() and open_descriptors() <= descriptors)
    site.gate.set()
    assert exchange(site.transport).status == 200
    assert socket_threads() == threads


@pytest.mark.parametrize("is_registered", [False, True])
def test_an_interrupt_while_the_connection_is_handed_over_closes_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, is_registered: bool
) -> None:
    threads = socket_threads()
    selector = site.loop._selector
    register = selector.register

    def interrupted(*arguments: Any) -> None:
        if is_registered:
            register(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(selector, "register", interrupted)
        with pytest.raises(KeyboardInterrupt):
            site.transport.send(Departing(site.reached))
    assert eventually(site.is_idle)
    site.gate.set()
    for _ in range(3):  # the descriptor's number is used again
        assert site.transport.send(Departing(site.reached)).result(PATIENCE).status == 200
    assert socket_threads() == threads


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("secret")])
def test_if_the_selector_takes_no_more_sockets_the_delivery_is_lost_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    descriptors, threads = open_descriptors(), socket_threads()
    with monkeypatch.context() as patched:
        patched.setattr(site.loop._selector, "register", fail(error))
        outcome = site.transport.send(Departing(site.reached)).exception(PATIENCE)
    assert isinstance(outcome, ConnectionLost)
    assert "secret" not in str(outcome)
    assert site.is_idle()
    site.gate.set()
    assert eventually(lambda: open_descriptors() <= descriptors)
    assert socket_threads() == threads


def test_if_the_selector_takes_no_connecting_socket_the_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with full_listener() as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        loop = transport._loops.get()
        loop.ensure_running()
        threads = socket_threads()
        peer = resolver.Peer(socket.AF_INET, ("127.0.0.1", port), "full")
        with monkeypatch.context() as patched:
            patched.setattr(loop._selector, "register", fail(OSError(errno.ENOSPC, "No space left on device")))
            outcome = transport.send(Departing(peer)).exception(PATIENCE)
        assert isinstance(outcome, NotSent)
        assert loop.connections == 0
        assert socket_threads() == threads


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_a_child_that_is_forked_during_a_take_off_closes_its_copy_of_the_connection() -> None:
    out = run_script(
        PRELUDE
        + """
def fork():
    global child
    child = os.fork()
    if child == 0:
        before = len(os.listdir("/proc/self/fd"))
        transport._loops.get()
        # Of its parent: the epoll, the socket pair and the connection.
        os._exit(before - len(os.listdir("/proc/self/fd")))

class Forking(OneDelivery):
    def sign(self):
        fork()
        return self.request

with Peer() as peer:
    transport = SocketTransport(peer.base_url)
    first = delivery()
    transport.send(first).result(10)
    second = Forking(Request("GET", "/"), reached=first.reached)
    print(transport.send(second).result(10).status, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    transport.close()
"""
    )
    assert out == "200 4\n"
