"""How an application learns its own address. The Host that visitors send, `shop.example`, does not resolve."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

import pytest
from attrs import evolve

from backjob import Status
from tests.scenarios.servers import KINDS, Kind, hypercorn, python_server, uvicorn
from tests.scenarios.sites import result_of, serving


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


TRUSTING_WAITRESS: Final = Kind(name="trusting-waitress", command=python_server("trusting-waitress"), workers=4)
TLS: Final = [
    evolve(KINDS["gunicorn-tls"], address="learnt"),
    Kind(name="werkzeug-tls", command=python_server("werkzeug"), workers=40, listens="tls"),
    Kind(name="uvicorn-tls", command=uvicorn("--http", "h11"), gateway="asgi", workers=40, listens="tls"),
    Kind(name="hypercorn-tls", command=hypercorn(), gateway="asgi", workers=40, listens="tls"),
]


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("wsgiref", "0.0.0.0"),
        pytest.param("werkzeug", "0.0.0.0", marks=pytest.mark.slow),
        pytest.param("werkzeug", "::1", marks=pytest.mark.slow),
        pytest.param("waitress", "0.0.0.0", marks=pytest.mark.slow),
        pytest.param("waitress", "127.0.0.2", marks=pytest.mark.slow),
        ("waitress", "::1"),
        pytest.param("gunicorn-sync", "0.0.0.0", marks=pytest.mark.slow),
        pytest.param("gunicorn-sync", "127.0.0.2", marks=pytest.mark.slow),
        ("gunicorn-sync", "::"),
        pytest.param("uvicorn-h11", "0.0.0.0", marks=pytest.mark.slow),
        pytest.param("hypercorn", "127.0.0.2", marks=pytest.mark.slow),
    ],
)
def test_the_address_is_learnt_from_the_servers_socket(tmp_path: Path, server: str, host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    kind = evolve(KINDS[server], host=host, address="learnt")
    with serving(kind, f"{'asgi' if kind.gateway == 'asgi' else 'plain'}_app:app", tmp_path) as site:
        state = site.run("/work/see", visitor={"Host": "127.0.0.1:9", "X-Forwarded-Host": "127.0.0.1:9"})
        assert state.status is Status.COMPLETED
        assert site.run("/work/chain", {"left": 1}).status is Status.COMPLETED


@pytest.mark.parametrize(
    ("kind", "app"),
    [(TRUSTING_WAITRESS, "proxied_app:app"), (KINDS["wsgiref"], "proxied_app:fixed")],
    ids=["waitress", "ProxyFix"],
)
def test_no_field_of_a_client_or_a_proxy_moves_worker_requests(tmp_path: Path, kind: Kind, app: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger, serving(kind, app, tmp_path) as site:
        port = stranger.getsockname()[1]
        for forged in (
            {"X-Forwarded-Port": str(port)},
            {"X-Forwarded-Host": f"site.example:{port}"},
            {"Host": f"site.example:{port}"},
            {"X-Forwarded-Proto": "https"},
            {},
        ):
            state = site.run("/work/none", visitor={"Cookie": "user=ann", **forged})
            assert state.status is Status.COMPLETED
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.accept()


@pytest.mark.slow
@pytest.mark.parametrize("kind", TLS, ids=str)
def test_the_address_of_a_server_with_tls_is_learnt_and_needs_no_trusted_certificate(
    tmp_path: Path, kind: Kind
) -> None:
    with serving(kind, f"{'asgi' if kind.gateway == 'asgi' else 'plain'}_app:app", tmp_path) as site:
        state = site.run("/work/see", visitor={"Cookie": "user=ann"})
        assert state.status is Status.COMPLETED
        assert result_of(state)["scheme"] == "https"


@pytest.mark.slow
def test_a_worker_request_finds_its_site_by_the_host_of_the_starting_request(tmp_path: Path) -> None:
    with serving(KINDS["werkzeug"], "proxied_app:one_host", tmp_path) as site:
        visitor = {"Host": "shop.example"}
        assert site.run("/work/none", visitor=visitor).status is Status.COMPLETED


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KINDS["granian-wsgi"], KINDS["gunicorn-unix"]], ids=str)
def test_start_requires_a_base_url_on_a_server_that_shows_no_port(tmp_path: Path, kind: Kind) -> None:
    with serving(evolve(kind, address="learnt"), "plain_app:app", tmp_path) as site:
        refusal = site.refused("/work/none")
        assert refusal["error"] == "AddressUnknown"
        assert 'set the base URL: BackJob(transport=SocketTransport("https://your.site"' in refusal["text"]
        assert ("unix:/path" in refusal["text"]) == (kind.listens == "unix")
        assert site.jobs.find() == []


@pytest.mark.parametrize("server", ["gunicorn-unix", pytest.param("gunicorn-tls", marks=pytest.mark.slow)])
def test_the_configured_address_may_be_a_unix_socket_or_use_tls(tmp_path: Path, server: str) -> None:
    with serving(KINDS[server], "plain_app:app", tmp_path) as site:
        state = site.run("/work/see", method="POST", body="x" * 300_000)
        assert state.status is Status.COMPLETED
        assert result_of(state)["scheme"] == ("https" if server == "gunicorn-tls" else "http")
        assert site.run("/work/chain", {"left": 1}).status is Status.COMPLETED
