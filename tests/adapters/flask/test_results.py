"""What a Flask view returns, as the result of its job."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from flask import Flask
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Conflict

from backjob import JobState, Status
from backjob.files import MemoryFiles
from backjob.flask import BackJob
from backjob.jobs import engine_of
from backjob.stores.memory import MemoryStore
from backjob.testing import immediate

MakeApp = Callable[..., Flask]
Run = Callable[..., JobState]


@pytest.fixture
def jobs(app: Flask) -> BackJob:
    return BackJob(app, store=MemoryStore())


@pytest.fixture
def run(app: Flask, jobs: BackJob) -> Run:
    def run(view: Callable[..., ResponseReturnValue], **options: Any) -> JobState:
        app.add_url_rule("/export", "export", view, methods=["GET"])
        with immediate(jobs, app), app.test_request_context():
            return jobs.status(jobs.start("/export", **options))

    return run


def output(app: Flask, jobs: BackJob, state: JobState) -> str:
    with app.app_context():
        return jobs.output(state.id).text


def test_a_dictionary_is_the_result(run: Run) -> None:
    state = run(lambda: {"rows": 50})
    assert (state.status, state.result, state.status_text) == (Status.COMPLETED, {"rows": 50}, "")


def test_a_text_is_output_and_the_status_text(app: Flask, run: Run, jobs: BackJob) -> None:
    state = run(lambda: "Exported 50 rows")
    assert (state.status, state.status_text) == (Status.COMPLETED, "Exported 50 rows")
    assert output(app, jobs, state) == "Exported 50 rows"


@pytest.mark.parametrize("leave", ["continue_later", "retry"])
def test_the_answer_to_an_exit_is_no_output(app: Flask, run: Run, jobs: BackJob, leave: str) -> None:
    def view() -> str:
        print("first" if (run_number := len(seen)) == 0 else "second")
        seen.append(run_number)
        if run_number == 0:
            _ = jobs.continue_later(1) if leave == "continue_later" else jobs.retry(delay=0)
        return "done"

    seen: list[int] = []
    state = run(view, as_current_user=False, retries=1)
    assert (state.status, output(app, jobs, state)) == (Status.COMPLETED, "first\nsecond\ndone")


def test_a_template_is_no_output(app: Flask, run: Run, jobs: BackJob) -> None:
    state = run(lambda: flask.render_template_string("<h1>Exported</h1> {{ 50 }} rows"))
    assert (state.status, output(app, jobs, state)) == (Status.COMPLETED, "")


def test_a_generator_is_output_as_it_comes(app: Flask, run: Run, jobs: BackJob) -> None:
    def rows() -> Iterator[str]:
        for number in range(3):
            print(f"printed {number}")
            yield f"row {number}\n"

    state = run(lambda: flask.Response(flask.stream_with_context(rows())))
    assert output(app, jobs, state) == "".join(f"printed {number}\nrow {number}\n" for number in range(3))


def test_send_file_is_the_jobs_file_and_its_owner_downloads_it(app: Flask, run: Run, jobs: BackJob) -> None:
    state = run(
        lambda: flask.send_file(io.BytesIO(b"a,b\n"), "text/csv", as_attachment=True, download_name="Übersicht.csv")
    )
    assert state.file == {"name": "Übersicht.csv", "type": "text/csv; charset=utf-8", "size": 4}
    with app.app_context():
        url = f"{jobs.status_url(state.id)}/file"
    for method in ("GET", "HEAD"):
        with app.test_client().open(url, method=method) as response:
            assert (response.status_code, response.headers["Content-Length"]) == (200, "4")
            assert response.data == (b"a,b\n" if method == "GET" else b"")
            assert "filename*=UTF-8''%C3%9Cbersicht.csv" in response.headers["Content-Disposition"]


def test_x_sendfile_fails_the_job_and_says_why(app: Flask, run: Run, tmp_path: Path) -> None:
    app.config["USE_X_SENDFILE"] = True
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n")
    state = run(lambda: flask.send_file(path, as_attachment=True))
    assert state.status is Status.FAILED
    assert "x-sendfile" in state.status_text


def test_finish_keeps_a_file_beside_the_database(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(BACKJOB_STORE=f"sqlite:///{tmp_path / 'jobs.db'}")
    jobs = BackJob(app)
    app.add_url_rule("/export", "export", lambda: jobs.finish("Done", file=b"a,b\n", name="rows.csv"))
    with immediate(jobs, app), app.test_request_context():
        state = jobs.status(jobs.start("export"))
    assert state.file == {"name": "rows.csv", "type": "text/csv", "size": 4}
    [path] = (tmp_path / "jobs.db.files" / state.id).iterdir()
    assert path.read_bytes() == b"a,b\n"


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (lambda: flask.abort(404), "404 Not Found"),
        (lambda: flask.abort(404, "No such customer"), "404 Not Found: No such customer"),
        (lambda: ("Name is missing", 400), "400 Bad Request: Name is missing"),
        (lambda: ({"error": "Out of credit"}, 402), "402 Payment Required: Out of credit"),
    ],
)
def test_an_error_keeps_its_message(run: Run, view: Any, text: str) -> None:
    state = run(view)
    assert (state.status, state.status_text, state.error) == (Status.FAILED, text, None)


def test_an_http_exception_keeps_its_description(run: Run) -> None:
    def view() -> str:
        raise Conflict("The invoice is locked & paid")

    assert run(view).status_text == "409 Conflict: The invoice is locked & paid"


def crash() -> str:
    raise ValueError("secret")


@pytest.mark.parametrize(("config", "debug"), [({}, False), ({}, True), ({"BACKJOB_SHOW_ERRORS": True}, False)])
def test_visitors_see_an_exception_only_while_debugging(make_app: MakeApp, config: dict[str, Any], debug: bool) -> None:
    app = make_app(**config)
    app.debug = debug
    app.config["PROPAGATE_EXCEPTIONS"] = False
    jobs = BackJob(app, store=MemoryStore())
    app.add_url_rule("/export", "export", crash)
    with immediate(jobs, app), app.test_request_context():
        job_id = jobs.start("export")
        url = jobs.status_url(job_id)
    shown = app.test_client().get(url, headers={"Accept": "application/json"}).json
    assert shown is not None
    is_shown = debug or bool(config)
    assert shown["status_text"] == ("ValueError: secret" if is_shown else f"internal error (job {job_id})")
    with app.app_context():
        assert jobs.status(job_id).status_text == "ValueError: secret"
        assert engine_of(jobs).show_errors is is_shown


def test_a_place_for_files_may_be_an_argument_or_a_setting(make_app: MakeApp) -> None:
    files = MemoryFiles()
    app, other = make_app("one"), make_app("two", BACKJOB_FILES=files)
    for each, jobs in (
        (app, BackJob(app, store=MemoryStore(), files=files)),
        (other, BackJob(other, store=MemoryStore())),
    ):
        with each.app_context():
            assert engine_of(jobs).files is files
