"""Flask views as actions, and the same routes in a browser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
from flask import Flask
from flask.typing import ResponseReturnValue

from backjob import InvalidRequest, JobState, NoCurrentRequest, Status
from backjob.flask import BackJob
from backjob.model import JsonValue
from backjob.stores.memory import MemoryStore
from backjob.testing import immediate, recorded

MakeApp = Callable[..., Flask]
Run = Callable[..., JobState]


@pytest.fixture
def jobs(app: Flask) -> BackJob:
    return BackJob(app, store=MemoryStore())


@pytest.fixture
def run(app: Flask, jobs: BackJob) -> Run:
    """``run(view, **options)``: run the view as the action of a job, and return the final state."""

    def run(view: Callable[..., ResponseReturnValue], **options: Any) -> JobState:
        app.add_url_rule("/work", "work", view, methods=["GET", "POST", "CHICKEN"])
        with immediate(jobs, app), app.test_request_context():
            return jobs.status(jobs.start("/work", **options))

    return run


def test_a_view_runs_with_its_query_its_body_and_a_current_job(run: Run, jobs: BackJob) -> None:
    def view() -> str:
        request = flask.request
        seen: list[JsonValue] = [
            request.method,
            request.args.getlist("id"),
            list(request.args),
            request.form["name"],
            jobs.is_background,
        ]
        return jobs.finish("Done", result=[*seen, jobs.job_id])

    state = run(view, query={"id": [5, 6]}, method="CHICKEN", form={"name": "Bo"})
    assert (state.status, state.status_text) == (Status.COMPLETED, "Done")
    assert state.result == ["CHICKEN", ["5", "6"], ["id"], "Bo", True, state.id]


def test_a_view_may_return_the_result_of_finish(run: Run, jobs: BackJob) -> None:
    assert run(lambda: jobs.finish("And done", result={"href": "/x"})).result == {"href": "/x"}


def test_an_unhandled_exception_becomes_the_status_text(run: Run) -> None:
    def view() -> str:
        raise ValueError("no such report")

    state = run(view)
    assert (state.status, state.status_text) == (Status.FAILED, "ValueError: no such report")


def test_a_propagated_exception_becomes_the_status_text(app: Flask, run: Run) -> None:
    app.testing = True
    test_an_unhandled_exception_becomes_the_status_text(run)


def test_a_custom_error_page_does_not_hide_the_exception(app: Flask, run: Run) -> None:
    app.register_error_handler(500, lambda error: ("Sorry!", 500))
    test_an_unhandled_exception_becomes_the_status_text(run)


def test_an_exception_after_finish_still_fails_the_job(run: Run, jobs: BackJob) -> None:
    def view() -> str:
        jobs.finish("Done")
        raise KeyError("row")

    assert run(view).status_text == "KeyError: 'row'"


def test_abort_and_redirect_fail_with_their_status_line(run: Run) -> None:
    assert run(lambda: flask.abort(404)).status_text == "404 Not Found"


def test_a_redirect_fails_the_job_and_names_its_location(run: Run) -> None:
    assert run(lambda: flask.redirect("/login")).status_text == "302 Found → /login"


def test_fail_ends_a_view_that_catches_all_exceptions(run: Run, jobs: BackJob) -> None:
    def view() -> str:
        try:
            jobs.update(40)
            jobs.fail("Error occurred")
        except Exception:
            return "caught"

    state = run(view)
    assert (state.status, state.status_text, state.progress) == (Status.FAILED, "Error occurred", 40)


def test_printed_echoed_and_streamed_text_becomes_output(run: Run, jobs: BackJob) -> None:
    def view() -> flask.Response:
        print("printed")
        jobs.echo("echoed\n")

        def body() -> Iterator[str]:
            for step in jobs.track(range(2)):
                yield f"{flask.request.path} {step} ✓\n"
            print("within the body")

        return flask.Response(flask.stream_with_context(body()), mimetype="text/plain")

    state = run(view)
    assert state.status is Status.COMPLETED
    assert jobs.output(state.id).text == "printed\nechoed\n/work 0 ✓\n/work 1 ✓\nwithin the body\n"


def test_an_exception_in_a_streamed_body_becomes_the_status_text(run: Run) -> None:
    def body() -> Iterator[str]:
        yield "begun"
        raise OSError("disk full")

    assert run(lambda: flask.Response(body())).status_text == "OSError: disk full"


def test_a_job_can_start_another_job(app: Flask, run: Run, jobs: BackJob) -> None:
    app.add_url_rule("/inner", "inner", lambda: jobs.finish("inner"))
    state = run(lambda: jobs.finish(result=jobs.start("inner")))
    assert jobs.status(str(state.result)).status_text == "inner"


# --- the same route in a browser --------------------------------------------------------------------------------------


def test_the_route_of_an_action_works_in_a_browser(app: Flask, jobs: BackJob) -> None:
    @app.get("/work")
    def work() -> str:
        jobs.update(20, "Chugging along")
        rows = list(jobs.track(range(3)))
        jobs.finish("Done")
        return f"{rows} {jobs.is_background} {jobs.job_id}"

    assert app.test_client().get("/work").text == "[0, 1, 2] False None"


def test_fail_in_an_ordinary_request_answers_500(app: Flask, jobs: BackJob) -> None:
    @app.get("/work")
    def work() -> str:
        jobs.fail("Error occurred")

    response = app.test_client().get("/work")
    assert (response.status_code, response.text) == (500, "Error occurred")


def test_a_background_only_route_answers_an_ordinary_request_with_403(app: Flask, run: Run, jobs: BackJob) -> None:
    @jobs.background_only
    def view() -> str:
        return jobs.finish("ran")

    state = run(view)
    assert state.status_text == "ran"
    assert app.test_client().get("/work").status_code == 403


# --- starting by endpoint ---------------------------------------------------------------------------------------------


@pytest.fixture
def target(app: Flask, jobs: BackJob) -> Callable[..., str]:
    """``target(endpoint, values, **options)``: the target of the worker request."""

    def target(endpoint: str, values: dict[str, Any] | None = None, **options: Any) -> str:
        with recorded(jobs) as started:
            jobs.start(endpoint, values, **options)
        return started[0].request.target

    return target


def test_values_that_are_not_part_of_the_route_become_the_query(app: Flask, target: Callable[..., str]) -> None:
    app.add_url_rule("/reports/<int:number>/<name>", "report", lambda number, name: "")
    values = {"number": 5, "name": "a b ü", "page": [1, 2], "all": True, "none": None}
    with app.test_request_context():
        assert target("report", values) == "/reports/5/a%20b%20%C3%BC?page=1&page=2&all=true"


def test_outside_of_a_request_no_server_name_is_needed(app: Flask, target: Callable[..., str]) -> None:
    app.add_url_rule("/work", "work", lambda: "")
    assert target("work", {"id": 5}, as_current_user=False) == "/work?id=5"


@pytest.mark.parametrize("endpoint", ["reports.work", ".work"])
def test_a_relative_endpoint_belongs_to_the_current_blueprint(
    app: Flask, target: Callable[..., str], endpoint: str
) -> None:
    blueprint = flask.Blueprint("reports", __name__, url_prefix="/reports")
    blueprint.add_url_rule("/work", "work", lambda: "")
    blueprint.add_url_rule("/page", "page", lambda: target(endpoint))
    app.register_blueprint(blueprint)
    assert app.test_client().get("/reports/page").text == "/reports/work"


def test_url_defaults_apply_as_in_url_for(app: Flask, target: Callable[..., str]) -> None:
    app.add_url_rule("/<language>/work", "work", lambda language: "")
    app.url_defaults(lambda _endpoint, values: values.setdefault("language", "fa"))
    with app.test_request_context():
        assert target("work") == flask.url_for("work") == "/fa/work"


@pytest.mark.parametrize(
    ("endpoint", "values", "options"),
    [
        ("wrok", {}, {}),
        ("work", {}, {}),
        ("work", {"number": 1}, {"method": "POST"}),
        ("", {}, {}),
        ("http://evil.example/work", {}, {}),
        ("elsewhere", {}, {}),
    ],
    ids=["unknown", "value missing", "method not allowed", "empty", "URL", "another host"],
)
def test_an_endpoint_without_a_matching_route_is_refused(
    app: Flask, jobs: BackJob, endpoint: str, values: dict[str, Any], options: dict[str, Any]
) -> None:
    app.add_url_rule("/work/<int:number>", "work", lambda number: "")
    app.url_map.add(flask.Flask.url_rule_class("/x", endpoint="elsewhere", subdomain="other", methods=["GET"]))
    with immediate(jobs, app), app.test_request_context(), pytest.raises(InvalidRequest, match=r"^path: "):
        jobs.start(endpoint, values, **options)
    assert jobs.find() == []


@pytest.mark.parametrize("options", [{"number": 3}, {"kwargs": {"number": 3}}])
def test_values_that_are_passed_as_arguments_are_refused_by_name(
    app: Flask, jobs: BackJob, options: dict[str, Any]
) -> None:
    app.add_url_rule("/work/<int:number>", "work", lambda number: "")
    with app.test_request_context(), pytest.raises(TypeError, match=rf"'{next(iter(options))}'.* query"):
        jobs.start("work", **options)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("/app/page", "/app/work"), ("/page", "/work"), ("/application/page", "/work"), (None, "/app/work")],
    ids=["mounted", "prefix stripped by a proxy", "stripped, alike", "server shows no raw path"],
)
def test_a_mount_is_part_of_the_path_if_the_server_sees_it(
    app: Flask, target: Callable[..., str], raw: str | None, expected: str
) -> None:
    app.add_url_rule("/work", "work", lambda: "")
    environ = {"SCRIPT_NAME": "/app", "PATH_INFO": "/page", "REQUEST_URI": raw or "", "RAW_URI": raw or ""}
    with app.test_request_context(environ_overrides=environ):
        assert target("work") == expected


async def _astart(jobs: BackJob) -> str:
    return await jobs.astart("work", {"number": 7})


def test_astart_accepts_endpoints(app: Flask, jobs: BackJob) -> None:
    app.add_url_rule("/work/<int:number>", "work", lambda number: jobs.finish(str(number)))
    with immediate(jobs, app), app.test_request_context():
        assert jobs.status(asyncio.run(_astart(jobs))).status_text == "7"


# --- around a request -------------------------------------------------------------------------------------------------


def test_start_in_a_test_request_context_passes_the_credentials_on(run: Run, jobs: BackJob, app: Flask) -> None:
    app.add_url_rule("/who", "who", lambda: jobs.finish(flask.request.cookies["name"]))
    with immediate(jobs, app), app.test_request_context(headers={"Cookie": "name=Bo", "User-Agent": "lynx"}):
        assert jobs.status(jobs.start("who")).status_text == "Bo"


def test_outside_of_a_request_there_is_no_current_user(app: Flask, jobs: BackJob) -> None:
    app.add_url_rule("/work", "work", lambda: "")
    with immediate(jobs, app), app.app_context(), pytest.raises(NoCurrentRequest, match="as_current_user=False"):
        jobs.start("work")


def test_the_owner_hook_gets_the_flask_request(app: Flask) -> None:
    jobs = BackJob(app, store=MemoryStore(), owner=lambda request: request.cookies.get("name"))
    app.add_url_rule("/work", "work", lambda: "")
    with immediate(jobs, app), app.test_request_context(headers={"Cookie": "name=Bo"}):
        assert jobs.status(jobs.start("work")).owner == "Bo"
        assert jobs.status(jobs.start("work", owner=None)).owner is None


# --- after_request --------------------------------------------------------------------------------------------------


def noting(seen: list[int]) -> Callable[[flask.Response], flask.Response]:
    """Return an ``after_request`` function that notes the status of each response."""

    def note(response: flask.Response) -> flask.Response:
        seen.append(response.status_code)
        return response

    return note


@pytest.mark.parametrize("hook", ["view", "before_request"])
def test_after_request_functions_see_the_response_to_a_visitor_of_a_background_only_route(
    app: Flask, jobs: BackJob, hook: str
) -> None:
    seen: list[int] = []
    guarded = jobs.background_only(lambda: "ran")
    app.add_url_rule("/work", "work", guarded if hook == "view" else lambda: "ran")
    if hook == "before_request":
        app.before_request(guarded)
    app.after_request(noting(seen))
    answer = app.test_client().get("/work")
    assert (answer.status_code, answer.text) == (403, "this route runs only as a background job")
    assert seen == [403]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_after_request_functions_see_the_response_of_a_job_that_fails(
    app: Flask, jobs: BackJob, run: Run, is_async: bool
) -> None:
    seen: list[int] = []
    app.after_request(noting(seen))

    async def view() -> str:
        jobs.fail("no paper")

    state = run(view if is_async else lambda: jobs.fail("no paper"))
    assert (state.status, state.status_text, seen) == (Status.FAILED, "no paper", [500])
