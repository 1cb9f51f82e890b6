"""`start()` accepts the URLs that the framework builds: at the root, mounted, and behind a proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from attrs import evolve

from backjob import Status
from tests.scenarios.servers import KINDS, daphne, hypercorn, uvicorn
from tests.scenarios.sites import Site, serving

WITH_ROOT_PATH: Final[dict[str, Any]] = {
    "uvicorn-h11": uvicorn("--http", "h11", "--root-path", "/shop"),
    "hypercorn": hypercorn("--root-path", "/shop"),
    "daphne": daphne("--root-path", "/shop"),
}
QUICK: Final = ("starlette_app", "flask_app")


def assert_runs(site: Site, path: str, **visitor: str) -> None:
    """Request a page that starts a job by a URL, and assert that the job completes."""
    page = site.page(path, headers=visitor)
    assert page.status == 200, page.text
    state = site.end(page.json()["id"])
    assert state.status is Status.COMPLETED, state
    assert state.id in site.page(f"/backjob/{site.jobs.status_url(state.id).rpartition('/')[2]}").text


@pytest.mark.parametrize(
    ("app", "server"),
    [
        pytest.param(app, server, marks=() if app in QUICK else pytest.mark.slow)
        for app, server in (
            ("starlette_app", "uvicorn-h11"),
            ("fastapi_app", "uvicorn-h11"),
            ("quart_app", "hypercorn"),
            ("litestar_app", "granian"),
            ("django_asgi_app", "daphne"),
            ("django_app", "gunicorn-threads"),
            ("flask_app", "werkzeug"),
        )
    ],
)
def test_a_url_works_at_the_root_and_below_a_mount(tmp_path: Path, app: str, server: str) -> None:
    with serving(KINDS[server], f"{app}:app", tmp_path) as site:
        assert_runs(site, "/by-url")
        assert_runs(site, "/by-url", Host="www.shop.example:8443")
        assert_runs(site, "/shop/by-url")


# uvicorn puts the root path in front of the request path, which a proxy has stripped; the others leave the path as it is.
@pytest.mark.parametrize(
    ("app", "server", "path"),
    [
        pytest.param(app, server, path, marks=() if app in QUICK else pytest.mark.slow)
        for app, server, path in (
            ("starlette_app", "uvicorn-h11", "/by-url"),
            ("fastapi_app", "uvicorn-h11", "/by-url"),
            ("quart_app", "uvicorn-h11", "/by-url"),
            ("litestar_app", "uvicorn-h11", "/by-url"),
            ("django_asgi_app", "uvicorn-h11", "/by-url"),
            ("fastapi_app", "hypercorn", "/by-url"),
            ("quart_app", "hypercorn", "/shop/by-url"),
            ("fastapi_app", "daphne", "/shop/by-url"),
        )
    ],
)
def test_a_url_works_below_a_servers_root_path(tmp_path: Path, app: str, server: str, path: str) -> None:
    kind = evolve(KINDS[server], command=WITH_ROOT_PATH[server], address="learnt")
    with serving(kind, f"{app}:bare", tmp_path) as site:
        assert_runs(site, path)
