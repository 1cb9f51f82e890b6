"""The destinations of worker requests: the configured transport, or the addresses that the server's socket has shown."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from attrs import frozen

from backjob.errors import AddressUnknown
from backjob.http.listening import Listener
from backjob.process import PerProcess
from backjob.protocols import Transport

_MAX_KNOWN: Final = 8
"""A server that is bound to all addresses may show many."""

_log = logging.getLogger("backjob")


@frozen(eq=False)
class Destination:
    """A transport, and the ``port`` that the answering socket must have; None if the address is configured."""

    transport: Transport
    name: str
    port: int | None = None

    @property
    def needs_proof(self) -> bool:
        """Whether it must prove itself. A transport that is ``in_process`` calls the application directly, so it need not."""
        return not getattr(self.transport, "in_process", False)


class Addresses:
    """The destinations of one application. Thread-safe, and safe across fork.

    ``given`` is a transport, or a function that makes one for a base URL, which is then learnt from the server's socket.
    If the function has an attribute ``learnt``, that is called instead, with the URL and an earlier transport or None.
    """

    def __init__(self, given: Transport | Callable[[str], Transport]) -> None:
        self._make = given if callable(given) else None
        self._known: dict[Listener, tuple[Destination, ...]] = {}
        self._latest: Listener | None = None
        self._lock = PerProcess(threading.Lock)
        self._destinations: tuple[Destination, ...] = () if callable(given) else (_configured(given),)
        self.arrivals = 0
        """The number of new addresses so far."""
        self.problem: AddressUnknown | None = None
        """Why the last request showed no address."""
        self.on_unix = False
        """Whether the last request arrived at a unix socket."""

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """The destinations, the most recently shown ones first. Empty while the address is unknown."""
        return self._destinations

    @property
    def transport(self) -> Transport | None:
        """The transport to the first destination, or None while the address is unknown."""
        return self._destinations[0].transport if self._destinations else None

    def show(self, listener_of: Callable[[], Listener]) -> bool:
        """Learn the address that a request shows, unless one is configured. Returns whether it is new.

        ``listener_of()`` may raise `AddressUnknown`.
        """
        if self._make is None:
            return False
        try:
            listener = listener_of()
            if listener == self._latest:
                return False
            with self._lock.get():
                return self._learn(listener)
        except AddressUnknown as error:
            self.problem = error
            return False

    def close(self) -> None:
        """Close all transports."""
        for destination in self._destinations:
            destination.transport.close()

    def _learn(self, listener: Listener) -> bool:
        self._latest, self.on_unix = listener, listener.is_unix
        urls = listener.base_urls
        known = dict(self._known)
        made = known.pop(listener, None)
        is_new = made is None
        if made is None:
            made = tuple(destination for url in urls if (destination := self._made(url, listener.port)) is not None)
            self.arrivals += 1
            _log.info("worker requests can go to %s, an address of the server's socket", " or ".join(urls))
        known = {listener: made, **known}
        for forgotten in [*known][_MAX_KNOWN:]:
            self._forget(known.pop(forgotten))
        self._known = known
        self._destinations = tuple(one for destinations in known.values() for one in destinations)
        return is_new

    def _forget(self, destinations: tuple[Destination, ...]) -> None:
        if getattr(self._make, "learnt", None) is None:  # the others share what they would close
            for destination in destinations:
                destination.transport.close()

    def _made(self, url: str, port: int | None) -> Destination | None:
        if self._make is None:
            return None
        learnt = getattr(self._make, "learnt", None)
        try:
            transport: Transport = self._make(url) if learnt is None else learnt(url, self.transport)
        except Exception as error:  # a mistake about jobs must not take pages down
            _log.exception("no transport could be made for %s", url)
            self.problem = AddressUnknown(f"no transport could be made for {url} ({type(error).__name__})")
            return None
        return Destination(transport, url, port)


def _configured(transport: Transport) -> Destination:
    return Destination(transport, str(getattr(transport, "base_url", type(transport).__name__)))
