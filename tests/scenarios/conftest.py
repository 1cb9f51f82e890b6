"""The servers of the scenarios: each starts when the first test needs it, and serves all tests of the run."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.scenarios.client import Gate
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import STREAMS, Site, serving

SETTINGS = {
    "BACKJOB_STREAMS": str(STREAMS),
    "BACKJOB_CREDENTIAL_HEADERS": "X-Api-Key,Remote-User",
    "BACKJOB_FORWARD_HEADERS": "X-Tenant",
    "BACKJOB_RUN_LEASE": "9",  # a process reaps only after it has run for one lease
}

# Pairs of application and server that run by default; the other pairs are slow.
_QUICK = (("plain_app", "waitress"), ("flask_app", "gunicorn-threads"), ("asgi_app", "uvicorn-h11"))
_APPS = {"wsgi": ("plain_app", "flask_app", "django_app"), "asgi": ("asgi_app", "django_asgi_app")}
# Every server runs the plain application and Django's. Each of the other ASGI frameworks runs on one server.
_FRAMEWORKS = (
    ("fastapi_app", "uvicorn-httptools"),
    ("litestar_app", "daphne"),
    ("quart_app", "hypercorn"),
    ("starlette_app", "granian"),
)
_APPS_ON = {kind.name: [app for app in _APPS[kind.gateway] if app.startswith(kind.only)] for kind in KINDS.values()}
_ALL = [*((app, kind) for kind, apps in _APPS_ON.items() for app in apps), *_FRAMEWORKS]
# One pair for each application. These run all tests; other pairs than these and the next ones are nightly.
_ONE_EACH = {*_QUICK, ("django_app", "runserver"), ("django_asgi_app", "uvicorn-h11"), *_FRAMEWORKS}
# One pair for each of the other servers, which take the applications in turn. They run the tests that depend on the server.
_OTHER_SERVERS = {
    (apps[turn % len(apps)], kind)
    for turn, (kind, apps) in enumerate(_APPS_ON.items())
    if kind not in {kind for _, kind in _ONE_EACH}
}
_PAIRS = [
    pytest.param(pair, id="-".join(pair).replace("_app", ""), marks=() if pair in _QUICK else pytest.mark.slow)
    for pair in _ALL
]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave one pair for each application, and for tests that depend on the server one for each server: more are nightly."""
    for item in items:
        pair = (
            item.callspec.params.get("site")
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else None
        )
        chosen = _ONE_EACH if item.get_closest_marker("every_server") is None else _ONE_EACH | _OTHER_SERVERS
        if pair in _ALL and pair not in chosen:
            item.add_marker(pytest.mark.nightly)


@pytest.fixture(scope="session", params=_PAIRS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The scenario site, for each pair of application and server."""
    app, kind = request.param
    directory = tmp_path_factory.mktemp(f"{app}-{kind}")
    with serving(KINDS[kind], f"{app}:app", directory, **SETTINGS) as site:
        yield site


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate for the action "hold"."""
    with Gate() as gate:
        yield gate


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the server's log to the report of a failed test."""
    report = yield
    site = getattr(item, "funcargs", {}).get("site")
    if report.failed and isinstance(site, Site):
        report.sections.append((f"log of {site.kind}", site.server.tail()))
    return report
