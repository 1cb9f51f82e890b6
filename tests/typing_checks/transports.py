"""Checked by mypy and pyright, never run."""

from __future__ import annotations

from concurrent.futures import Future

from backjob.model import Response
from backjob.protocols import Delivery, Transport
from backjob.testing.transports import OneDelivery
from backjob.transports.inprocess import InProcessTransport
from backjob.transports.sockets import SocketTransport

transport: Transport = SocketTransport("http://127.0.0.1:8000")
within: Transport = InProcessTransport(lambda *_: [])


def one_delivery_is_a_delivery(candidate: OneDelivery) -> Delivery:
    return candidate


def send_returns_a_future_response(candidate: SocketTransport, something: Delivery) -> Future[Response]:
    return candidate.send(something)
