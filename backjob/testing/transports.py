"""The contract of a transport, as a pytest suite with a real server on loopback.

class TestMyTransport(TransportContract):
    def make_transport(self, base_url: str) -> Transport:
        return MyTransport(base_url)

A transport for which not everything applies subclasses parts of it::

class TestMyTransport(SendsRequests, SendsOverHTTP, GivesOutcomes):
    ...
"""

from __future__ import annotations

from backjob.testing._peer import PATIENCE, Call, OneDelivery, Peer, answer
from backjob.testing._transports.connections import KeepsConnections
from backjob.testing._transports.sending import SendsOverHTTP
from backjob.testing.deliveries import DeliveryContract

__all__ = [
    "PATIENCE",
    "Call",
    "KeepsConnections",
    "OneDelivery",
    "Peer",
    "SendsOverHTTP",
    "TransportContract",
    "answer",
]


class TransportContract(SendsOverHTTP, KeepsConnections, DeliveryContract):
    """Every promise of the `Transport` protocol. Subclass it, name the class ``Test…``, and implement `make_transport`.

    It is the sum of `DeliveryContract` (what needs no sockets: `SendsRequests`, `GivesOutcomes` and `ForksAndExits`),
    `SendsOverHTTP` and `KeepsConnections`. To find a read timeout of more than half a second, raise ``silence`` (s).
    """
