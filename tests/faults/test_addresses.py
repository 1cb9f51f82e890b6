"""The application's address in a process whose servers come and go."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.serving import make_server

from backjob import BackJob, Status
from backjob.http.listening import listener_at
from backjob.jobs import engine_of
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing.transports import Call, Peer, answer
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.scenarios.client import WAIT
from tests.scenarios.sites import KEY

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class App:
    """A page that starts a job as its visitor, and the job's action."""

    def __init__(self, transport: Any) -> None:
        self.jobs = BackJob(MemoryStore(), transport, MessageSigner(KEY))
        self.wsgi = BackJobMiddleware(self._app, self.jobs)

    def _app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = b""
        if environ["PATH_INFO"] == "/start":
            body = json.dumps(self.jobs.start("/work")).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    @contextmanager
    def serving(self, listening: socket.socket | None = None) -> Iterator[int]:
        """Serve the application during the block; yields the port."""
        fd = None if listening is None else listening.fileno()
        server = make_server("127.0.0.1", 0, self.wsgi, threaded=True, fd=fd)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join(WAIT)
            server.server_close()


def start_at(port: int) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/start", headers={"Cookie": "user=ann"})
    with urllib.request.urlopen(request, timeout=WAIT) as page:
        job_id: str = json.load(page)
    return job_id


@pytest.fixture
def app() -> Iterator[App]:
    app = App(SocketTransport)
    with app.jobs:
        yield app


def test_each_server_of_a_process_gets_its_jobs_while_strangers_take_the_old_ports(app: App) -> None:
    strangers: list[Peer] = []
    earlier = set(threading.enumerate())
    try:
        for _ in range(3):
            with app.serving() as port:
                assert app.jobs.join(start_at(port), WAIT).status is Status.COMPLETED
            strangers.append(Peer(listener=socket.create_server(("127.0.0.1", port))))
        for stranger in strangers:
            while not stranger.arrivals.empty():
                call = stranger.next_call()
                assert call.target.startswith("/backjob/probe?")
                assert call.header("cookie") == []
        names = [thread.name for thread in set(threading.enumerate()) - earlier]
        assert (names.count("backjob-sockets"), names.count("backjob-monitor")) == (1, 1)
    finally:
        for stranger in strangers:
            stranger.close()


def test_a_job_waits_for_a_server_that_does_not_listen_yet() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        app = App(SocketTransport(f"http://127.0.0.1:{port}"))
        with app.jobs as jobs:
            job_id = jobs.start("/work", as_current_user=False)
            deadline = threading.Event()
            while "connection refused" not in engine_of(jobs).monitor._deliveries.why_waiting():
                assert not deadline.wait(0.005)
            assert jobs.status(job_id).status is Status.STARTED
            listening.listen()
            with app.serving(listening):
                assert jobs.join(job_id, WAIT).status is Status.COMPLETED


def test_a_relay_to_the_application_gets_nothing_but_a_probe(app: App) -> None:
    with app.serving() as port:

        def relay(call: Call) -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{call.target}", timeout=WAIT) as page:
                return answer(page.status, page.read(), page.reason, tuple(page.headers.items()))

        with Peer(relay) as stranger:
            # As if a server had shown the relay's port. The relayed probe shows the application its own.
            engine_of(app.jobs).request_arrived(lambda: listener_at("127.0.0.1", stranger.port))
            job_id = app.jobs.start("/work", as_current_user=False)
            assert app.jobs.join(job_id, WAIT).status is Status.COMPLETED
            assert [stranger.next_call().target.partition("?")[0]] == ["/backjob/probe"]
            assert stranger.arrivals.empty()
