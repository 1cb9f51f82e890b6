"""Jobs as the current user of Flask-Login, on a real server with sockets and threads."""

from __future__ import annotations

import http.cookiejar
import json
import threading
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import flask
import flask_login
import pytest
from cachelib import FileSystemCache
from flask import Flask
from flask_session import Session
from werkzeug.debug import DebuggedApplication
from werkzeug.middleware.proxy_fix import ProxyFix

from backjob import JobState, Status
from backjob.flask import BackJob

Serve = Callable[[Flask], AbstractContextManager[str]]
MakeApp = Callable[..., Flask]

WAIT = 60.0


class Browser:
    """Keeps cookies, and sends the same header fields with each request."""

    def __init__(self, base_url: str, **headers: str) -> None:
        self._base_url = base_url
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies)

    def get(self, path: str) -> str:
        request = urllib.request.Request(self._base_url + path, headers=self._headers)
        with self._opener.open(request, timeout=WAIT) as response:
            return str(response.read().decode())


class User:
    is_authenticated = is_active = True

    def __init__(self, name: str) -> None:
        self._name = name

    def get_id(self) -> str:
        return self._name


def with_login(app: Flask, protection: str) -> BackJob:
    """Add ``/login/name``, and ``/start``, which starts a job that needs a fresh login."""
    manager = flask_login.LoginManager(app)
    manager.session_protection = protection
    manager.user_loader(User)
    jobs = BackJob(app)

    @app.get("/login/<name>")
    def login(name: str) -> str:
        flask_login.login_user(User(name))
        return ""

    def work() -> str:
        return jobs.finish(f"for {flask_login.current_user.get_id()}")

    app.add_url_rule("/work", "work", flask_login.fresh_login_required(work))

    @app.get("/start")
    def start() -> dict[str, str]:
        job_id = jobs.start("work", as_current_user="anonymous" not in flask.request.args)
        return {"id": job_id, "url": jobs.status_url(job_id)}

    return jobs


@pytest.fixture
def run(make_app: MakeApp, serve: Serve) -> Callable[..., JobState]:
    """``run(protection)``: start a job as a logged-in user, and return the final state."""

    def run(protection: str, query: str = "", wrap: Callable[[Flask], None] | None = None, **headers: str) -> JobState:
        app = make_app()
        jobs = with_login(app, protection)
        if wrap is not None:
            wrap(app)
        with serve(app) as base_url:
            bo = Browser(base_url, User_Agent="Lynx/2.9", **headers)
            bo.get("/login/Bo")
            job_id = json.loads(bo.get(f"/start{query}"))["id"]
            state = jobs.join(job_id, WAIT)
            assert json.loads(bo.get(f"/backjob/{job_id}"))["owner"] == "Bo"
            return state

    return run


@pytest.mark.parametrize("protection", ["basic", "strong"])
def test_a_job_passes_session_protection_as_its_user(run: Callable[..., JobState], protection: str) -> None:
    state = run(protection)
    assert (state.status, state.status_text, state.owner) == (Status.COMPLETED, "for Bo", "Bo")


def test_a_job_passes_session_protection_behind_a_proxy(run: Callable[..., JobState]) -> None:
    assert run("strong", X_Forwarded_For="192.0.2.7", X_Forwarded_Proto="https").status_text == "for Bo"


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_a_job_passes_session_protection_with_proxy_fix(run: Callable[..., JobState], inside: bool) -> None:
    def wrap(app: Flask) -> None:
        site: Any = app.extensions["backjob"]
        outer: Any = app
        if inside:
            site._wsgi_app = ProxyFix(site._wsgi_app)
        else:
            outer.wsgi_app = ProxyFix(app.wsgi_app)

    assert run("strong", wrap=wrap, X_Forwarded_For="192.0.2.7").status_text == "for Bo"


def test_a_job_runs_under_the_debugger_of_flask_run(run: Callable[..., JobState]) -> None:
    def wrap(app: Flask) -> None:
        outer: Any = app
        outer.wsgi_app = DebuggedApplication(app.wsgi_app, evalex=True)

    assert run("strong", wrap=wrap).status_text == "for Bo"


def test_an_anonymous_job_runs_without_a_user_but_belongs_to_its_starter(run: Callable[..., JobState]) -> None:
    state = run("strong", query="?anonymous")
    assert (state.status, state.owner) == (Status.FAILED, "Bo")
    assert state.status_text.startswith("401 Unauthorized")


def test_a_visitor_who_is_not_logged_in_owns_no_job_but_sees_it_by_token(make_app: MakeApp, serve: Serve) -> None:
    app = make_app()
    jobs = with_login(app, "basic")
    with serve(app) as base_url:
        visitor = Browser(base_url)
        started = json.loads(visitor.get("/start"))
        state = jobs.join(started["id"], WAIT)
        assert (state.status, state.owner) == (Status.FAILED, None)
        assert json.loads(visitor.get(started["url"]))["status_text"] == state.status_text


def test_output_arrives_while_the_job_runs(make_app: MakeApp, serve: Serve) -> None:
    app, seen = make_app(), threading.Event()
    jobs = BackJob(app)

    @app.get("/work")
    def work() -> str:
        jobs.update(30, "Reading")
        return jobs.finish("Read" if seen.wait(WAIT) else "nothing read the status")

    app.add_url_rule("/start", "start", lambda: jobs.start("work"))
    with serve(app) as base_url:
        job_id = Browser(base_url).get("/start")
        texts = []
        for state in jobs.watch(job_id):
            texts.append((state.progress, state.status_text))
            if state.status_text == "Reading":
                seen.set()
    assert (30, "Reading") in texts
    assert texts[-1] == (100, "Read")


def test_a_job_keeps_what_pages_change_in_a_session_on_the_server(app: Flask, serve: Serve, tmp_path: Path) -> None:
    app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(str(tmp_path / "sessions")))
    Session(app)
    jobs = BackJob(app)
    has_begun, may_end = threading.Event(), threading.Event()

    @app.get("/cart/<item>")
    def cart(item: str) -> list[str]:
        items = flask.session["cart"] = [*flask.session.get("cart", []), item]
        return items

    @app.get("/start")
    def start() -> dict[str, str]:
        return {"id": jobs.start("work")}

    @app.get("/work")
    def work() -> str:
        has_begun.set()
        may_end.wait(WAIT)
        return jobs.finish()

    with serve(app) as base_url:
        bo = Browser(base_url)
        bo.get("/cart/apple")
        job_id = json.loads(bo.get("/start"))["id"]
        assert has_begun.wait(WAIT)
        bo.get("/cart/pear")
        may_end.set()
        with app.app_context():
            assert jobs.join(job_id, WAIT).status is Status.COMPLETED
        assert json.loads(bo.get("/cart/plum")) == ["apple", "pear", "plum"]
