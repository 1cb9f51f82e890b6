"""The calls of an application that one process has in flight."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Final, Protocol

from backjob.errors import ConnectionLost, NotSent, TransportError
from backjob.model import Request, Response
from backjob.protocols import Delivery
from backjob.transports.settling import reason_of, settle

CLOSED: Final = "the transport is closed"


class Calls(Protocol):
    """The calls of one process, for `InProcessTransport`."""

    def start(self) -> None:
        """Have the application start up now, if it has not. Raises `NotSent` with the reason if it fails."""
        ...

    def send(self, delivery: Delivery, future: Future[Response]) -> None:
        """Call the application, and settle the future. Returns at once."""
        ...

    def close(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for the calls in flight; those that still run then count as lost."""
        ...


class InFlight:
    """The futures of calls that have not ended. Thread-safe."""

    def __init__(self) -> None:
        self._futures: set[Future[Response]] = set()
        self._lock = threading.Lock()

    def add(self, future: Future[Response]) -> None:
        with self._lock:
            self._futures.add(future)
        future.add_done_callback(self._discard)

    def _discard(self, future: Future[Response]) -> None:
        with self._lock:
            self._futures.discard(future)

    def all(self) -> list[Future[Response]]:
        with self._lock:
            return list(self._futures)


def lose(futures: Iterable[Future[Response]], reason: str) -> None:
    """End these calls with `ConnectionLost`; the application may still run."""
    for future in futures:
        settle(future, ConnectionLost(reason))


def signed(delivery: Delivery) -> Request:
    """Return the signed request. Raises `NotSent`."""
    try:
        return delivery.sign()
    except TransportError:
        raise
    except Exception as error:
        raise NotSent(f"cannot be sent: {reason_of(error)}") from error
