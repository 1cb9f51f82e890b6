"""A signature is valid for one route: neither a mount nor a prefix nor a header makes the request run another one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import evolve

from backjob import Status
from backjob.jobs import engine_of
from backjob.model import Draft, Grant, Job, Request
from backjob.signing.tokens import new_job_id
from tests.scenarios.servers import KINDS, daphne, hypercorn, uvicorn
from tests.scenarios.sites import Site, serving

ROUTE: Final = "/work/none"
ROOT_PATHS: Final[dict[str, Any]] = {
    "uvicorn-h11": uvicorn("--http", "h11", "--root-path", "/public"),
    "uvicorn-httptools": uvicorn("--root-path", "/public"),
    "hypercorn": hypercorn("--root-path", "/public"),
    "daphne": daphne("--root-path", "/public"),
}


def waiting_job(site: Site, path: str) -> tuple[Job, Request]:
    """A job that no monitor delivers during the test, and its signed worker request."""
    request = Request("GET", path)
    job = engine_of(site.jobs).store.create(Draft(id=new_job_id(), request=request, due=3600.0))
    now = int(time.time())
    return job, site.jobs.signer.sign(request, Grant(job.id, 1, 1, now, now + 60))


def assert_runs_nothing(site: Site, prefix: str, *, arriving_at: str, headers: Mapping[str, str] | None = None) -> None:
    """Send a request that is signed for the route with a prefix, and assert that it starts nothing."""
    job, signed = waiting_job(site, prefix + ROUTE)
    page = site.client.request("GET", f"{arriving_at}?{signed.query}", headers=headers)
    assert (page.status, page.headers.get("backjob-refusal")) == (403, "signature"), page.text
    assert site.runs(job.id) == 0
    assert site.jobs.status(job.id).status is Status.STARTED


def assert_runs(site: Site, arriving_at: str, headers: Mapping[str, str] | None = None) -> None:
    """Send a request that is signed for the route, and assert that it runs."""
    job, signed = waiting_job(site, ROUTE)
    page = site.client.request("GET", f"{arriving_at}?{signed.query}", headers=headers)
    assert (page.status, site.runs(job.id)) == (200, 1), page.text


WSGI_APPS: Final = [
    pytest.param(app, marks=() if app == "flask_app" else pytest.mark.slow)
    for app in ("flask_app", "plain_app", "django_app")
]


@pytest.mark.parametrize("app", WSGI_APPS)
def test_a_script_name_from_a_client_makes_a_request_run_no_other_route(tmp_path: Path, app: str) -> None:
    # gunicorn believes this header if it comes from 127.0.0.1, and passes on the rest as the path to route.
    forged = {"SCRIPT_NAME": "/public"}
    with serving(KINDS["gunicorn-sync"], f"{app}:app", tmp_path) as site:
        assert_runs_nothing(site, "/public", arriving_at=f"/public{ROUTE}", headers=forged)
        assert_runs(site, f"/public{ROUTE}", forged)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("app", "server"),
    [
        ("flask_app", "gunicorn-sync"),
        ("plain_app", "wsgiref"),
        ("django_app", "waitress"),
        ("asgi_app", "uvicorn-h11"),
        ("fastapi_app", "hypercorn"),
        ("quart_app", "hypercorn"),
        ("litestar_app", "granian"),
        ("django_asgi_app", "daphne"),
    ],
)
def test_a_mount_makes_a_request_run_no_other_route(tmp_path: Path, app: str, server: str) -> None:
    with serving(KINDS[server], f"{app}:app", tmp_path) as site:
        assert_runs_nothing(site, "/shop", arriving_at=f"/shop{ROUTE}")
        assert_runs(site, f"/shop{ROUTE}")


@pytest.mark.parametrize(
    ("app", "server"),
    [
        pytest.param(app, server, marks=() if app == "starlette_app" and server == "uvicorn-h11" else pytest.mark.slow)
        for app in ("starlette_app", "django_asgi_app")
        for server in ROOT_PATHS
    ],
)
def test_a_root_path_makes_a_request_run_no_other_route(tmp_path: Path, app: str, server: str) -> None:
    kind = evolve(KINDS[server], command=ROOT_PATHS[server])
    with serving(kind, f"{app}:bare", tmp_path) as site:
        assert_runs_nothing(site, "/public", arriving_at=ROUTE)
        assert_runs(site, ROUTE)
