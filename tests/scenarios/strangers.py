"""Another site on the same machine, which counts what it gets of our user Alice."""

from __future__ import annotations

import re
import socket
from collections import Counter
from datetime import UTC, datetime
from typing import Final

from backjob.errors import SignatureError
from backjob.model import Request
from backjob.signing import MessageSigner
from tests.faults.proxies import Passage, Proxy
from tests.scenarios.sites import KEY

__all__ = ["ALICE", "Stranger", "forged", "free_port"]

ALICE: Final = {"Cookie": "user=alice; session=0ddC00kie", "Authorization": "Bearer 0ddT0ken"}
"""The headers of a signed-in user."""

_REPLY: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nwelcome"


class Stranger(Proxy):
    """Records every request, and responds with a page, or relays it to another port of this host."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, relay_to: int | None = None) -> None:
        super().__init__(_welcome if relay_to is None else None, host=host, port=port)
        self.upstream = ("127.0.0.1", relay_to or self.port)

    @property
    def stolen(self) -> dict[str, int]:
        """How many cookies, bearer tokens and signatures of jobs arrived, as far as any did."""
        found = Counter[str]()
        for request in self.requests:
            found["cookies"] += b"0ddC00kie" in request
            found["tokens"] += b"0ddT0ken" in request
            found["signatures"] += _is_signed_for_a_job(request)
        return dict(+found)


def forged(port: int, scheme: str = "http") -> dict[str, str]:
    """Headers that claim in every way that the site is reached at this port."""
    return {
        "Host": f"site.example:{port}",
        "X-Forwarded-For": "192.0.2.7",
        "X-Forwarded-Host": f"site.example:{port}",
        "X-Forwarded-Port": str(port),
        "X-Forwarded-Proto": scheme,
        "Forwarded": f'for=192.0.2.7;host="site.example:{port}";proto={scheme}',
    }


def free_port(host: str = "127.0.0.1") -> int:
    """A port at which nothing listens."""
    with socket.create_server((host, 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _welcome(passage: Passage) -> None:
    passage.respond(_REPLY)


def _is_signed_for_a_job(request: bytes) -> bool:
    """Whether the request has a signature that could run a job. A probe is signed for attempt 0, which no job has."""
    head, _, body = request.decode("latin-1").partition("\r\n\r\n")
    line, *fields = head.split("\r\n")
    method, target, _ = line.split(" ")
    headers = tuple((name, value) for name, _, value in (field.partition(": ") for field in fields))
    if re.search("backjob-signature|signature-input", head, re.IGNORECASE) is None:
        return False
    try:
        verified = MessageSigner(KEY).verify(
            Request(method, target, headers, body.encode("latin-1")), datetime.now(UTC)
        )
    except SignatureError:
        return True
    return verified.grant.attempt != 0
