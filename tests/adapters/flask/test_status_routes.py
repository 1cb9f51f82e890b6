"""The blueprint: access to jobs in Flask, and their URLs."""

from __future__ import annotations

import re
from collections.abc import Callable

import flask
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from backjob.flask import BackJob
from backjob.jobs import engine_of
from backjob.stores.memory import MemoryStore
from backjob.testing import immediate, recorded
from backjob.transports.sockets import SocketTransport

MakeApp = Callable[..., Flask]


@pytest.fixture
def jobs(app: Flask) -> BackJob:
    """Jobs of an application whose session contains the user's name; ``/start`` starts a job."""
    jobs = BackJob(app, store=MemoryStore(), owner=lambda request: flask.session.get("name"))

    @app.get("/login/<name>")
    def login(name: str) -> str:
        flask.session["name"] = name
        return ""

    @app.get("/work")
    def work() -> str:
        print("<b>output</b>")
        return jobs.finish("Done")

    app.add_url_rule("/start", "start", lambda: jobs.start("work"))
    return jobs


def visitor(app: Flask, name: str | None) -> FlaskClient:
    client = app.test_client()
    if name is not None:
        client.get(f"/login/{name}")
    return client


@pytest.fixture
def job_id(app: Flask, jobs: BackJob) -> str:
    """An ended job of Bo."""
    with immediate(jobs, app):
        return visitor(app, "Bo").get("/start").text


@pytest.fixture
def waiting(app: Flask, jobs: BackJob) -> str:
    """A job of Bo that is not delivered."""
    with app.app_context(), recorded(jobs):
        return visitor(app, "Bo").get("/start").text


def test_the_owner_sees_the_job_and_its_output(app: Flask, job_id: str) -> None:
    bo = visitor(app, "Bo")
    state = bo.get(f"/backjob/{job_id}").get_json()
    assert (state["id"], state["status_name"], state["status_text"], state["owner"]) == (
        job_id,
        "COMPLETED",
        "Done",
        "Bo",
    )
    response = bo.get(f"/backjob/{job_id}/output?offset=3")
    assert response.get_json()["text"] == "output</b>\n"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", ["Eve", None], ids=["another user", "anonymous"])
def test_others_get_the_404_of_an_unknown_job(app: Flask, job_id: str, name: str | None) -> None:
    other = visitor(app, name)
    known, unknown = other.get(f"/backjob/{job_id}"), other.get("/backjob/unknown")
    assert known.status_code == unknown.status_code == 404
    assert known.data == unknown.data


def test_a_token_gives_access_and_a_wrong_token_does_not(app: Flask, jobs: BackJob, job_id: str) -> None:
    anybody, url = visitor(app, None), jobs.status_url(job_id)
    assert anybody.get(url).get_json()["status_text"] == "Done"
    assert anybody.get(url[:-2]).status_code == 404
    assert anybody.get(f"{url}/nothing").status_code == 404


def test_a_browser_gets_a_page_that_loads_the_elements_script(app: Flask, jobs: BackJob, job_id: str) -> None:
    page = visitor(app, "Bo").get(f"/backjob/{job_id}", headers={"Accept": "text/html"}).text
    with app.test_request_context():
        script = flask.url_for("backjob.asset", name="progress.js")
    assert script == "/backjob/progress.js"
    assert script in page
    assert "&lt;b&gt;output" in page
    assert visitor(app, None).get(script).mimetype == "text/javascript"


def test_head_has_the_content_length_of_get_and_no_body(app: Flask, jobs: BackJob, job_id: str) -> None:
    url = jobs.status_url(job_id)
    get, head = (visitor(app, None).open(url, method=method) for method in ("GET", "HEAD"))
    assert head.data == b""
    assert head.headers["Content-Length"] == get.headers["Content-Length"] != "0"


def test_another_method_gets_a_405_with_the_allowed_methods(app: Flask, jobs: BackJob, job_id: str) -> None:
    response = visitor(app, None).put(jobs.status_url(job_id))
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD, DELETE")


@pytest.mark.parametrize(
    ("name", "headers", "expected"),
    [
        ("Bo", {"Origin": "http://localhost"}, 200),
        ("Bo", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("Bo", {"Origin": "http://evil.example"}, 403),
        ("Bo", {}, 403),
        ("Eve", {"Origin": "http://localhost"}, 404),
    ],
    ids=["owner", "owner, newer browser", "another site", "no origin", "another user"],
)
def test_only_the_owner_cancels_and_only_from_this_site(
    app: Flask, waiting: str, name: str, headers: dict[str, str], expected: int
) -> None:
    response = visitor(app, name).post(f"/backjob/{waiting}/cancel", headers=headers)
    assert response.status_code == expected
    state = visitor(app, "Bo").get(f"/backjob/{waiting}").get_json()
    assert (state["status_name"] == "CANCELLED") == (expected == 200)


@pytest.mark.parametrize("may_cancel", [True, False])
def test_a_token_cancels_only_with_the_right_to_cancel(
    app: Flask, jobs: BackJob, waiting: str, may_cancel: bool
) -> None:
    response = visitor(app, None).post(f"{jobs.status_url(waiting, cancel=may_cancel)}/cancel")
    assert response.status_code == (200 if may_cancel else 403)


def test_below_a_mount_urls_contain_it(app: Flask, jobs: BackJob) -> None:
    app.add_url_rule("/watch/<job_id>", "watch", jobs.status_url)
    site = DispatcherMiddleware(Flask("other"), {"/shop": app})
    client = Client(site)
    client.get("/shop/login/Bo")
    with immediate(jobs, site):
        job_id = client.get("/shop/start").text
    url = client.get(f"/shop/watch/{job_id}").text
    assert url.startswith(f"/shop/backjob/{job_id}.")
    assert client.get(url).get_json()["status_text"] == "Done"
    assert "/shop/backjob/progress.js" in client.get(url, headers={"Accept": "text/html"}).text


@pytest.mark.parametrize("prefix", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_a_forged_prefix_leads_to_no_other_host(app: Flask, jobs: BackJob, prefix: str) -> None:
    app.add_url_rule("/watch/<job_id>", "watch", jobs.status_url)
    client = Client(ProxyFix(app, x_prefix=1))
    with immediate(jobs, app):
        job_id = client.get("/start").text
    forged = {"X-Forwarded-Prefix": prefix}
    url = client.get(f"/watch/{job_id}", headers=forged).text
    assert re.match(r"/[^/\\]", url)
    path = f"/backjob/{url.rpartition('/')[2]}"
    page = client.get(path, headers={**forged, "Accept": "text/html"}).text
    links = re.findall(r'(?:href|src|action)="([^"]*)"', page)
    assert links
    assert all(re.match(r"/[^/\\]|data:", link) for link in links), links


def test_event_streams_are_served_if_they_are_enabled(make_app: MakeApp) -> None:
    for streams, status in ((None, 404), ("1", 200)):
        app = make_app(BACKJOB_STREAMS=streams)
        jobs = BackJob(app, store=MemoryStore(), transport=SocketTransport("http://127.0.0.1:9"))
        with app.app_context():
            job_id = jobs.start("/work", as_current_user=False, delay=100)
            address = f"{jobs.status_url(job_id)}/events"
            jobs.cancel(job_id)
        response = app.test_client().get(address)
        assert response.status_code == status
        assert (b"event: end\n" in response.data) == (status == 200)
        response.close()
        with app.app_context():
            assert engine_of(jobs).broadcast.count == 0


@pytest.mark.parametrize("path", ["/backjob/a%0Ab", "/backjob//a", "/backjob/%2F%2Fa/", "/backjob/a/b/c", "/backjob/ä"])
def test_an_unknown_path_gets_the_404_of_an_unknown_job(app: Flask, jobs: BackJob, path: str) -> None:
    client = app.test_client()
    response = client.get(path)
    assert (response.status_code, response.data) == (404, client.get("/backjob/unknown").data)
    assert response.json == {"error": "not found"}
