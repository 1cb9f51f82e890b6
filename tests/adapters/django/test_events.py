"""Event streams in Django: middleware must not buffer them, and they must not occupy database connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import connection
from django.test import Client, override_settings

from backjob.django import jobs
from backjob.django.connections import close_idle
from backjob.django.testing import recorded
from backjob.jobs import engine_of
from tests.event_source import EventSource

pytestmark = pytest.mark.usefixtures("database")

_GZIP = "django.middleware.gzip.GZipMiddleware"


@pytest.fixture
def switched_on() -> Iterator[None]:
    with override_settings(BACKJOB={"STREAMS": 2}, MIDDLEWARE=[*settings.MIDDLEWARE, _GZIP]):
        jobs.reset()
        yield
    jobs.reset()


@pytest.fixture
def waiting() -> str:
    """A job that is not delivered."""
    with recorded():
        started = Client().post("/start", {"path": "see", "as_current_user": False}, content_type="application/json")
    return str(started.json()["id"])


@pytest.fixture
def ended(waiting: str) -> str:
    """The URL of the events of an ended job."""
    jobs.cancel(waiting)
    return f"{jobs.status_url(waiting)}/events"


def test_under_wsgi_event_streams_are_off_by_default(ended: str) -> None:
    assert Client().get(ended).status_code == 404


@pytest.mark.usefixtures("switched_on")
def test_events_are_not_compressed(ended: str) -> None:
    response: Any = Client().get(ended, headers={"accept-encoding": "gzip"})
    assert (response.status_code, response.has_header("Content-Encoding")) == (200, False)
    assert EventSource().read(response.streaming_content).names == ["end"]
    response.close()
    assert engine_of(jobs).broadcast.count == 0


@pytest.mark.usefixtures("switched_on")
def test_no_connection_is_kept_while_a_client_watches(ended: str) -> None:
    response: Any = Client().get(ended)
    assert connection.connection is None
    response.close()


@pytest.mark.usefixtures("switched_on")
def test_the_broadcast_thread_closes_its_connection(waiting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left, connected = threading.Event(), []

    def leave() -> None:
        close_idle()
        if threading.current_thread().name == "backjob-streams":
            connected.append(connection.connection)
            left.set()

    monkeypatch.setattr("backjob.django.engine.close_idle", leave)
    response: Any = Client().get(f"{jobs.status_url(waiting)}/events")
    source, chunks = EventSource(), iter(response.streaming_content)
    while not source.states:
        source.feed(next(chunks))
    response.close()
    assert left.wait(10)
    assert connected == [None]


@pytest.mark.usefixtures("switched_on")
def test_event_streams_in_an_event_loop_occupy_no_thread(waiting: str) -> None:
    async def story() -> EventSource:
        communicator: Any = ApplicationCommunicator  # which has no types
        application, source = (
            communicator(get_asgi_application(), scope_of(f"{jobs.status_url(waiting)}/events")),
            EventSource(),
        )
        before = django_threads()
        await application.send_input({"type": "http.request", "body": b""})
        assert (await application.receive_output(10))["status"] == 200
        while not source.states:
            source.feed((await application.receive_output(10))["body"])
        for thread in django_threads() - before:
            await asyncio.to_thread(thread.join, 10)
        assert django_threads() <= before
        await asyncio.to_thread(jobs.cancel, waiting)
        while (message := await application.receive_output(10)).get("more_body"):
            source.feed(message["body"])
        await application.wait(10)
        return source

    assert asyncio.run(story()).names == ["state", "end"]
    assert engine_of(jobs).broadcast.count == 0


def django_threads() -> set[threading.Thread]:
    """The threads that run the sync parts of requests."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor-")}


def scope_of(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"accept-encoding", b"gzip")],
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
    }
