"""The servers of the scenarios: each starts when the first test needs it, and serves all tests of the run."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.scenarios.client import Gate
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import STREAMS, Site, serving
from tests.scenarios.with_celery import CELERY_IN_CI, WITH_CELERY, WITH_CELERY_PAIRS, carried
from tests.scenarios.with_worker import WITH_WORKER, WITH_WORKER_PAIRS, WORKER_IN_CI, worked
from tests.selection import excluded_markers

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
# Frameworks whose adapters are not ours, but an example, or plain WSGI. Each runs on one server.
_OTHERS = (("aiohttp_app", "aiohttp"), ("pyramid_app", "waitress"))
# In the usual runs they have only a few scenarios.
_OTHERS_TESTS_IN_CI = frozenset(
    {
        "test_a_job_starts_the_next_job_as_the_same_user",
        "test_the_next_update_of_a_cancelled_job_ends_its_action",
        "test_an_uncaught_exception_fails_the_job_with_its_message",
        "test_fail_ends_the_action_at_once_with_its_text",
        "test_a_streamed_response_that_fails_half_way_keeps_its_output",
        "test_a_background_only_action_refuses_foreground_requests",
        "test_a_body_of_300_kb_arrives_whole",
        "test_a_stream_follows_a_running_job_to_its_end",
        "test_a_browser_gets_a_page_with_escaped_output",
        "test_finish_keeps_a_file",
    }
)
_LEFT_OUT = frozenset(
    {
        # aiohttp has no root path.
        ("aiohttp_app", "test_a_mounted_application_runs_jobs_below_its_mount"),
        # Its requests can be cloned only with header fields in UTF-8.
        ("aiohttp_app", "test_a_cookie_whose_last_byte_python_takes_for_a_space_arrives_as_it_does_at_a_page"),
    }
)
_APPS_ON = {kind.name: [app for app in _APPS[kind.gateway] if app.startswith(kind.only)] for kind in KINDS.values()}
_ALL = [*((app, kind) for kind, apps in _APPS_ON.items() for app in apps), *_FRAMEWORKS, *_OTHERS]
# One pair for each application. These run all tests; other pairs than these and the next ones are nightly.
_ONE_EACH = {*_QUICK, ("django_app", "runserver"), ("django_asgi_app", "uvicorn-h11"), *_FRAMEWORKS, *_OTHERS}
# One pair for each of the other servers, which take the applications in turn. They run the tests that depend on the server.
_OTHER_SERVERS = {
    (apps[turn % len(apps)], kind)
    for turn, (kind, apps) in enumerate(_APPS_ON.items())
    if kind not in {kind for _, kind in _ONE_EACH}
}
# The usual runs have one of the sites whose jobs a worker runs, and of its scenarios only a few.
_WORKER_TESTS_IN_CI = frozenset(
    {
        "test_jobs_that_start_together_run_once_each",
        "test_a_job_starts_the_next_job_as_the_same_user",
        "test_the_next_update_of_a_cancelled_job_ends_its_action",
        "test_a_mount_makes_a_request_run_no_other_route",
    }
)
# The usual runs have one of the sites whose jobs Celery carries, and of its scenarios only a few.
_CELERY_TESTS_IN_CI = frozenset(
    {
        "test_jobs_that_start_together_run_once_each",
        "test_a_job_starts_the_next_job_as_the_same_user",
        "test_the_next_update_of_a_cancelled_job_ends_its_action",
        "test_fail_ends_the_action_at_once_with_its_text",
        "test_celerys_soft_time_limit_fails_the_job",
        "test_a_revoked_task_cancels_its_running_job",
        "test_a_revoked_task_cancels_its_waiting_job",
        "test_duplicates_of_a_message_and_unknown_jobs_do_nothing",
    }
)
_PAIRS = (*_ALL, *WITH_CELERY_PAIRS, *WITH_WORKER_PAIRS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on all shared sites, or on those that its module names in ``SHARED_SITES``. Omit those that `-m` excludes."""
    if "shared" not in metafunc.fixturenames:
        return
    test = metafunc.function.__name__
    depends = metafunc.definition.get_closest_marker("every_server") is not None
    pairs = [
        (pair, _marks(pair, test, depends))
        for pair in getattr(metafunc.module, "SHARED_SITES", _PAIRS)
        if (pair[0], test) not in _LEFT_OUT
    ]
    excluded = excluded_markers(metafunc.config)
    chosen = [(pair, marks) for pair, marks in pairs if excluded.isdisjoint(marks)]
    metafunc.parametrize(
        "shared",
        [
            pytest.param(
                pair, id="-".join(pair).replace("_app", ""), marks=[getattr(pytest.mark, mark) for mark in marks]
            )
            for pair, marks in chosen or pairs[:1]
        ],
        indirect=True,
        scope="session",
    )


def _marks(pair: tuple[str, str], test: str, depends_on_server: bool) -> list[str]:
    """Leave one pair for each application, and for tests that depend on the server one for each server: more are nightly.

    Most tests of sites whose jobs run elsewhere, or whose adapter is not ours, are nightly; those with Celery need services.
    """
    marks = [] if pair in _QUICK else ["slow"]
    if pair in WITH_CELERY_PAIRS:
        marks.append("services")
        is_nightly = pair != CELERY_IN_CI or test not in _CELERY_TESTS_IN_CI
    elif pair in WITH_WORKER_PAIRS:
        is_nightly = pair != WORKER_IN_CI or test not in _WORKER_TESTS_IN_CI
    elif pair in _OTHERS:
        is_nightly = test not in _OTHERS_TESTS_IN_CI
    else:
        is_nightly = pair not in (_ONE_EACH | _OTHER_SERVERS if depends_on_server else _ONE_EACH)
    return [*marks, "nightly"] if is_nightly else marks


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The application and the kind of server of the shared site."""
    app, kind = request.param
    return app, kind


@pytest.fixture(scope="session")
def site(shared: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The scenario site, for each pair of application and server."""
    app, kind = shared
    directory = tmp_path_factory.mktemp(f"{app}-{kind}")
    if kind in WITH_WORKER:
        with worked(WITH_WORKER[kind], app, directory, "--threads", "8", **SETTINGS) as (site, _):
            yield site
        return
    way = WITH_CELERY.get(kind)
    with (
        serving(KINDS[kind], f"{app}:app", directory, **SETTINGS)
        if way is None
        else carried(way, f"{app}:app", directory, **SETTINGS)
    ) as site:
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
