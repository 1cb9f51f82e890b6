"""Test clients: nothing that a view starts leaves the process, whatever base URL is set."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from backjob import BackJob as CoreBackJob
from backjob.asgi import BackJobMiddleware
from backjob.errors import AddressUnknown
from backjob.flask import BackJob
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing import immediate, recorded
from backjob.transports.sockets import SocketTransport
from tests.scenarios.sites import KEY


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket to which no client may connect."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


def url_of(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("has_base_url", [True, False])
def test_flasks_client_starts_jobs_only_in_a_test_tool(
    make_app: Callable[..., Flask], listening: socket.socket, has_base_url: bool
) -> None:
    settings = {"BACKJOB_BASE_URL": url_of(listening)} if has_base_url else {}
    app = make_app(BACKJOB_STORE="memory:", TESTING=True, **settings)
    jobs = BackJob(app)

    @app.post("/export")
    def export() -> str:
        return jobs.start("/work")

    @app.get("/work")
    def work() -> str:
        return "done"

    client = app.test_client()
    client.set_cookie("session", "ann")
    with pytest.raises(AddressUnknown, match=r"test client.*backjob\.testing\.immediate\(\) or recorded\(\)"):
        client.post("/export", base_url=url_of(listening))
    assert jobs.find() == []
    with recorded(jobs) as started:
        client.post("/export")
    assert [job.request.target for job in started] == ["/work"]
    with immediate(jobs, app):
        assert jobs.status(client.post("/export").text).status.is_final
    with app.test_request_context(), pytest.raises(AddressUnknown):
        jobs.start("/work")


@pytest.mark.parametrize("has_base_url", [True, False])
def test_starlettes_client_starts_jobs_only_in_a_test_tool(listening: socket.socket, has_base_url: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it prefers a package that is not installed
        from starlette.testclient import TestClient
    transport = SocketTransport(url_of(listening)) if has_base_url else SocketTransport
    jobs = CoreBackJob(MemoryStore(), transport, MessageSigner(KEY))

    async def export(_: Request) -> PlainTextResponse:
        return PlainTextResponse(await jobs.astart("/work"))

    app = BackJobMiddleware(Starlette(routes=[Route("/export", export, methods=["POST"])]), jobs)
    with jobs, TestClient(app, base_url=url_of(listening), cookies={"session": "ann"}) as client:
        with pytest.raises(AddressUnknown, match="test client"):
            client.post("/export")
        assert jobs.find() == []
        with recorded(jobs) as started:
            client.post("/export")
        assert [job.request.target for job in started] == ["/work"]
