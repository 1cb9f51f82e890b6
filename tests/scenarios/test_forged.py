"""Worker requests that must not run: replayed, forged, expired, or signed by another application."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backjob import Status
from backjob.jobs import engine_of
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Draft, Grant, Job, Request
from backjob.signing import MessageSigner
from backjob.signing.tokens import new_job_id
from tests.scenarios.client import Page
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import Site, serving


@pytest.fixture(params=["waitress", pytest.param("gunicorn-threads", marks=pytest.mark.slow)])
def busy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site on a server with several threads."""
    # The limit would refuse some copies as busy, before they reach the claim.
    with serving(KINDS[request.param], "plain_app:app", tmp_path, BACKJOB_MAX_RUNNING="1000") as site:
        yield site


def waiting_job(site: Site, request: Request) -> Job:
    """A job that no monitor delivers during the test: it is due in an hour."""
    return engine_of(site.jobs).store.create(Draft(id=new_job_id(), request=request, due=3600.0))


def grant(job: Job, *, created: int | None = None, lifetime: int = 60) -> Grant:
    start = int(time.time()) if created is None else created
    return Grant(job.id, 1, 1, start, start + lifetime)


def send(site: Site, request: Request) -> Page:
    return site.client.request(request.method, request.target, headers=dict(request.headers), body=request.body or None)


@pytest.mark.slow
def test_one_of_a_thousand_copies_of_a_worker_request_runs(busy: Site) -> None:
    request = Request("GET", "/work/none?a=1")
    job = waiting_job(busy, request)
    signed = busy.jobs.signer.sign(request, grant(job))
    with ThreadPoolExecutor(50) as pool:
        pages = list(pool.map(lambda _: send(busy, signed), range(1000)))
    assert Counter(page.status for page in pages) == {200: 1, 409: 999}
    assert {page.headers[REFUSAL_HEADER] for page in pages if page.status == 409} == {"claimed"}
    assert all(page.headers["cache-control"] == "no-store" for page in pages)
    assert busy.runs(job.id) == 1
    assert busy.end(job.id).status is Status.COMPLETED


def test_a_worker_request_with_one_changed_bit_is_refused(busy: Site) -> None:
    request = Request("POST", "/work/none?a=1", (("Content-Type", "text/plain"),), b"body")
    job = waiting_job(busy, request)
    signed = busy.jobs.signer.sign(request, grant(job))
    changed = [request for request in one_bit_off(signed) if request != signed]
    assert len(changed) > 100
    with ThreadPoolExecutor(16) as pool:
        pages = list(pool.map(lambda request: send(busy, request), changed))
    assert {page.status for page in pages} == {403}, [
        (request.method, request.target) for request, page in zip(changed, pages, strict=True) if page.status != 403
    ]
    assert {page.headers["cache-control"] for page in pages} == {"no-store"}
    stored = busy.jobs.store.get(job.id)
    assert stored is not None
    assert (stored.status, stored.version, stored.updated_time) == (Status.STARTED, job.version, job.updated_time)
    assert not (busy.directory / "runs").exists()
    assert send(busy, signed).status == 200


def one_bit_off(signed: Request) -> Iterator[Request]:
    """Copies of the request with one bit changed in the method, at every third position of the target, or in the body.

    Only copies that servers pass on: the method is still a token, and the target still one path with one query.
    """
    for position, letter in enumerate(signed.method):
        other = chr(ord(letter) ^ 1)
        yield Request(
            signed.method[:position] + other + signed.method[position + 1 :], signed.target, signed.headers, signed.body
        )
    for position in range(1, len(signed.target), 3):
        for bit in (0, 1, 3):
            letter = signed.target[position]
            other = chr(ord(letter) ^ 1 << bit)
            if letter != "?" and other.isprintable() and other not in ' #?%"<>\\^`{|}':
                target = signed.target[:position] + other + signed.target[position + 1 :]
                yield Request(signed.method, target, signed.headers, signed.body)
    for position in range(len(signed.body)):
        body = bytes(byte ^ (at == position) for at, byte in enumerate(signed.body))
        yield Request(signed.method, signed.target, signed.headers, body)


def test_a_signature_is_refused_before_its_creation_time_and_after_its_expiry(busy: Site) -> None:
    request = Request("GET", "/work/none")
    job = waiting_job(busy, request)
    now = int(time.time())
    for created in (now - 61, now + 3600):
        page = send(busy, busy.jobs.signer.sign(request, grant(job, created=created)))
        assert (page.status, page.headers[REFUSAL_HEADER]) == (403, "clock")
    state = busy.jobs.status(job.id)
    assert (state.status, busy.runs(job.id)) == (Status.STARTED, 0)


def test_another_applications_signature_is_refused(busy: Site) -> None:
    request = Request("GET", "/work/none")
    job = waiting_job(busy, request)
    page = send(busy, MessageSigner("the key of a different application").sign(request, grant(job)))
    assert (page.status, page.headers[REFUSAL_HEADER]) == (403, "unknown-key")
    assert busy.jobs.status(job.id).status is Status.STARTED
