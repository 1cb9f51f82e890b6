"""The servers of the scenarios: each is started when the first scenario needs it, and serves all of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.scenarios.client import Gate
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import STREAMS, Site, serving

# These run by default; the other places are slow.
_QUICK = (("plain_app", "waitress"), ("flask_app", "gunicorn-threads"), ("asgi_app", "uvicorn-h11"))
_APPS = {"wsgi": ("plain_app", "flask_app", "django_app"), "asgi": ("asgi_app", "django_asgi_app")}
# Each other ASGI framework runs on one server; every server runs the plain application and Django's.
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
# One place for each application: the tests of what does not depend on the server run on these alone, but for nightly runs.
_ONE_EACH = {*_QUICK, ("django_app", "runserver"), ("django_asgi_app", "hypercorn"), *_FRAMEWORKS}
_PLACES = [
    pytest.param(place, id="-".join(place).replace("_app", ""), marks=() if place in _QUICK else pytest.mark.slow)
    for place in _ALL
]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make the tests that do not depend on the server nightly, except at one place for each application."""
    for item in items:
        place = (
            item.callspec.params.get("site")
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else None
        )
        if place in _ALL and place not in _ONE_EACH and item.get_closest_marker("every_server") is None:
            item.add_marker(pytest.mark.nightly)


@pytest.fixture(scope="session", params=_PLACES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The scenario site, on each server in turn."""
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
