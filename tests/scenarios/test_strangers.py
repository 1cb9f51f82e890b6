"""What others on this machine get of a user who starts a job: strangers at the port that a visitor claims, at the same port
of another address, at a port that the site has left, and at the default site of a proxy.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from backjob import BackJob, Status
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.scenarios.apps.plain import site_of
from tests.scenarios.client import Client
from tests.scenarios.servers import KINDS, Kind, python_server
from tests.scenarios.sites import KEY, Site, serving
from tests.scenarios.strangers import Stranger, check_that_a_job_waits, check_that_alice_is_served, forged
from tests.scenarios.test_addresses import has_ipv6

_NO_SOCKET = ("gunicorn-unix", "granian-wsgi")
"""Servers that do not show the application a TCP socket, so that its address must be configured."""

_TRUSTED = (
    "x-forwarded-for x-forwarded-host x-forwarded-proto",
    "x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-proto",
    "forwarded",
)
"""The headers that waitress believes from a trusted proxy, in each combination."""


def learning(kind: Kind) -> Kind:
    """The server without a configured address, if it shows its socket."""
    return evolve(kind, address="configured" if kind.name in _NO_SOCKET else "learnt")


def waitress(headers: str) -> Kind:
    return Kind(name=f"waitress({headers})", command=python_server("trusting-waitress", headers), workers=4)


def apps_of(kind: Kind) -> tuple[str, ...]:
    return ("plain_app", "django_app") if kind.gateway == "wsgi" else ("asgi_app", "django_asgi_app")


_EVERY_SERVER = [
    (kind.name, app) for kind in map(learning, KINDS.values()) for app in apps_of(kind) if app.startswith(kind.only)
]


def port_of(site: Site) -> int:
    assert isinstance(site.client.address, tuple)
    return site.client.address[1]


# --- the port that a visitor claims ---------------------------------------------------------------------------------


@contextmanager
def deceived(
    kind: Kind, app: str, directory: Path, scheme: str = "http", **more: str
) -> Iterator[tuple[Site, Stranger]]:
    """A site whose process gets a forged request first, and further ones, and the stranger whose port these name."""
    with Stranger() as stranger:
        headers = forged(stranger.port, scheme)
        with serving(evolve(kind, first=headers), f"{app}:app", directory, **more) as site:
            assert site.client.get("/ready", headers=headers).status == 200
            yield site, stranger


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "app", "scheme"),
    [
        pytest.param(waitress(_TRUSTED[0]), "plain_app", "http", id="waitress"),
        pytest.param(KINDS["uvicorn-httptools"], "asgi_app", "https", id="uvicorn"),
    ],
)
def test_a_forged_port_sends_nothing_to_a_stranger(tmp_path: Path, kind: Kind, app: str, scheme: str) -> None:
    with deceived(kind, app, tmp_path, scheme) as (site, stranger):
        check_that_alice_is_served(site, stranger)
        assert stranger.received == []


@pytest.mark.nightly
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("behind", ["bare", "behind-proxy-fix"])
@pytest.mark.parametrize(("server", "app"), _EVERY_SERVER)
def test_no_server_sends_anything_to_a_forged_port(
    tmp_path: Path, server: str, app: str, behind: str, scheme: str
) -> None:
    loaded = app if behind == "bare" else "proxied"
    with deceived(learning(KINDS[server]), loaded, tmp_path, scheme, SCENARIO_INNER=app) as (site, stranger):
        check_that_alice_is_served(site, stranger)
        assert stranger.received == []


@pytest.mark.nightly
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("app", ["plain_app", "flask_app", "django_app"])
@pytest.mark.parametrize("headers", _TRUSTED)
def test_waitress_sends_nothing_to_a_forged_port_whatever_it_believes(
    tmp_path: Path, headers: str, app: str, scheme: str
) -> None:
    with deceived(waitress(headers), app, tmp_path, scheme) as (site, stranger):
        check_that_alice_is_served(site, stranger)
        assert stranger.received == []


# --- the same port of another address -------------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.parametrize("address", ["127.0.0.2", "0.0.0.0"])
@pytest.mark.parametrize(
    ("server", "app"), [(server, app) for server, app in _EVERY_SERVER if KINDS[server].listens == "tcp"]
)
def test_a_stranger_at_the_same_port_of_another_address_gets_nothing(
    tmp_path: Path, server: str, app: str, address: str
) -> None:
    other = "127.0.0.1" if address == "127.0.0.2" else "::1"
    if other == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with (
        serving(evolve(learning(KINDS[server]), host=address), f"{app}:app", tmp_path) as site,
        Stranger(host=other, port=port_of(site)) as stranger,
    ):
        check_that_alice_is_served(site, stranger)


# --- the wrong site -------------------------------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("server", "app"), [(server, app) for server, app in _EVERY_SERVER if KINDS[server].listens != "tls"]
)
def test_no_server_sends_anything_to_a_wrong_base_url(tmp_path: Path, server: str, app: str) -> None:
    with Stranger() as stranger:
        wrong = f"http://127.0.0.1:{stranger.port}"
        with serving(KINDS[server], f"{app}:app", tmp_path, BACKJOB_BASE_URL=wrong, BACKJOB_CONNECT_TO=wrong) as site:
            check_that_a_job_waits(site, stranger)


# --- a port that the site has left ----------------------------------------------------------------------------------


class Moving:
    """A site in this process that can move to another port."""

    def __init__(self, directory: Path) -> None:
        self.jobs = BackJob(MemoryStore(), SocketTransport, MessageSigner(KEY))
        self._app = BackJobMiddleware(site_of(self.jobs), self.jobs)
        self._directory = directory

    @contextmanager
    def at(self, port: int = 0) -> Iterator[Site]:
        from werkzeug.serving import make_server

        server = make_server("127.0.0.1", port, self._app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            running: Any = _Here(Client(("127.0.0.1", server.server_port)))
            yield Site(running, self.jobs, self._directory)
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Here:
    def __init__(self, client: Client) -> None:
        self.client = client


@pytest.fixture
def moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moving]:
    monkeypatch.setenv("SCENARIO_RUNS", str(tmp_path / "runs"))
    moving = Moving(tmp_path)
    yield moving
    moving.jobs.close()


@pytest.mark.parametrize("relays", [False, True], ids=["answers", "relays"])
@pytest.mark.parametrize("used", [False, True], ids=["only-seen", "used-before"])
def test_a_stranger_at_the_port_that_the_site_has_left_gets_nothing(moving: Moving, used: bool, relays: bool) -> None:
    with moving.at() as site:
        left = port_of(site)
        assert site.client.get("/ready").status == 200
        if used:
            assert site.run("/work/none").status is Status.COMPLETED
    with moving.at() as site, Stranger(port=left, relay_to=port_of(site) if relays else None) as stranger:
        check_that_alice_is_served(site, stranger)
