"""Addresses to socket addresses, with a short memory for names."""

from __future__ import annotations

# Looking a name up, and naming a TLS server, import this codec. A process that forks while a thread does so leaves its
# child with the import's lock held, for ever.
import encodings.idna  # noqa: F401
import socket
from typing import Final, TypeAlias

from attrs import frozen

from backjob.errors import NotSent
from backjob.http.addresses import Address, TCPAddress, UnixAddress, is_ip_literal
from backjob.protocols import Clock

__all__ = ["Peer", "Resolver"]

_REMEMBERED: Final = 30.0
_FAILURE_REMEMBERED: Final = 1.0
"""Seconds. A resolver that is out of order may block for long; it is not asked once per job."""


@frozen
class Peer:
    """One socket address to connect to, and how to call it in an error."""

    family: int
    address: tuple[str | int | bytes, ...] | str
    name: str


_Answer: TypeAlias = tuple[Peer, ...] | str


class Resolver:
    """Asks ``getaddrinfo`` for names and remembers the answer for 30 s. For one thread; a miss blocks that thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[Address, tuple[float, _Answer]] = {}

    def peers(self, address: Address) -> tuple[Peer, ...]:
        """What to try, in order. Raises `NotSent` if the name can't be resolved."""
        now = self._clock.monotonic()
        until, answer = self._answers.get(address, (now, ""))
        if until <= now:
            answer = _look_up(address)
            self._answers[address] = now + (_FAILURE_REMEMBERED if isinstance(answer, str) else _REMEMBERED), answer
        if isinstance(answer, str):
            raise NotSent(answer)
        return answer


def _look_up(address: Address) -> _Answer:
    if isinstance(address, UnixAddress):
        return (Peer(socket.AF_UNIX, address.path, str(address)),)
    return _look_up_all(address.candidates)


def _look_up_all(candidates: tuple[TCPAddress, ...]) -> _Answer:
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
