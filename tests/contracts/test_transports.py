"""backjob's own transports keep the published contract."""

from __future__ import annotations

from backjob.protocols import Transport
from backjob.testing.deliveries import Application, DeliveryContract
from backjob.testing.transports import TransportContract
from backjob.transports.inprocess import InProcessTransport
from backjob.transports.sockets import SocketTransport


class TestSocketTransport(TransportContract):
    def make_transport(self, base_url: str) -> Transport:
        return SocketTransport(base_url)


class TestInProcessWSGI(DeliveryContract):
    silence = 0.05  # it has no socket that could time out

    def make_transport_to(self, application: Application) -> Transport:
        return InProcessTransport(application.wsgi, close_timeout=0.05)


class TestInProcessASGI(DeliveryContract):
    silence = 0.05

    def make_transport_to(self, application: Application) -> Transport:
        return InProcessTransport(application.asgi, close_timeout=0.05)
