"""Jobs that run in the process that delivers them: an application at the root, or mounted, as on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from backjob import BackJob, Status, asgi, wsgi
from backjob.delivery.addresses import Addresses
from backjob.jobs import engine_of
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.transports.inprocess import InProcessTransport
from backjob.transports.sockets import SocketTransport
from tests.unit.core import KEY
from tests.unit.gateways import environ_of, scope_of

PATIENCE = 60.0
_TARGET = "/shop/work/a%2Fb?x=1"


class Site:
    """An application with the middleware. Its page ``/start`` starts a job below the mount of the request."""

    def __init__(self) -> None:
        self.jobs = BackJob(MemoryStore(), SocketTransport, MessageSigner(KEY))
        self.wsgi = wsgi.BackJobMiddleware(self._wsgi, self.jobs)
        self.asgi = asgi.BackJobMiddleware(self._asgi, self.jobs)
        self.seen: list[tuple[Any, ...]] = []

    def deliver_to(self, application: Any) -> None:
        engine_of(self.jobs).addresses = Addresses(InProcessTransport(application, base_url="http://elsewhere"))

    def _wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/start":
            return [self.jobs.start(_TARGET).encode()]
        names = ("SCRIPT_NAME", "PATH_INFO", "HTTP_HOST", "wsgi.url_scheme", "REMOTE_ADDR")
        self.seen.append(tuple(environ[name] for name in names))
        return [b"done"]

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        below, body = scope["path"].removeprefix(scope["root_path"]), b"done"
        if below == "/start":
            body = (await self.jobs.astart(_TARGET)).encode()
        else:
            host = dict(scope["headers"])[b"host"].decode()
            self.seen.append((scope["root_path"], below, host, scope["scheme"], scope["client"][0]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})

    def start_over_wsgi(self) -> str:
        shown = {"wsgi.url_scheme": "https", "HTTP_HOST": "shop.example", "REMOTE_ADDR": "192.0.2.7"}
        environ = environ_of("/start", SCRIPT_NAME="/shop", REQUEST_URI="/shop/start", **shown)
        return b"".join(self.wsgi(environ, lambda *_: lambda _: None)).decode()

    def start_over_asgi(self) -> str:
        shown: dict[str, Any] = {"scheme": "https", "headers": [(b"host", b"shop.example")], "client": ("192.0.2.7", 1)}
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = scope_of("/shop/start", root_path="/shop", **shown)
        asyncio.run(self.asgi(scope, receive, send))
        return str(sent[-1]["body"].decode())


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.jobs.close()


APPLICATIONS: dict[str, Callable[[Site], Any]] = {
    "wsgi": lambda site: site.wsgi,
    "wsgi in a dispatcher": lambda site: DispatcherMiddleware(_not_found, {"/shop": site.wsgi}),
    "asgi": lambda site: site.asgi,
    "asgi in a router": lambda site: Starlette(routes=[Mount("/shop", site.asgi)]),
}


def _not_found(environ: Any, start_response: Any) -> list[bytes]:
    start_response("404 Not Found", [])
    return []


@pytest.mark.parametrize("kind", APPLICATIONS)
def test_an_action_below_a_mount_sees_what_the_starting_request_showed(site: Site, kind: str) -> None:
    site.deliver_to(APPLICATIONS[kind](site))
    job_id = site.start_over_wsgi() if kind.startswith("wsgi") else site.start_over_asgi()
    state = site.jobs.join(job_id, PATIENCE)
    assert (state.status, state.status_text) == (Status.COMPLETED, "done")
    assert site.seen == [("/shop", "/work/a/b", "shop.example", "https", "192.0.2.7")]


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_a_worker_request_shows_neither_an_address_nor_a_server(
    site: Site, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.deliver_to(APPLICATIONS[kind](site))
    arrived: list[object] = []
    monkeypatch.setattr(engine_of(site.jobs), "request_arrived", lambda *shown: arrived.append(shown))
    job_id = site.jobs.start("/work", as_current_user=False)
    assert site.jobs.join(job_id, PATIENCE).status is Status.COMPLETED
    assert (arrived, site.seen) == ([], [("", "/work", "elsewhere", "http", "127.0.0.1")])
