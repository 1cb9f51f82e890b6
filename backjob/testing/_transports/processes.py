"""A process may fork while it has a transport, and may end while a request is in flight."""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

import multiprocessing
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess

from backjob.model import Request
from backjob.protocols import Transport
from backjob.testing._peer import AnyPeer, OneDelivery, Received, answer, ok
from backjob.testing._transports.case import GET, TransportCase


class ForksAndExits(TransportCase):
    """A forked child has a working transport and leaves its parent's requests alone; a process can end at any time.

    It needs no sockets.
    """

    def test_a_forked_child_can_send_and_leaves_its_parents_requests_alone(
        self, peer: AnyPeer, transport: Transport
    ) -> None:
        gate = threading.Event()

        def script(call: Received) -> bytes:
            return ok(call) if call.target == "/child" or gate.wait(self.patience) else b""

        peer.script = script
        future = transport.send(OneDelivery(GET))
        assert peer.next_call().target == "/"
        with _child(lambda: self._use_in_child(transport)) as child:
            child.join(2 * self.patience)
            assert child.exitcode == 0, "a forked child must be able to send, and to close the transport"
        assert not future.done(), "a forked child must not end its parent's requests"
        gate.set()
        assert future.result(self.patience).status == 200, "a forked child must leave its parent's connections alone"

    def _use_in_child(self, transport: Transport) -> None:
        assert self._exchange(transport, Request("GET", "/child")).status == 200
        transport.close()

    def test_a_process_can_end_while_a_request_is_in_flight(self, peer: AnyPeer) -> None:
        has_arrived = multiprocessing.get_context("fork").Event()
        gate = threading.Event()

        def script(_: Received) -> bytes:
            has_arrived.set()
            return answer() if gate.wait(self.patience) else b""

        def send() -> None:
            transport = self._transport_to(peer)
            future = transport.send(OneDelivery(GET))
            assert has_arrived.wait(self.patience)
            assert not future.done()

        peer.script = script
        with _child(send) as child:
            assert has_arrived.wait(self.patience)
            child.join(self.patience / 2)
            assert child.exitcode is not None, "a process must be able to end while a job runs: use daemon threads"
            assert child.exitcode == 0
            gate.set()


@contextmanager
def _child(run: Callable[[], None]) -> Iterator[ForkProcess]:
    """Run this in a forked child, which waits for its threads at the end as the interpreter does."""
    child = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork while threads run is what this tests
        child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()
