"""Two sites on one proxy: the stranger has the default site, and must get nothing of a user who starts a job on ours."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import pytest
from attrs import evolve

from tests.ports import free_port
from tests.scenarios.client import Client
from tests.scenarios.fronts import apache, nginx, process, require, uwsgi
from tests.scenarios.servers import KINDS, Kind, Server
from tests.scenarios.sites import Site, jobs_at, serving, settings
from tests.scenarios.strangers import ALICE, Stranger, check_that_a_job_waits, check_that_alice_is_served


@contextmanager
def behind_nginx(kind: Kind, directory: Path, stranger: Stranger, base_url: str | None) -> Iterator[Site]:
    """Our site behind nginx over HTTP, seen through nginx. ``{port}`` in the base URL is nginx's port."""
    port = free_port()
    app = "plain_app" if kind.gateway == "wsgi" else "asgi_app"
    with serving(kind, f"{app}:app", directory, **address_of(base_url, port)) as site:
        ours = f"proxy_pass http://{backend_of(site)}; proxy_set_header Host $host;"
        with nginx(directory, port, stranger.port, ours):
            yield evolve(site, server=evolve(site.server, client=Client(("127.0.0.1", port))))


@contextmanager
def behind_nginx_with_uwsgi(directory: Path, stranger: Stranger, base_url: str | None) -> Iterator[Site]:
    """Our site in uWSGI, to which nginx speaks uWSGI's own protocol."""
    port, log = free_port(), directory / "server.log"
    include = "".join(f"uwsgi_param {name} ${variable};" for name, variable in _UWSGI_PARAMS)
    kind = Kind(name="uwsgi", command=lambda *_: [], workers=4)
    with tempfile.TemporaryDirectory() as short:
        path = Path(short, "uwsgi.sock")
        environment = settings(directory) | address_of(base_url, port)
        with (
            process(uwsgi("plain_app:app", path), log, environment) as server,
            nginx(directory, port, stranger.port, f"{include} uwsgi_pass unix:{path};"),
            jobs_at(directory) as jobs,
        ):
            yield Site(Server(kind, server, Client(("127.0.0.1", port)), log), jobs, directory)


@contextmanager
def in_apache(stranger: Stranger, base_url: str | None) -> Iterator[Site]:
    """Our site in Apache's mod_wsgi. Its directory can be read by www-data."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        environment = settings(directory) | address_of(base_url, port)
        with apache(directory, port, stranger.port, "plain_app", environment) as server, jobs_at(directory) as jobs:
            yield Site(server, jobs, directory)


_UWSGI_PARAMS: Final = (
    *((name, name.lower()) for name in ("QUERY_STRING", "REQUEST_METHOD", "CONTENT_TYPE", "CONTENT_LENGTH")),
    *((name, name.lower()) for name in ("REQUEST_URI", "REMOTE_ADDR", "REMOTE_PORT", "SERVER_PORT", "SERVER_NAME")),
    ("PATH_INFO", "document_uri"),
    ("REQUEST_SCHEME", "scheme"),
    ("SERVER_PROTOCOL", "server_protocol"),
)
"""nginx's file ``uwsgi_params``, as far as the site needs it."""


def address_of(base_url: str | None, port: int) -> dict[str, str]:
    if base_url is None:
        return {}
    connect_to = f"http://127.0.0.1:{port}"
    return {"BACKJOB_BASE_URL": base_url.format(port=port), "BACKJOB_CONNECT_TO": connect_to}


def backend_of(site: Site) -> str:
    address = site.client.address
    return f"unix:{address}" if isinstance(address, str) else f"127.0.0.1:{address[1]}"


RIGHT: Final = "http://shop.example:{port}"
WRONG: Final = "http://127.0.0.1:{port}"
"""Lacks the Host by which nginx and Apache find our site, so that they pass requests to their default site."""


def check_that_start_refuses(site: Site, stranger: Stranger) -> None:
    """The server shows no socket, and everything else that it shows comes from the client."""
    body = json.dumps({"path": "/work/see"}).encode()
    for headers in (ALICE, ALICE | {"Host": f"shop.example:{stranger.port}"}):
        page = site.client.request("POST", "/start", headers=headers, body=body)
        assert (page.status, page.json().get("error")) == (400, "AddressUnknown"), page.text
        assert "set the base URL" in page.text
    assert (site.jobs.find(), stranger.received) == ([], [])


Check: TypeAlias = Callable[[Site, Stranger], None]

_CHECKS: Final[dict[str | None, Check]] = {
    None: check_that_start_refuses,
    RIGHT: check_that_alice_is_served,
    WRONG: check_that_a_job_waits,
}
_each_base_url = pytest.mark.parametrize(("base_url", "check"), _CHECKS.items(), ids=["unknown", "right", "wrong"])


@pytest.mark.slow
def test_the_default_site_of_an_nginx_gets_nothing(tmp_path: Path) -> None:
    require("nginx")
    kind = evolve(KINDS["gunicorn-sync-2"], address="learnt")
    with Stranger() as stranger:
        for name, base_url in (("learnt", None), ("right", RIGHT)):
            (tmp_path / name).mkdir()
            with behind_nginx(kind, tmp_path / name, stranger, base_url) as site:
                check_that_alice_is_served(site, stranger)
                assert stranger.received == []
        with behind_nginx(kind, tmp_path, stranger, WRONG) as site:
            check_that_a_job_waits(site, stranger)


@pytest.mark.nightly
@pytest.mark.parametrize("server", ["gunicorn-unix", "waitress", "uvicorn-h11"])
def test_the_default_site_of_an_nginx_gets_nothing_from_other_servers(tmp_path: Path, server: str) -> None:
    require("nginx")
    with Stranger() as stranger:
        for name, base_url in (("right", RIGHT), ("wrong", WRONG)):
            (tmp_path / name).mkdir()
            with behind_nginx(KINDS[server], tmp_path / name, stranger, base_url) as site:
                _CHECKS[base_url](site, stranger)


@pytest.mark.nightly
@_each_base_url
def test_the_default_site_of_an_nginx_gets_nothing_from_uwsgi(
    tmp_path: Path, base_url: str | None, check: Check
) -> None:
    require("nginx", "uwsgi")
    with Stranger() as stranger, behind_nginx_with_uwsgi(tmp_path, stranger, base_url) as site:
        check(site, stranger)


@pytest.mark.nightly
@_each_base_url
def test_the_default_site_of_an_apache_gets_nothing_from_mod_wsgi(base_url: str | None, check: Check) -> None:
    require("apache2", "mod_wsgi.so")
    with Stranger() as stranger, in_apache(stranger, base_url) as site:
        check(site, stranger)
