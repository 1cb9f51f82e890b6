"""Slices of Flask views."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import flask
import pytest
from flask import Flask

from backjob import JobState, Status
from backjob.errors import JobExit
from backjob.flask import BackJob
from backjob.stores.memory import MemoryStore
from backjob.testing import immediate
from backjob.worker.running import current

Run = Callable[..., JobState]
seen: list[object] = []


@pytest.fixture
def jobs(app: Flask) -> BackJob:
    return BackJob(app, store=MemoryStore())


@pytest.fixture
def run(app: Flask, jobs: BackJob) -> Iterator[Run]:
    """``run(view, **options)``: run the view as the action of a job, slice after slice, and return the final state."""
    seen.clear()

    def run(view: Callable[[], str], **options: object) -> JobState:
        app.add_url_rule("/work", "work", view)
        with immediate(jobs, app), app.app_context():
            return jobs.status(jobs.start("/work", as_current_user=False, **options))  # type: ignore[arg-type]

    return run  # type: ignore[return-value]


def time_is_up() -> None:
    running = current.get()
    assert running is not None
    running.began -= 3600


def test_a_loop_continues_in_further_requests(run: Run, jobs: BackJob) -> None:
    def view() -> str:
        seen.append("request")
        for number in jobs.track(range(5), resume=True):
            seen.append(number)
            if number in (1, 3):
                time_is_up()
        return "done"

    assert run(view).status is Status.COMPLETED
    assert seen == ["request", 0, 1, "request", 2, 3, "request", 4]


@pytest.mark.parametrize("how", ["resume", "checkpoint"])
@pytest.mark.parametrize("mimetype", ["text/csv", "application/json"])
def test_a_streamed_file_or_result_of_which_later_slices_would_keep_a_part_is_refused(
    run: Run, jobs: BackJob, mimetype: str, how: str
) -> None:
    def rows() -> Iterator[str]:
        for number in jobs.track(range(5), resume=how == "resume"):
            yield f"{number}\n"
            if how == "checkpoint":
                jobs.checkpoint(number)

    state = run(lambda: flask.Response(rows(), mimetype=mimetype))
    assert (state.status, state.file, state.result) == (Status.FAILED, None, None)
    assert "pass that to finish(file=…)" in state.status_text


def test_a_streamed_text_continues_in_further_requests(run: Run, jobs: BackJob) -> None:
    def rows() -> Iterator[str]:
        for number in jobs.track(range(5), resume=True):
            yield f"{number}\n"
            time_is_up()

    state = run(lambda: flask.Response(rows(), mimetype="text/plain"))
    assert (state.status, len(state.history), state.status_text) == (Status.COMPLETED, 4, "0\n1\n2\n3\n4\n")


def test_after_request_functions_see_each_slice(app: Flask, run: Run, jobs: BackJob) -> None:
    @app.after_request
    def note(response: flask.Response) -> flask.Response:
        seen.append(response.status_code)
        return response

    def view() -> str:
        if jobs.cursor is None:
            jobs.continue_later("half")
        return "done"

    assert run(view).status is Status.COMPLETED
    assert seen == [202, 200]


def test_a_view_that_retries_sees_its_attempt_and_owner(run: Run, jobs: BackJob) -> None:
    def view() -> str:
        seen.append((jobs.attempt, jobs.owner))
        if jobs.attempt == 1:
            jobs.retry(3600, "not yet")
        return "done"

    state = run(view, retries=1, owner="ann")
    assert state.status is Status.COMPLETED
    assert seen == [(1, "ann"), (2, "ann")]


@pytest.mark.parametrize("is_handled", [False, True])
def test_an_error_while_leaving_fails_the_job_unless_the_application_handles_it(
    app: Flask, run: Run, jobs: BackJob, is_handled: bool
) -> None:
    if is_handled:
        app.errorhandler(RuntimeError)(lambda _error: ("handled", 500))

    def view() -> str:
        if jobs.cursor is None:
            try:
                jobs.continue_later("half")
            except JobExit as error:
                raise RuntimeError("cleaning up failed") from error
        return "done"

    state = run(view)
    assert state.status is (Status.COMPLETED if is_handled else Status.FAILED)
    if not is_handled:
        assert state.status_text == "RuntimeError: cleaning up failed"


def test_time_left_is_infinite_for_a_person(app: Flask, jobs: BackJob) -> None:
    app.add_url_rule("/left", "left", lambda: str(jobs.time_left))
    assert app.test_client().get("/left").text == "inf"
