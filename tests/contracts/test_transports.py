"""backjob's own transport keeps the published contract."""

from __future__ import annotations

from backjob.protocols import Transport
from backjob.testing.transports import TransportContract
from backjob.transports.sockets import SocketTransport


class TestSocketTransport(TransportContract):
    def make_transport(self, base_url: str) -> Transport:
        return SocketTransport(base_url)
