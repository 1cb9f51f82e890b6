from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest
from attrs import field, mutable

from backjob.errors import NotSent
from backjob.http.addresses import TCPAddress, UnixAddress
from backjob.testing.clock import FakeClock
from backjob.transports.sockets.resolver import Peer, Resolver

APP = TCPAddress("app.example", 8000)


@mutable
class Lookups:
    """A resolver that records the names it gets, and can be made to fail."""

    asked: list[str] = field(factory=list)
    fails: bool = False

    def __call__(
        self, host: str, port: int, **_: int
    ) -> list[tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]]:
        self.asked.append(host)
        if self.fails:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [
            (socket.AF_INET6, 1, 6, "", ("2001:db8::1", port, 0, 0)),
            (socket.AF_INET, 1, 6, "", ("192.0.2.1", port)),
            (socket.AF_INET, 1, 6, "", ("192.0.2.1", port)),
        ]


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Lookups:
    lookups = Lookups()
    monkeypatch.setattr(socket, "getaddrinfo", lookups)
    return lookups


def test_each_address_of_a_name_is_returned_once_in_the_resolvers_order(lookups: Lookups) -> None:
    assert Resolver(FakeClock()).peers(APP) == (
        Peer(socket.AF_INET6, ("2001:db8::1", 8000, 0, 0), "[2001:db8::1]:8000"),
        Peer(socket.AF_INET, ("192.0.2.1", 8000), "192.0.2.1:8000"),
    )


def test_an_answer_is_cached_for_thirty_seconds(lookups: Lookups) -> None:
    clock = FakeClock()
    resolver = Resolver(clock)
    first = resolver.peers(APP)
    clock.advance(29.9)
    assert resolver.peers(APP) == first
    assert lookups.asked == ["app.example"]
    clock.advance(0.1)
    resolver.peers(APP)
    assert lookups.asked == ["app.example", "app.example"]


def test_a_failure_is_cached_for_one_second(lookups: Lookups) -> None:
    clock = FakeClock()
    resolver = Resolver(clock)
    lookups.fails = True
    for _ in range(2):
        with pytest.raises(NotSent, match=r"^cannot resolve app\.example: Temporary failure in name resolution$"):
            resolver.peers(APP)
    assert len(lookups.asked) == 1
    lookups.fails = False
    clock.advance(1)
    assert len(resolver.peers(APP)) == 2


@pytest.mark.parametrize(
    ("address", "names"),
    [
        (TCPAddress("127.0.0.1", 1), ["127.0.0.1:1"]),
        (TCPAddress("::1", 1), ["[::1]:1"]),
        (TCPAddress("0.0.0.0", 1), ["127.0.0.1:1", "[::1]:1"]),
        (UnixAddress("/run/app.sock"), ["unix:/run/app.sock"]),
    ],
)
def test_ip_addresses_are_not_resolved(
    monkeypatch: pytest.MonkeyPatch, address: TCPAddress | UnixAddress, names: list[str]
) -> None:
    real = socket.getaddrinfo

    def numeric_only(host: str, port: int, *, flags: int, **others: int) -> Sequence[object]:
        assert flags & socket.AI_NUMERICHOST
        return real(host, port, flags=flags, **others)

    monkeypatch.setattr(socket, "getaddrinfo", numeric_only)
    assert [peer.name for peer in Resolver(FakeClock()).peers(address)] == names
