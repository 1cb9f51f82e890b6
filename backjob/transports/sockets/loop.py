"""The socket thread: one selector for all requests that a process has in flight, with timeouts and cancellation.

The thread that submits a delivery connects, signs and writes itself if no step of that can take long, and leaves the rest
to the socket thread, which then need not be woken.
"""

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

from backjob.errors import ConnectionLost, NotSent, TransportError
from backjob.model import Response
from backjob.protocols import Clock, Delivery
from backjob.transports.settling import reason_of, settle
from backjob.transports.sockets.connection import Line, Steps, Terms, Unreachable, converse, describe
from backjob.transports.sockets.descriptors import Descriptors
from backjob.transports.sockets.resolver import Peer, Resolver

_LOGGER: Final = logging.getLogger("backjob.transports.sockets")

_CLOSE_TIMEOUT: Final = 5.0
"""Seconds that close() waits for the thread, which a slow resolver may block."""

_SHARED: Final = tuple(
    [kind for name in ("EpollSelector", "KqueueSelector") if (kind := getattr(selectors, name, None)) is not None]
)
"""The selectors to which another thread may add a socket while the loop's waits."""


@define(eq=False, repr=False)
class Flight:
    """One delivery in flight. Only the thread that submits it uses it, and then only the loop's.

    ``delivery`` is None once it is signed. ``peers`` are the addresses left to try before ``give_up`` (monotonic, s).
    ``wanted`` are the events that its steps wait for, and ``events`` those that the selector watches on ``descriptor``; 0: none.
    """

    future: Future[Response]
    delivery: Delivery | None
    terms: Terms
    line: Line = field(factory=Line)
    steps: Steps | None = None
    peers: tuple[Peer, ...] = ()
    failures: tuple[str, ...] = ()
    give_up: float = 0.0
    descriptor: int = -1
    wanted: int = 0
    events: int = 0


class SocketLoop:
    """The socket thread of one process, its selector and its deliveries in flight."""

    def __init__(self, connect_timeout: float, clock: Clock) -> None:
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._resolver = Resolver(clock)
        self.descriptors = Descriptors(clock)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._inbox: deque[Flight] = deque()
        self._cancelled: deque[Future[Response]] = deque()
        self._flights: dict[Future[Response], Flight] = {}
        self._taking_off: set[Flight] = set()
        self._connecting: dict[Flight, float] = {}
        self._next_sweep = 0.0

    # --- called from any thread -------------------------------------------------------------------------------------

    def ensure_running(self) -> None:
        """Start the thread unless it runs. If that is impossible, `submit` says why."""
        with self._lock:
            self._ensure_thread()

    def submit(self, flight: Flight) -> None:
        with self._lock:
            refusal = self._ensure_thread()
        if refusal is not None:
            settle(flight.future, NotSent(refusal))
            return
        flight.future.add_done_callback(self._note_cancel)
        if self._may_take_off(flight):
            self._take_off(flight)
        else:
            self._leave_to_thread(flight)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._flights)

    def close(self) -> None:
        with self._lock:
            self._closing = True
            thread = self._thread
        if thread is None:
            return
        self._wake()
        if thread is not threading.current_thread():
            thread.join(_CLOSE_TIMEOUT)

    def abandon(self) -> None:
        """In a forked child: close the inherited descriptors. Neither the peers nor the parent's epoll notice."""
        if self._thread is None:
            return
        self._selector.close()
        self._waker.close()
        self._wake_reader.close()
        for flight in [*self._flights.values(), *self._inbox, *self._taking_off]:
            flight.line.drop()

    def _ensure_thread(self) -> str | None:
        """Start the thread unless it runs. Returns why that is impossible, or None."""
        if self._closing:
            return "the transport is closed"
        if self._thread is not None:
            return None
        with contextlib.ExitStack() as undo:
            try:
                self._selector = undo.enter_context(selectors.DefaultSelector())
                self._wake_reader, self._waker = socket.socketpair()
                undo.callback(self._wake_reader.close)
                undo.callback(self._waker.close)
                self._wake_reader.setblocking(False)
                self._waker.setblocking(False)
                self._selector.register(self._wake_reader, selectors.EVENT_READ)
                thread = threading.Thread(target=self._run, name="backjob-sockets", daemon=True)
                thread.start()
            except OSError as error:
                return f"cannot start the socket thread: {describe(error)}"
            except RuntimeError as error:
                return f"cannot start the socket thread: {error}"
            undo.pop_all()
        self._thread = thread
        return None

    def _may_take_off(self, flight: Flight) -> bool:
        """Return whether the submitting thread may take the first steps: no name to resolve, no TLS, one address."""
        delivery = flight.delivery
        return (
            isinstance(self._selector, _SHARED)
            and flight.terms.context is None
            and delivery is not None
            and isinstance(delivery.reached, Peer)
        )

    def _take_off(self, flight: Flight) -> None:
        """Connect, sign and write in the submitting thread, as far as that goes without waiting."""
        self._taking_off.add(flight)
        try:
            outcome = self._first_steps(flight)
        except BaseException:  # this thread's own, such as KeyboardInterrupt
            flight.future.cancel()
            if flight.future not in self._flights:
                flight.line.hang_up()
            raise
        finally:
            self._taking_off.discard(flight)
        if outcome is not None:
            flight.steps = None
            flight.line.hang_up()
            settle(flight.future, outcome)
        elif not flight.line.established:
            self._leave_to_thread(flight)

    def _first_steps(self, flight: Flight) -> Response | TransportError | None:
        """Return the outcome, or None once the delivery waits: for its connection, or, with the thread, for its response."""
        try:
            delivery = self._prepare(flight)
            (peer,), flight.peers = flight.peers, ()
            flight.steps = converse(flight.line, peer, flight.terms, delivery)
            flight.wanted = next(flight.steps)
            if flight.line.established:
                flight.delivery = None
                self._hand_over(flight)
        except StopIteration as stop:
            response: Response = stop.value
            return response
        except Unreachable as error:
            return NotSent(error.reason)
        except Exception as error:  # belongs to this delivery alone
            return _outcome(flight, error)
        return None

    def _hand_over(self, flight: Flight) -> None:
        """Have the thread go on with an established connection; it may do so at once. Raises `ConnectionLost`."""
        with self._lock:
            if self._thread is None or self._closing:
                raise ConnectionLost("the transport was closed")
            self._flights[flight.future] = flight
            try:
                self._watch(flight)
            except Exception:
                del self._flights[flight.future]
                raise

    def _leave_to_thread(self, flight: Flight) -> None:
        with self._lock:
            is_running = self._thread is not None and not self._closing
            if is_running:
                self._inbox.append(flight)
        if is_running:
            self._wake()
            return
        flight.line.hang_up()
        settle(flight.future, NotSent("the transport was closed"))

    def _note_cancel(self, future: Future[Response]) -> None:
        if future.cancelled():
            self._cancelled.append(future)
            self._wake()

    def _wake(self) -> None:
        # If the pipe is full, the thread wakes anyway; if it is closed, there is no thread.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    # --- called in the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        reason = "the transport was closed"
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:  # no caller may wait for ever, whatever happened
            reason = f"the socket thread ended: {type(error).__name__}"
            _LOGGER.exception("the socket thread ended; the next worker request starts a new one")
        finally:
            self._end_thread(reason)

    def _turn(self) -> None:
        timeout = None
        if self._connecting:
            timeout = max(0.0, self._next_sweep - self._clock.monotonic())
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._drain_waker()
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

    def _drain_waker(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(4096)

    def _begin(self, flight: Flight) -> None:
        self._flights[flight.future] = flight
        has_begun = flight.steps is not None  # another thread has begun to connect
        try:
            if has_begun:
                self._await_connection(flight, flight.give_up)
                self._watch(flight)
            else:
                self._prepare(flight)
        except BaseException as error:  # belongs to this delivery alone
            self._end(flight, _outcome(flight, error))
            return
        if not has_begun:
            self._attempt(flight)

    def _prepare(self, flight: Flight) -> Delivery:
        """Find out where to connect, and until when. Returns what to send. Raises `NotSent`."""
        delivery = flight.delivery
        left = 0.0 if delivery is None else (delivery.deadline - self._clock.now()).total_seconds()
        if delivery is None or left <= 0:
            raise NotSent("past its deadline")
        reached = delivery.reached
        flight.peers = (reached,) if isinstance(reached, Peer) else self._resolver.peers(flight.terms.route.address)
        flight.give_up = self._clock.monotonic() + min(left, self._connect_timeout)
        return delivery

    def _attempt(self, flight: Flight) -> None:
        """Try the next address. Each gets its share of the time that is left, so that a silent one leaves time for others."""
        peer, *others = flight.peers
        now = self._clock.monotonic()
        self._await_connection(flight, now + (flight.give_up - now) / (1 + len(others)))
        flight.peers = tuple(others)
        flight.line = Line()
        if flight.delivery is not None:
            flight.steps = converse(flight.line, peer, flight.terms, flight.delivery)
            self._advance(flight)

    def _await_connection(self, flight: Flight, until: float) -> None:
        self._next_sweep = min(self._next_sweep, until) if self._connecting else until
        self._connecting[flight] = until

    def _advance(self, flight: Flight) -> None:
        if flight.steps is None:
            return
        try:
            flight.wanted = next(flight.steps)
            self._watch(flight)
        except StopIteration as stop:
            self._end(flight, stop.value)
        except Unreachable as error:
            self._next_address(flight, error)
        except BaseException as error:  # belongs to this delivery alone
            self._end(flight, _outcome(flight, error))
        else:
            if flight.line.established and flight.delivery is not None:
                flight.delivery = None
                del self._connecting[flight]

    def _watch(self, flight: Flight) -> None:
        watched, flight.events = flight.events, flight.wanted
        if flight.line.sock is None or watched == flight.wanted:
            return
        if watched:
            self._selector.modify(flight.descriptor, flight.wanted, flight)
            return
        flight.descriptor = flight.line.sock.fileno()
        try:
            self._selector.register(flight.descriptor, flight.wanted, flight)
        except Exception:  # such as: this user watches too many sockets
            flight.events = 0
            raise

    def _next_address(self, flight: Flight, error: Unreachable) -> None:
        flight.failures += (error.reason,)
        if flight.peers and self._clock.monotonic() < flight.give_up:
            self._hang_up(flight)
            self._attempt(flight)
        else:
            self._end(flight, NotSent("; ".join(dict.fromkeys(flight.failures))))

    def _sweep(self) -> None:
        """Give up on connections that take too long to establish."""
        now = self._clock.monotonic()
        for flight, until in [*self._connecting.items()]:
            if until <= now:
                missing = "no TLS with" if isinstance(flight.line.sock, ssl.SSLSocket) else "no connection to"
                self._next_address(flight, Unreachable(f"timed out: {missing} {flight.terms.route.address}"))
        self._next_sweep = min(self._connecting.values(), default=now)

    def _hang_up(self, flight: Flight) -> None:
        self._connecting.pop(flight, None)
        if flight.events:
            with contextlib.suppress(KeyError):  # the thread that should have registered it was interrupted
                self._selector.unregister(flight.descriptor)
            flight.events = 0
        flight.steps = None
        flight.line.hang_up()

    def _end(self, flight: Flight, outcome: Response | TransportError) -> None:
        del self._flights[flight.future]
        self._hang_up(flight)
        settle(flight.future, outcome)

    def _end_thread(self, reason: str) -> None:
        with self._lock:
            # From here on, the next submit() may start another thread with its own selector.
            self._thread = None
            orphans = [*self._flights.values(), *self._inbox]
            self._flights, self._connecting = {}, {}
            self._inbox.clear()
            selector, wake_reader, waker = self._selector, self._wake_reader, self._waker
        for flight in orphans:
            flight.line.hang_up()
            settle(flight.future, ConnectionLost(reason))
        selector.close()
        wake_reader.close()
        waker.close()


def _outcome(flight: Flight, error: BaseException) -> TransportError:
    """Return the error as a `TransportError`. The text of a foreign error stays in the cause: it might quote a secret."""
    if isinstance(error, TransportError):
        return error
    message = reason_of(error)
    outcome = ConnectionLost(message) if flight.line.written else NotSent(f"cannot be sent: {message}")
    outcome.__cause__ = error
    return outcome
