"""The socket thread: one selector for all that is in flight in one process, with deadlines and cancellation."""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import threading
from collections import deque
from concurrent.futures import Future
from typing import Final

from attrs import define, field

from backjob.errors import BackJobError, ConnectionLost, NotSent, TransportError
from backjob.model import Response
from backjob.protocols import Clock, Delivery
from backjob.transports.sockets.connection import Line, Steps, Terms, Unreachable, converse, describe
from backjob.transports.sockets.resolver import Peer, Resolver

__all__ = ["Engine", "Flight"]

_LOGGER: Final = logging.getLogger("backjob.transports.sockets")

_LONGEST_GOODBYE: Final = 5.0
"""Seconds that close() waits for the thread, which a slow resolver may hold up."""


@define(eq=False)
class Flight:
    """One delivery on its way. Once submitted, only the engine's thread touches it.

    ``delivery`` goes as soon as it is signed. ``peers`` are still to be tried until ``give_up`` (monotonic, s).
    ``events`` are those watched for on ``descriptor``; 0: it is not watched.
    """

    future: Future[Response]
    delivery: Delivery | None
    line: Line = field(factory=Line)
    steps: Steps | None = None
    peers: tuple[Peer, ...] = ()
    failures: tuple[str, ...] = ()
    give_up: float = 0.0
    descriptor: int = -1
    events: int = 0


class Engine:
    """The thread, its selector and all that is in flight, in one process."""

    def __init__(self, terms: Terms, connect_timeout: float, clock: Clock) -> None:
        self._terms = terms
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._resolver = Resolver(clock)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._inbox: deque[Flight] = deque()
        self._cancelled: deque[Future[Response]] = deque()
        self._flights: dict[Future[Response], Flight] = {}
        self._connecting: dict[Flight, float] = {}
        self._next_sweep = 0.0

    # --- called from any thread -------------------------------------------------------------------------------------

    def submit(self, flight: Flight) -> None:
        with self._lock:
            refusal = self._ensure_thread()
            if refusal is None:
                self._inbox.append(flight)
        if refusal is not None:
            _settle(flight.future, NotSent(refusal))
            return
        flight.future.add_done_callback(self._note_cancel)
        self._wake()

    def close(self) -> None:
        with self._lock:
            self._closing = True
            thread = self._thread
        if thread is None:
            return
        self._wake()
        if thread is not threading.current_thread():
            thread.join(_LONGEST_GOODBYE)

    def abandon(self) -> None:
        """Close what a fork has inherited, without a word to the peers and without touching the parent's epoll."""
        if self._thread is None:
            return
        self._selector.close()
        self._waker.close()
        self._wakened.close()
        for flight in [*self._flights.values()]:
            flight.line.drop()

    def _ensure_thread(self) -> str | None:
        """Start the thread unless it runs; why that can't be, or None."""
        if self._closing:
            return "the transport is closed"
        if self._thread is not None:
            return None
        with contextlib.ExitStack() as undo:
            try:
                self._selector = undo.enter_context(selectors.DefaultSelector())
                self._wakened, self._waker = socket.socketpair()
                undo.callback(self._wakened.close)
                undo.callback(self._waker.close)
                self._wakened.setblocking(False)
                self._waker.setblocking(False)
                self._selector.register(self._wakened, selectors.EVENT_READ)
                thread = threading.Thread(target=self._run, name="backjob-sockets", daemon=True)
                thread.start()
            except OSError as error:
                return f"cannot start the socket thread: {describe(error)}"
            except RuntimeError as error:
                return f"cannot start the socket thread: {error}"
            undo.pop_all()
        self._thread = thread
        return None

    def _note_cancel(self, future: Future[Response]) -> None:
        if future.cancelled():
            self._cancelled.append(future)
            self._wake()

    def _wake(self) -> None:
        # A full pipe wakes the thread already, a closed one has none to wake.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    # --- called in the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        reason = "the transport was closed"
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:  # whatever it is, nobody may be left waiting
            reason = f"the socket thread ended: {type(error).__name__}"
            _LOGGER.exception("the socket thread ended; the next worker request starts another")
        finally:
            self._end_thread(reason)

    def _turn(self) -> None:
        timeout = None
        if self._connecting:
            timeout = max(0.0, self._next_sweep - self._clock.monotonic())
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._quiet_waker()
            else:
                self._advance(key.data)
        while self._inbox:
            self._begin(self._inbox.popleft())
        while self._cancelled:
            flight = self._flights.get(self._cancelled.popleft())
            if flight is not None:
                self._end(flight, ConnectionLost("cancelled"))
        if self._connecting and self._clock.monotonic() >= self._next_sweep:
            self._sweep()

    def _quiet_waker(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakened.recv(4096)

    def _begin(self, flight: Flight) -> None:
        self._flights[flight.future] = flight
        try:
            left = (flight.delivery.deadline - self._clock.now()).total_seconds() if flight.delivery is not None else 0
            if left <= 0:
                self._end(flight, NotSent("past its deadline"))
                return
            flight.peers = self._resolver.peers(self._terms.route.address)
            flight.give_up = self._clock.monotonic() + min(left, self._connect_timeout)
        except BaseException as error:  # the outcome of this delivery, whatever it is
            self._end(flight, _outcome(flight, error))
        else:
            self._attempt(flight)

    def _attempt(self, flight: Flight) -> None:
        """Try the next address. Each has its share of the time that is left, so that a silent one is not the last."""
        peer, *others = flight.peers
        now = self._clock.monotonic()
        until = now + (flight.give_up - now) / (1 + len(others))
        self._next_sweep = min(self._next_sweep, until) if self._connecting else until
        self._connecting[flight] = until
        flight.peers = tuple(others)
        flight.line = Line()
        if flight.delivery is not None:
            flight.steps = converse(flight.line, peer, self._terms, flight.delivery)
            self._advance(flight)

    def _advance(self, flight: Flight) -> None:
        if flight.steps is None:
            return
        try:
            self._watch(flight, next(flight.steps))
        except StopIteration as stop:
            self._end(flight, stop.value)
        except Unreachable as error:
            self._next_address(flight, error)
        except BaseException as error:  # the outcome of this delivery, whatever it is
            self._end(flight, _outcome(flight, error))
        else:
            if flight.line.established and flight.delivery is not None:
                flight.delivery = None
                del self._connecting[flight]

    def _watch(self, flight: Flight, events: int) -> None:
        if flight.line.sock is None or flight.events == events:
            return
        if not flight.events:
            flight.descriptor = flight.line.sock.fileno()
            self._selector.register(flight.descriptor, events, flight)
        else:
            self._selector.modify(flight.descriptor, events, flight)
        flight.events = events

    def _next_address(self, flight: Flight, error: Unreachable) -> None:
        flight.failures += (error.reason,)
        if flight.peers and self._clock.monotonic() < flight.give_up:
            self._hang_up(flight)
            self._attempt(flight)
        else:
            self._end(flight, NotSent("; ".join(dict.fromkeys(flight.failures))))

    def _sweep(self) -> None:
        """Give up on connections that take too long."""
        now = self._clock.monotonic()
        for flight, until in [*self._connecting.items()]:
            if until <= now:
                missing = "no TLS with" if isinstance(flight.line.sock, ssl.SSLSocket) else "no connection to"
                self._next_address(flight, Unreachable(f"timed out: {missing} {self._terms.route.address}"))
        self._next_sweep = min(self._connecting.values(), default=now)

    def _hang_up(self, flight: Flight) -> None:
        self._connecting.pop(flight, None)
        if flight.events:
            self._selector.unregister(flight.descriptor)
            flight.events = 0
        flight.steps = None
        flight.line.hang_up()

    def _end(self, flight: Flight, outcome: Response | TransportError) -> None:
        del self._flights[flight.future]
        self._hang_up(flight)
        _settle(flight.future, outcome)

    def _end_thread(self, reason: str) -> None:
        with self._lock:
            # From here on the next submit() may start another thread with a selector of its own.
            self._thread = None
            orphans = [*self._flights.values(), *self._inbox]
            self._flights, self._connecting = {}, {}
            self._inbox.clear()
            selector, wakened, waker = self._selector, self._wakened, self._waker
        for flight in orphans:
            flight.line.hang_up()
            _settle(flight.future, ConnectionLost(reason))
        selector.close()
        wakened.close()
        waker.close()


def _outcome(flight: Flight, error: BaseException) -> TransportError:
    """What went wrong, in the transport's terms. A foreign error's text stays in its cause: nobody knows what it quotes."""
    if isinstance(error, TransportError):
        return error
    words = str(error) if isinstance(error, BackJobError) else type(error).__name__
    outcome = ConnectionLost(words) if flight.line.written else NotSent(f"cannot be sent: {words}")
    outcome.__cause__ = error
    return outcome


def _settle(future: Future[Response], outcome: Response | TransportError) -> None:
    try:
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, TransportError):
            # Frames in a traceback would keep the whole exchange alive for as long as somebody keeps the error.
            future.set_exception(outcome.with_traceback(None))
        else:
            future.set_result(outcome)
    except BaseException:  # a callback's SystemExit must not end the thread
        _LOGGER.exception("a callback of a worker request failed")
