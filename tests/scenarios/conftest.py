"""The servers of the scenarios: each is started when the first scenario needs it, and serves all of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.scenarios.client import Gate
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import STREAMS, Site, serving

# One of each sort: a single thread, threads, processes; every other server and app is slow's.
_QUICK = (
    ("plain_app", "wsgiref"),
    ("plain_app", "waitress"),
    ("plain_app", "gunicorn-sync-2"),
    ("flask_app", "werkzeug"),
    ("flask_app", "gunicorn-threads"),
    ("asgi_app", "uvicorn-h11"),
)
_APPS = {"wsgi": ("plain_app", "flask_app", "django_app"), "asgi": ("asgi_app", "django_asgi_app")}
# Each framework of ASGI on one server that is not the others'; each server has the plain application and Django's.
_FRAMEWORKS = (
    ("fastapi_app", "uvicorn-httptools"),
    ("litestar_app", "daphne"),
    ("quart_app", "hypercorn"),
    ("starlette_app", "granian"),
)
_ALL = [
    *((app, kind.name) for kind in KINDS.values() for app in _APPS[kind.gateway] if app.startswith(kind.only)),
    *_FRAMEWORKS,
]
_PLACES = [
    pytest.param(place, id="-".join(place).replace("_app", ""), marks=() if place in _QUICK else pytest.mark.slow)
    for place in _ALL
]


@pytest.fixture(scope="session", params=_PLACES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The scenario site on one server after the other."""
    app, kind = request.param
    directory = tmp_path_factory.mktemp(f"{app}-{kind}")
    with serving(KINDS[kind], f"{app}:app", directory, BACKJOB_STREAMS=str(STREAMS)) as site:
        yield site


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate for the action "hold"."""
    with Gate() as gate:
        yield gate


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure, what the server said."""
    report = yield
    site = getattr(item, "funcargs", {}).get("site")
    if report.failed and isinstance(site, Site):
        report.sections.append((f"log of {site.kind}", site.server.tail()))
    return report
