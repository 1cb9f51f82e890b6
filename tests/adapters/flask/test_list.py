"""Flask: the list of jobs, deleting and running again, and who may do that."""

from __future__ import annotations

import re
from collections.abc import Callable

import flask
import pytest
from flask import Flask
from flask.testing import FlaskClient

from backjob.flask import BackJob
from backjob.stores.memory import MemoryStore
from backjob.testing import recorded

MakeApp = Callable[..., Flask]
SAME_ORIGIN = {"Origin": "http://localhost"}
HTML = {"Accept": "text/html"}


@pytest.fixture
def jobs(app: Flask) -> BackJob:
    """Jobs of an application whose session contains the user's name. Al may manage all jobs, Sue may see them."""

    async def may_see_all(request: flask.Request) -> bool:
        assert request.path.startswith("/backjob")  # Flask's own request
        return flask.session.get("name") == "Sue"

    jobs = BackJob(
        app,
        store=MemoryStore(),
        owner=lambda request: flask.session.get("name"),
        may_see_all=may_see_all,
        may_manage_all=lambda request: flask.session.get("name") == "Al",
    )

    @app.get("/login/<name>")
    def login(name: str) -> str:
        flask.session["name"] = name
        return ""

    app.add_url_rule("/work", "work", lambda: "done")
    app.add_url_rule("/start", "start", lambda: jobs.start("/work", title="Invoices", keep_request=True))
    return jobs


def visitor(app: Flask, name: str | None) -> FlaskClient:
    client = app.test_client()
    if name is not None:
        client.get(f"/login/{name}")
    return client


@pytest.fixture
def job_id(app: Flask, jobs: BackJob) -> str:
    """A job of Bo that was cancelled."""
    with app.app_context(), recorded(jobs):
        job_id = visitor(app, "Bo").get("/start").text
        jobs.cancel(job_id)
    return job_id


@pytest.mark.parametrize(("name", "count"), [("Bo", 1), ("Eve", 0), (None, 0), ("Sue", 1), ("Al", 1)])
def test_who_sees_the_job_in_the_list(app: Flask, job_id: str, name: str | None, count: int) -> None:
    client = visitor(app, name)
    listed = client.get("/backjob/").get_json()["jobs"]
    assert [job["id"] for job in listed] == [job_id] * count
    assert client.get("/backjob/", headers=HTML).text.count("Invoices</a>") == count
    redirect = client.get("/backjob?q=a")
    assert (redirect.status_code, redirect.headers["Location"]) == (307, "/backjob/?q=a")


def test_the_lists_url_can_be_built(app: Flask, jobs: BackJob) -> None:
    with app.test_request_context():
        assert flask.url_for("backjob.list") == "/backjob/"


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (("Bo", SAME_ORIGIN), 200),
        (("Al", SAME_ORIGIN), 200),
        (("Bo", {}), 403),
        (("Bo", {"Origin": "http://evil.example"}), 403),
        (("Bo", {"Authorization": "Bearer a"}), 403),  # with the cookie of Bo's session
        (("Sue", SAME_ORIGIN), 403),
        (("Eve", SAME_ORIGIN), 404),
        ((None, SAME_ORIGIN), 404),
    ],
)
def test_who_deletes_a_job(
    app: Flask, jobs: BackJob, job_id: str, who: tuple[str | None, dict[str, str]], expected: int
) -> None:
    name, headers = who
    assert visitor(app, name).delete(f"/backjob/{job_id}", headers=headers).status_code == expected
    with app.app_context():
        assert jobs.exists(job_id) == (expected != 200)


def test_the_forms_of_the_list_work_without_any_statement_of_the_browser(
    app: Flask, jobs: BackJob, job_id: str
) -> None:
    bo = visitor(app, "Bo")
    page = bo.get("/backjob/?status=cancelled", headers=HTML).text
    again, delete = (
        re.findall(rf'action="([^"]*/{leaf}[^"]*)"', page)[0].replace("&amp;", "&") for leaf in ("run_again", "delete")
    )
    with app.app_context(), recorded(jobs) as started:
        response = bo.post(again, headers={**HTML, "Origin": "null"})
        location = f"/backjob/{started[0].job_id}?back=%2Fbackjob%2F%3Fstatus%3Dcancelled"
        assert (response.status_code, response.headers["Location"]) == (303, location)
    assert (started[0].owner, started[0].as_current_user) == ("Bo", True)
    response = bo.post(delete, headers={**HTML, "Origin": "null"})
    assert (response.status_code, response.headers["Location"]) == (303, "/backjob/?status=cancelled")


def test_a_page_of_a_trusted_origin_acts_with_the_users_cookie(make_app: MakeApp) -> None:
    app = make_app(BACKJOB_TRUSTED_ORIGINS="https://app.example", BACKJOB_PUBLIC_URL="https://shop.example")
    jobs = BackJob(app, store=MemoryStore(), owner=lambda request: "Bo")
    with app.test_request_context(), recorded(jobs):
        job_id = jobs.start("/work", as_current_user=False)
    client = app.test_client()
    headers = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    asked = client.options(f"/backjob/{job_id}", headers={**headers, "Access-Control-Request-Method": "DELETE"})
    assert (asked.status_code, asked.headers["Access-Control-Allow-Origin"]) == (200, "https://app.example")
    state = client.get(f"/backjob/{job_id}?absolute=1", headers=headers)
    assert state.headers["Access-Control-Allow-Credentials"] == "true"
    assert state.get_json()["links"]["self"].startswith(f"https://shop.example/backjob/{job_id}.v")
    evil = {**headers, "Origin": "https://evil.example"}
    assert client.delete(f"/backjob/{job_id}", headers=evil).status_code == 403
    assert client.delete(f"/backjob/{job_id}", headers=headers).status_code == 200
