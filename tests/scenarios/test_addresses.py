"""How an application learns its own address. The Host that visitors send, `shop.example`, does not resolve."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from attrs import evolve

from backjob import Status
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import result_of, serving


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("wsgiref", "0.0.0.0"),
        ("werkzeug", "0.0.0.0"),
        ("werkzeug", "::1"),
        ("waitress", "0.0.0.0"),
        ("waitress", "::1"),
        ("gunicorn-sync", "0.0.0.0"),
        ("gunicorn-sync", "::"),
    ],
)
def test_the_address_is_learnt_from_the_servers_socket(tmp_path: Path, server: str, host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with serving(evolve(KINDS[server], host=host), "plain_app:app", tmp_path) as site:
        state = site.run("/work/see", visitor={"Host": "127.0.0.1:9", "X-Forwarded-Host": "127.0.0.1:9"})
        assert state.status is Status.COMPLETED
        assert site.run("/work/chain", {"left": 1}).status is Status.COMPLETED


def test_the_address_is_learnt_from_a_tls_socket(tmp_path: Path) -> None:
    with serving(evolve(KINDS["gunicorn-tls"], address="learnt"), "plain_app:app", tmp_path) as site:
        assert site.run("/work/none").status is Status.COMPLETED


def test_start_requires_a_base_url_on_a_unix_socket(tmp_path: Path) -> None:
    with serving(evolve(KINDS["gunicorn-unix"], address="learnt"), "plain_app:app", tmp_path) as site:
        refusal = site.refused("/work/none")
        assert refusal["error"] == "AddressUnknown"
        assert "set the base URL" in refusal["text"]
        assert site.jobs.find() == []


@pytest.mark.parametrize("server", ["gunicorn-unix", "gunicorn-tls"])
def test_the_configured_address_may_be_a_unix_socket_or_use_tls(tmp_path: Path, server: str) -> None:
    with serving(KINDS[server], "plain_app:app", tmp_path) as site:
        state = site.run("/work/see", method="POST", body="x" * 300_000)
        assert state.status is Status.COMPLETED
        assert result_of(state)["scheme"] == ("https" if server == "gunicorn-tls" else "http")
        assert site.run("/work/chain", {"left": 1}).status is Status.COMPLETED
