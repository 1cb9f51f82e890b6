"""ASGI frameworks and aiohttp, with coroutine handlers and plain ones: the behaviour that depends on the framework."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from backjob import Status
from tests.scenarios.client import Gate, wait_until
from tests.scenarios.servers import KINDS, daphne
from tests.scenarios.sites import Site, result_of, serving

# Each framework on one or two servers, and each server with a framework. The other scenarios run on all of them.
PAIRS = (
    ("starlette_app:app", "uvicorn-h11"),
    ("starlette_app:debug", "hypercorn"),
    ("fastapi_app:app", "granian"),
    ("quart_app:app", "uvicorn-httptools"),
    ("litestar_app:app", "hypercorn"),
    ("litestar_app:listed", "daphne"),
    ("aiohttp_app:app", "aiohttp"),
)
QUICK = PAIRS[:1]
NIGHTLY = PAIRS[-1:]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            pair,
            id="-".join(pair),
            marks=() if pair in QUICK else pytest.mark.nightly if pair in NIGHTLY else pytest.mark.slow,
        )
        for pair in PAIRS
    ],
)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    app, kind = request.param
    with serving(KINDS[kind], app, tmp_path_factory.mktemp("site")) as site:
        yield site


def test_a_coroutine_reports_prints_and_finishes(site: Site) -> None:
    state = site.run("/coroutine/report")
    assert (state.status, state.status_text, result_of(state)) == (Status.COMPLETED, state.id, {"progress": 35})
    assert site.text(state.id) == "printed by a coroutine\nprinted by its thread\n"


def test_a_plain_handler_reports_prints_and_finishes_in_its_thread(site: Site) -> None:
    job_id = site.start("/work/print", {"lines": 2})
    assert site.end(job_id).status is Status.COMPLETED
    assert site.text(job_id) == "line 0 – ä\nline 1 – ä\n"
    seen = result_of(site.run("/work/see"))
    assert seen["background"]


@pytest.mark.parametrize("path", ["/work/raise", "/coroutine/raise"])
def test_an_uncaught_exception_fails_the_job_with_its_message(site: Site, path: str) -> None:
    state = site.run(path, {"text": "the disk is full – ä"})
    assert (state.status, state.progress, state.status_text) == (Status.FAILED, 30, "ValueError: the disk is full – ä")


@pytest.mark.parametrize("path", ["/work/fail", "/coroutine/fail", "/coroutine/group"])
def test_fail_passes_through_except_exception_and_task_groups(site: Site, path: str) -> None:
    state = site.run(path, {"text": "enough"})
    assert (state.status, state.progress, state.status_text) == (Status.FAILED, 70, "enough")
    page = site.page(path, {"text": "enough"})
    assert (page.status, page.text) == (500, "enough")


def test_a_background_only_handler_refuses_foreground_requests(site: Site) -> None:
    assert site.run("/work/guarded").status is Status.COMPLETED
    assert site.page("/work/guarded").status == 403


@pytest.mark.parametrize("path", ["/work/stream", "/coroutine/stream"])
def test_a_streamed_text_is_output_for_both_kinds_of_handlers(site: Site, path: str) -> None:
    state = site.run(path)
    assert (state.status, site.text(state.id)) == (Status.COMPLETED, "first second ä printed third")
    state = site.run(path, {"fail": "enough"})
    assert (state.status, state.progress, state.status_text) == (Status.FAILED, 40, "enough")
    assert site.text(state.id) == "first second ä printed "


@pytest.mark.parametrize("path", ["/work/hold", "/coroutine/hold"])
def test_an_action_runs_to_its_end_after_its_client_disconnects(site: Site, path: str, gate: Gate) -> None:
    job_id, action = site.disconnected(path, gate)
    action.proceed()
    assert site.until(job_id, lambda state: state.progress == 50).status is Status.IN_PROGRESS
    assert action.release() == "returned"
    assert site.end(job_id).status is Status.COMPLETED


def test_the_server_keeps_serving(site: Site) -> None:
    assert site.run("/work/none").status is Status.COMPLETED


@pytest.mark.slow
def test_an_action_survives_daphne_killing_the_application_after_a_disconnect(tmp_path: Path, gate: Gate) -> None:
    kind = evolve(KINDS["daphne"], command=daphne("--application-close-timeout", "0"))
    with serving(kind, "starlette_app:app", tmp_path) as site:
        job_id, action = site.disconnected("/coroutine/hold", gate)
        wait_until(lambda: "took too long to shut down and was killed" in site.server.tail())
        assert action.release() == "returned"
        assert site.end(job_id).status is Status.COMPLETED


# --- Only Starlette -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def starlette_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(KINDS["uvicorn-h11"], "starlette_app:app", tmp_path_factory.mktemp("site")) as site:
        yield site


def test_an_error_that_passes_a_base_http_middleware_is_not_an_exception_group(starlette_site: Site) -> None:
    failed, raised = (starlette_site.run(f"/within/{name}", {"text": "enough"}) for name in ("fail", "raise"))
    assert (failed.status_text, raised.status_text) == ("enough", "ValueError: enough")
    page = starlette_site.page("/within/fail", {"text": "enough"})
    assert (page.status, page.text) == (500, "enough")


def test_background_tasks_after_the_response_are_part_of_the_action(starlette_site: Site) -> None:
    site = starlette_site
    state = site.run("/work/afterwards")
    assert (state.status, site.text(state.id)) == (Status.COMPLETED, "answeredafter the response")
    state = site.run("/work/afterwards", {"fail": 1})
    assert (state.status, state.progress, state.status_text) == (Status.FAILED, 80, "after the response")
