"""Resolves addresses to socket addresses, with a short cache."""

from __future__ import annotations

# Name resolution and TLS import this codec. If a process forked while a thread did so, the child would keep the import
# lock for ever: import it now.
import encodings.idna  # noqa: F401
import socket
from typing import Final, TypeAlias

from attrs import frozen

from backjob.errors import NotSent
from backjob.http.addresses import Address, TCPAddress, UnixAddress, is_ip_literal
from backjob.protocols import Clock

_CACHED: Final = 30.0
_FAILURE_CACHED: Final = 1.0
"""Seconds. A broken resolver may block for long, so it is not called for each job."""


@frozen
class Peer:
    """One socket address to connect to, and its name in error messages."""

    family: int
    address: tuple[str | int | bytes, ...] | str
    name: str


_Answer: TypeAlias = tuple[Peer, ...] | str


class Resolver:
    """Calls ``getaddrinfo`` and caches the answers for 30 s. For one thread, which a cache miss blocks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[Address, tuple[float, _Answer]] = {}

    def peers(self, address: Address) -> tuple[Peer, ...]:
        """Return the socket addresses to try, in order. Raises `NotSent` if the name can't be resolved."""
        now = self._clock.monotonic()
        until, answer = self._answers.get(address, (now, ""))
        if until <= now:
            answer = _resolve(address)
            self._answers[address] = now + (_FAILURE_CACHED if isinstance(answer, str) else _CACHED), answer
        if isinstance(answer, str):
            raise NotSent(answer)
        return answer


def _resolve(address: Address) -> _Answer:
    if isinstance(address, UnixAddress):
        return (Peer(socket.AF_UNIX, address.path, str(address)),)
    return _resolve_all(address.candidates)


def _resolve_all(candidates: tuple[TCPAddress, ...]) -> _Answer:
    peers: dict[Peer, None] = {}
    for candidate in candidates:
        flags = socket.AI_NUMERICHOST if is_ip_literal(candidate.host) else 0
        try:
            found = socket.getaddrinfo(candidate.host, candidate.port, type=socket.SOCK_STREAM, flags=flags)
        except (OSError, UnicodeError) as error:
            what = error.strerror if isinstance(error, OSError) else None
            return f"cannot resolve {candidate.host}: {what or error}"
        for family, _, _, _, where in found:
            name = str(TCPAddress(str(where[0]), candidate.port))
            peers[Peer(family, tuple(where), name)] = None
    return tuple(peers)
