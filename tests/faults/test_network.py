"""Failures and proxies between an application and itself: nothing runs twice, and nothing is lost."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeAlias

import pytest
from attrs import frozen

from backjob import Status
from backjob.jobs import engine_of
from backjob.model import Draft, Request
from backjob.signing.tokens import new_job_id
from tests.faults.proxies import GATEWAY_TIMEOUT, Passage, Proxy, read_all
from tests.scenarios.client import WAIT, Gate
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import Site, result_of, serving

Through: TypeAlias = Callable[..., tuple[Site, Proxy]]


@pytest.fixture
def through(tmp_path: Path) -> Iterator[Through]:
    """A factory of sites whose worker requests go through a proxy: ``through(treat, kind="waitress")``."""
    with ExitStack() as stack:

        def make(treat: Callable[[Passage], object], kind: str = "waitress", **more: str) -> tuple[Site, Proxy]:
            proxy = stack.enter_context(Proxy(treat, treat if isinstance(treat, Rewriting) else None))
            settings = proxy.settings | more
            site = stack.enter_context(serving(KINDS[kind], "plain_app:app", tmp_path, **settings))
            assert isinstance(site.client.address, tuple)
            proxy.upstream = site.client.address
            return site, proxy

        yield make


@frozen
class Rewriting:
    """A proxy that changes each request, probes too."""

    change: Callable[[bytes], bytes]

    def __call__(self, passage: Passage) -> None:
        passage.relay(passage.forward(self.change(passage.request)))


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def attempts(site: Site, job_id: str) -> int:
    job = site.jobs.store.get(job_id)
    assert job is not None
    return job.delivery


def close_at_once(passage: Passage) -> None:
    passage.hang_up()


def reset(passage: Passage) -> None:
    passage.reset()


def respond_503(passage: Passage) -> None:
    passage.respond(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


def respond_half(passage: Passage) -> None:
    passage.respond(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all of it")


SLOW: Final = pytest.mark.slow


@pytest.mark.parametrize(
    "mishap", [close_at_once, *(pytest.param(mishap, marks=SLOW) for mishap in (reset, respond_503, respond_half))]
)
def test_a_delivery_lost_before_the_claim_is_repeated_and_runs_once(
    through: Through, mishap: Callable[[Passage], None]
) -> None:
    def treat(passage: Passage) -> None:
        if passage.number < 2:
            mishap(passage)
        else:
            passage.relay(passage.forward())

    site, proxy = through(treat)
    job_id = site.start("/work/see", {"a": 1}, method="POST", body="body", visitor={"Cookie": "user=ann"})
    state = site.end(job_id)
    assert (state.status, site.runs(job_id), len(proxy.requests)) == (Status.COMPLETED, 1, 3)
    assert attempts(site, job_id) == 3
    seen = result_of(state)
    assert (seen["query"], seen["body"], seen["headers"]["cookie"]) == ("a=1", "body", "user=ann")


def test_a_response_lost_after_the_end_changes_nothing(through: Through) -> None:
    def treat(passage: Passage) -> None:
        with passage.forward() as upstream:
            read_all(upstream)
        passage.hang_up()

    site, proxy = through(treat)
    state = site.run("/work/finish")
    assert (state.status, state.status_text) == (Status.COMPLETED, "And done")
    assert site.run("/work/fail").status is Status.FAILED
    assert (site.runs(state.id), len(proxy.requests)) == (1, 2)


@pytest.mark.slow
def test_a_504_while_the_request_waits_for_a_worker_is_harmless(through: Through, gate: Gate) -> None:
    responded = threading.Event()

    def treat(passage: Passage) -> None:
        upstream = passage.forward()
        if b"/work/none" in passage.request and not responded.is_set():
            passage.respond(GATEWAY_TIMEOUT)
            responded.set()
            with upstream:
                read_all(upstream)
        else:
            passage.relay(upstream)

    site, _ = through(treat, "gunicorn-sync", BACKJOB_MAX_RUNNING="2")
    running = site.start("/work/hold", {"gate": gate.port})
    action = gate.reached()
    # The only worker is busy. The site's monitor finds this job and sends it; it waits in the server's backlog.
    queued = engine_of(site.jobs).store.create(Draft(id=new_job_id(), request=Request("GET", "/work/none"))).id
    assert responded.wait(WAIT)
    assert site.jobs.status(queued).status is Status.STARTED
    assert action.release() == "returned"
    for job_id in (running, queued):
        assert (site.end(job_id).status, site.runs(job_id)) == (Status.COMPLETED, 1)


@pytest.mark.parametrize("ending", [GATEWAY_TIMEOUT, pytest.param(b"", marks=SLOW)], ids=["504", "closed"])
def test_a_504_or_a_closed_connection_does_not_end_a_running_job(through: Through, gate: Gate, ending: bytes) -> None:
    claimed, responded = threading.Event(), threading.Event()

    def treat(passage: Passage) -> None:
        upstream = passage.forward()
        claimed.wait(WAIT)
        passage.respond(ending)
        responded.set()
        with upstream:
            read_all(upstream)

    site, proxy = through(treat)
    job_id = site.start("/work/hold", {"gate": gate.port})
    action = gate.reached()
    claimed.set()
    assert responded.wait(WAIT)
    action.proceed()
    assert site.until(job_id, lambda state: state.progress == 50).status is Status.IN_PROGRESS
    assert action.release() == "returned"
    assert (site.end(job_id).status, site.runs(job_id), len(proxy.requests)) == (Status.COMPLETED, 1, 1)


def test_a_request_that_a_proxy_sends_twice_runs_once(through: Through, gate: Gate) -> None:
    claimed, responded = threading.Event(), threading.Event()
    responses = []

    def treat(passage: Passage) -> None:
        with passage.forward() as first:
            claimed.wait(WAIT)
            responses.append(passage.relay(passage.forward()))
            responded.set()
            read_all(first)

    site, _ = through(treat)
    job_id = site.start("/work/hold", {"gate": gate.port})
    action = gate.reached()
    claimed.set()
    assert responded.wait(WAIT)
    assert action.release() == "returned"
    assert (site.end(job_id).status, site.runs(job_id)) == (Status.COMPLETED, 1)
    assert [response.split(b" ")[1] for response in responses] == [b"409"]


@pytest.mark.slow
def test_a_captured_request_sent_a_thousand_times_runs_nothing(through: Through) -> None:
    # The limit would refuse some copies as busy, before they reach the claim.
    site, proxy = through(
        lambda passage: passage.relay(passage.forward()), "gunicorn-threads", BACKJOB_MAX_RUNNING="1000"
    )
    state = site.run("/work/none", {"a": 1})
    (captured,) = proxy.requests
    address = proxy.upstream
    assert address is not None

    def replay(_: int) -> bytes:
        with socket.create_connection(address, WAIT) as connection:
            connection.sendall(captured)
            return read_all(connection).split(b" ")[1]

    with ThreadPoolExecutor(50) as pool:
        assert Counter(pool.map(replay, range(1000))) == {b"409": 1000}
    assert site.runs(state.id) == 1
    assert site.jobs.status(state.id) == state


# --- proxies that change requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pytest.param("waitress", marks=SLOW), "wsgiref"])
def test_a_prefix_that_a_proxy_strips_does_not_break_the_signature(through: Through, kind: str) -> None:
    def strip(request: bytes) -> bytes:
        assert b" /app/" in request
        return request.replace(b" /app/", b" /", 1)

    site, proxy = through(Rewriting(strip), kind, BACKJOB_BASE_URL="https://shop.example/app")
    state = site.run("/work/see/a%2Fb", {"a": 1})
    assert state.status is Status.COMPLETED
    assert proxy.requests[0].startswith(b"GET /app/work/see/a%2Fb?a=1&backjob-")


@pytest.mark.slow
def test_forwarded_headers_of_the_worker_request_are_not_the_visitors(through: Through) -> None:
    def mark(request: bytes) -> bytes:
        return request.replace(b"\r\n", b"\r\nX-Forwarded-For: 198.51.100.1\r\nX-Real-IP: 198.51.100.1\r\n", 1)

    site, _ = through(Rewriting(mark), "wsgiref")
    seen = result_of(site.run("/work/see", visitor={"X-Forwarded-For": "203.0.113.9"}))
    assert seen["headers"]["x-forwarded-for"] == "203.0.113.9"
    assert "x-real-ip" not in seen["headers"]


@pytest.mark.slow
def test_a_proxy_that_decodes_the_path_fails_the_job_with_a_hint(through: Through) -> None:
    site, _ = through(Rewriting(lambda request: request.replace(b"a%2Fb", b"a/b", 1)))
    state = site.run("/work/see/a%2Fb")
    assert (state.status, site.runs(state.id)) == (Status.FAILED, 0)
    assert "403 Forbidden" in state.status_text
    assert "does a proxy decode %2F?" in state.status_text


@pytest.mark.slow
def test_the_signature_survives_a_proxy_that_drops_header_fields(through: Through) -> None:
    def drop(request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        kept = [
            line for line in head.split(b"\r\n") if not line.lower().startswith((b"x-", b"signature", b"user-agent"))
        ]
        return b"\r\n".join(kept) + b"\r\n\r\n" + body

    site, _ = through(Rewriting(drop))
    assert site.run("/work/see", method="POST", json={"a": 1}).status is Status.COMPLETED


@pytest.mark.slow
def test_a_proxy_that_extends_the_query_keeps_jobs_waiting_and_a_warning_has_the_reason(through: Through) -> None:
    site, _ = through(Rewriting(lambda request: request.replace(b" HTTP/1.1", b"&utm=1 HTTP/1.1", 1)))
    job_id = site.start("/work/none")
    site.server.wait_for_log("the signature is not at the end of the query", WAIT)
    assert (site.jobs.status(job_id).status, site.runs(job_id)) == (Status.STARTED, 0)
