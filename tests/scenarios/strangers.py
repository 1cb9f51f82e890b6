"""Another site on the same machine, which counts what it gets of our user Alice."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from typing import Final

from backjob import Status
from backjob.errors import SignatureError
from backjob.model import Request
from backjob.signing import MessageSigner
from tests.faults.proxies import Passage, Proxy
from tests.scenarios.client import wait_until
from tests.scenarios.sites import KEY, Site, result_of

__all__ = ["ALICE", "Stranger", "check_that_a_job_waits", "check_that_alice_is_served", "forged"]

ALICE: Final = {"Cookie": "user=alice; session=0ddC00kie", "Authorization": "Bearer 0ddT0ken"}
"""The headers of a signed-in user."""

_REPLY: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nwelcome"


class Stranger(Proxy):
    """Records every request, and responds with a page, or relays it to another port of this host."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, relay_to: int | None = None) -> None:
        self.probes: list[bytes] = []
        self._relays = relay_to is not None
        super().__init__(self._answer, self._answer_probe, host=host, port=port)
        self.upstream = ("127.0.0.1", relay_to or self.port)

    @property
    def received(self) -> list[bytes]:
        """All requests, those that look like probes included."""
        return [*self.requests, *self.probes]

    @property
    def stolen(self) -> dict[str, int]:
        """How many cookies, bearer tokens, bodies and signatures of jobs arrived, as far as any did."""
        found = Counter[str]()
        for request in self.received:
            found["cookies"] += b"0ddC00kie" in request
            found["tokens"] += b"0ddT0ken" in request
            found["bodies"] += not request.endswith(b"\r\n\r\n")
            found["signatures"] += _is_signed_for_a_job(request)
        return dict(+found)

    def _answer_probe(self, passage: Passage) -> None:
        self.probes.append(passage.request)
        self._answer(passage)

    def _answer(self, passage: Passage) -> None:
        if self._relays:
            passage.relay(passage.forward())
        else:
            passage.respond(_REPLY)


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


def check_that_alice_is_served(site: Site, *strangers: Stranger) -> None:
    """Let Alice start a job, which must run on the site as hers, and nothing of it may reach the strangers."""
    job_id = site.start("/work/see", visitor=ALICE)
    state = site.until(job_id, lambda state: state.status.is_final or any(stranger.stolen for stranger in strangers))
    stolen = [stranger.stolen for stranger in strangers]
    assert stolen == [{} for _ in strangers], stolen
    assert state.status is Status.COMPLETED, state
    seen = result_of(state)
    assert {name: seen["headers"][name.lower()] for name in ALICE} == ALICE, seen
    assert site.runs(job_id) == 1


def check_that_a_job_waits(site: Site, stranger: Stranger) -> None:
    """Let Alice start a job on a site that is configured with the stranger's address: the stranger gets probes alone."""
    job_id = site.start("/work/see", visitor=ALICE)
    wait_until(lambda: bool(stranger.stolen) or len(stranger.probes) > 1)
    assert stranger.stolen == {}, stranger.stolen
    assert site.jobs.status(job_id).status is Status.STARTED
    assert site.runs(job_id) == 0


def _is_signed_for_a_job(request: bytes) -> bool:
    """Whether the request has a signature that could run a job. A probe is signed for delivery 0, which no job has."""
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
    return verified.grant.delivery != 0
