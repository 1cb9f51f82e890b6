"""The contract of a transport without sockets, as a pytest suite with an application in this process.

class TestMyTransport(DeliveryContract):
    def make_transport_to(self, application: Application) -> Transport:
        return MyTransport(application.wsgi)
"""

from __future__ import annotations

from backjob.testing._application import Application
from backjob.testing._peer import Received
from backjob.testing._transports.answering import GivesOutcomes
from backjob.testing._transports.processes import ForksAndExits
from backjob.testing._transports.sending import SendsRequests

__all__ = ["Application", "DeliveryContract", "ForksAndExits", "GivesOutcomes", "Received", "SendsRequests"]


class DeliveryContract(SendsRequests, GivesOutcomes, ForksAndExits):
    """The promises that need no sockets. Subclass it, name the class ``Test…``, and implement `make_transport_to`.

    `TransportContract` includes it. Each of its parts is also a suite of its own.
    """
