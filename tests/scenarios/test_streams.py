"""Event streams on real servers: their events, where they resume, their limit, and how they end."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from uvicorn import Config
from uvicorn import Server as Uvicorn

from backjob import BackJob
from backjob.asgi import BackJobMiddleware
from backjob.jobs import engine_of
from backjob.lifecycle import claimed
from backjob.model import Draft, Report, Request
from backjob.signing import MessageSigner
from backjob.signing.tokens import new_job_id
from backjob.stores.memory import MemoryStore
from backjob.transports.sockets import SocketTransport
from tests.event_source import EventSource
from tests.scenarios.client import WAIT, Gate, wait_until
from tests.scenarios.servers import KINDS, Kind, gunicorn, uvicorn
from tests.scenarios.sites import KEY, STREAMS, Site, serving

_ANN: Final = {"Cookie": "user=ann"}
_TEXT: Final = "line 0 – ä\nline 1 – ä\n"


def chunks(response: HTTPResponse) -> Iterator[bytes]:
    """The chunks of the stream as they arrive, until it ends."""
    while chunk := response.read1(1 << 16):
        yield chunk


def until(response: HTTPResponse, source: EventSource, name: str) -> None:
    """Read until the next event of this name has arrived."""
    before = source.names.count(name)
    for chunk in chunks(response):
        source.feed(chunk)
        if source.names.count(name) > before:
            return
    pytest.fail(f"the stream ended: {source.events}")


def require_concurrency(site: Site) -> None:
    """Skip the test on servers that can't serve several requests at once."""
    if site.kind.workers < 4:
        pytest.skip(f"{site.kind} can't serve several requests at once")


# --- events ---------------------------------------------------------------------------------------------------------


@pytest.mark.every_server
def test_the_events_of_an_ended_job_are_its_output_and_its_end(site: Site) -> None:
    started = site.started("/work/print", {"lines": 2})
    site.end(started["id"])
    page = site.page(f"{started['url']}/events")
    assert (page.status, page.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (page.headers["cache-control"], page.headers["x-accel-buffering"]) == ("no-store, no-transform", "no")
    source = EventSource().read([page.body])
    assert (source.names, source.text, source.last_id, source.retry) == (["output", "end"], _TEXT, "28", 2000)
    assert source.states == [site.page(started["url"]).json()]
    again = EventSource().read([site.page(f"{started['url']}/events?offset=0", headers={"Last-Event-ID": "14"}).body])
    assert (again.names, again.text) == (["output", "end"], "line 1 – ä\n")
    assert EventSource().read([site.page(f"{started['url']}/events?offset=14&output=0").body]).names == ["end"]


def test_streams_have_the_access_rules_of_the_other_status_routes(site: Site) -> None:
    job_id = site.run("/work/none", visitor=_ANN).id
    unknown = site.page("/backjob/unknown")
    for visitor in ({}, {"Cookie": "user=bob"}):
        refused = site.page(f"/backjob/{job_id}/events", headers=visitor)
        assert (refused.status, refused.body) == (404, unknown.body)
    assert site.page(f"/backjob/{job_id}/events?offset=x", headers=_ANN).status == 400
    head = site.client.request("HEAD", f"/backjob/{job_id}/events", headers=_ANN)
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert EventSource().read([site.page(f"/backjob/{job_id}/events", headers=_ANN).body]).names == ["end"]


@pytest.mark.every_server
def test_a_stream_follows_a_running_job_to_its_end(site: Site, gate: Gate) -> None:
    require_concurrency(site)
    started = site.started("/work/hold", {"gate": gate.port})
    held = gate.reached()
    source = EventSource()
    with site.client.streamed(f"{started['url']}/events") as response:
        until(response, source, "state")
        assert source.states[-1]["status_name"] == "IN_PROGRESS"
        held.proceed()
        while source.states[-1]["status_text"] != "released":
            until(response, source, "state")
        held.release()
        source.read(chunks(response))
    site.end(started["id"])
    assert source.states[-1] == site.page(started["url"]).json()
    assert source.names[-1] == "end"


@pytest.mark.every_server
def test_streams_past_the_limit_are_refused_until_one_disconnects(site: Site) -> None:
    require_concurrency(site)
    started = site.started("/work/none", delay=1000)
    address = f"{started['url']}/events"
    with ExitStack() as open_streams:
        for _ in range(STREAMS):
            response = open_streams.enter_context(site.client.streamed(address))
            until(response, EventSource(), "state")
        refused = site.page(address)
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
    if site.kind.gateway == "wsgi":
        site.jobs.cancel(started["id"])  # a WSGI server notices a disconnect only when it writes

    def is_accepted() -> bool:
        with site.client.streamed(address) as response:
            return response.status != 503

    wait_until(is_accepted)


# --- a client that does not read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_client_that_does_not_read_is_disconnected(
    http: Literal["h11", "httptools"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backjob.asgi._LONGEST_SEND", 0.1)
    transport = SocketTransport("http://127.0.0.1:9")
    with BackJob(MemoryStore(), transport, MessageSigner(KEY)) as jobs, served(jobs, http) as address:
        job = engine_of(jobs).store.create(Draft(id=new_job_id(), request=Request("GET", "/work")))
        assert jobs.store.change(job.id, *claimed("token", 1, 60)) is not None
        size = 8 << 20  # more than the socket buffers hold
        assert jobs.store.report(job.id, "token", Report(output="x" * size))
        with socket.create_connection(address, WAIT) as client:
            client.sendall(f"GET {jobs.status_url(job.id)}/events HTTP/1.1\r\nHost: site\r\n\r\n".encode())
            received = client.recv(64)
            wait_until(lambda: engine_of(jobs).broadcast.count == 0)
            received += b"".join(iter(lambda: client.recv(1 << 16), b""))
        assert received.startswith(b"HTTP/1.1 200 ")
        assert len(received) < size
        assert not received.endswith(b"0\r\n\r\n")  # no final chunk, so the client knows that it must reconnect


@contextmanager
def served(jobs: BackJob, http: Literal["h11", "httptools"]) -> Iterator[Any]:
    """Run uvicorn in a thread during the block, with the status routes only; yields its address."""

    async def nothing_else(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    app = BackJobMiddleware(nothing_else, jobs)
    server = Uvicorn(Config(app, http=http, lifespan="off", log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join(WAIT)
        assert not thread.is_alive()


# --- off by default -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "app", ["plain_app", *(pytest.param(app, marks=pytest.mark.slow) for app in ("flask_app", "django_app"))]
)
def test_streams_are_off_by_default_on_servers_with_threads(app: str, tmp_path: Path) -> None:
    with serving(KINDS["gunicorn-threads"], f"{app}:app", tmp_path) as site:
        started = site.started("/work/none")
        site.end(started["id"])
        refused, unknown = site.page(f"{started['url']}/events"), site.page(f"{started['url']}/nothing")
        assert (refused.status, refused.body) == (404, unknown.body)


# --- shutdown -------------------------------------------------------------------------------------------------------


_UVICORN: Final = ("--timeout-graceful-shutdown", "60")
_GUNICORN: Final = ("--workers=1", "--graceful-timeout=60")


@pytest.mark.parametrize(
    ("app", "command", "gateway"),
    [
        ("asgi_app", uvicorn(*_UVICORN), "asgi"),
        pytest.param("django_asgi_app", uvicorn(*_UVICORN), "asgi", marks=pytest.mark.slow),
        pytest.param("flask_app", gunicorn(*_GUNICORN), "wsgi", marks=pytest.mark.slow),
        pytest.param("django_app", gunicorn(*_GUNICORN, "--threads=4"), "wsgi", marks=pytest.mark.slow),
    ],
    ids=["uvicorn", "uvicorn-django", "gunicorn-sync-flask", "gunicorn-threads-django"],
)
def test_a_server_that_shuts_down_does_not_wait_for_streams(
    app: str, command: Any, gateway: Literal["wsgi", "asgi"], tmp_path: Path
) -> None:
    kind = Kind(name="graceful", command=command, gateway=gateway)
    with serving(kind, f"{app}:app", tmp_path, BACKJOB_STREAMS="1") as site:
        started = site.started("/work/none", delay=1000)
        with site.client.streamed(f"{started['url']}/events") as response:
            source = EventSource()
            until(response, source, "state")
            site.server.process.send_signal(signal.SIGTERM)
            source.read(chunks(response))  # a clean end; a truncated response would raise
        assert not source.has_ended
        site.server.process.wait(WAIT)
