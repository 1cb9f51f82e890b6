"""On a real server, with sockets and threads: the current user, as Flask-Login sees them."""

from __future__ import annotations

import http.cookiejar
import json
import threading
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import flask
import flask_login
import pytest
from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from backjob import JobState, Status
from backjob.flask import BackJob

Serve = Callable[[Flask], AbstractContextManager[str]]
MakeApp = Callable[..., Flask]

WAIT = 20.0


class Browser:
    """Keeps cookies, and sends the same header fields with every request."""

    def __init__(self, base_url: str, **headers: str) -> None:
        self._base_url = base_url
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies)

    def get(self, path: str) -> str:
        request = urllib.request.Request(self._base_url + path, headers=self._headers)
        with self._opener.open(request, timeout=WAIT) as answer:
            return str(answer.read().decode())


class User:
    is_authenticated = is_active = True

    def __init__(self, name: str) -> None:
        self._name = name

    def get_id(self) -> str:
        return self._name


def with_login(app: Flask, protection: str) -> BackJob:
    """Users log in at ``/login/name``; ``/start`` starts a job that only a freshly logged-in user may run."""
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
    """``run(protection)``: the end of a job that a user who has logged in starts."""

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
def test_a_job_is_the_user_whom_session_protection_knows(run: Callable[..., JobState], protection: str) -> None:
    state = run(protection)
    assert (state.status, state.status_text, state.owner) == (Status.COMPLETED, "for Bo", "Bo")


def test_so_it_is_behind_a_proxy(run: Callable[..., JobState]) -> None:
    assert run("strong", X_Forwarded_For="192.0.2.7", X_Forwarded_Proto="https").status_text == "for Bo"


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_so_it_is_with_proxy_fix(run: Callable[..., JobState], inside: bool) -> None:
    def wrap(app: Flask) -> None:
        site: Any = app.extensions["backjob"]
        outer: Any = app
        if inside:
            site._wsgi_app = ProxyFix(site._wsgi_app)
        else:
            outer.wsgi_app = ProxyFix(app.wsgi_app)

    assert run("strong", wrap=wrap, X_Forwarded_For="192.0.2.7").status_text == "for Bo"


def test_an_anonymous_job_is_nobody_and_still_its_starters(run: Callable[..., JobState]) -> None:
    state = run("strong", query="?anonymous")
    assert (state.status, state.owner) == (Status.FAILED, "Bo")
    assert state.status_text.startswith("401 Unauthorized")


def test_who_is_not_logged_in_owns_nothing_and_watches_by_token(make_app: MakeApp, serve: Serve) -> None:
    app = make_app()
    jobs = with_login(app, "basic")
    with serve(app) as base_url:
        nobody = Browser(base_url)
        started = json.loads(nobody.get("/start"))
        state = jobs.join(started["id"], WAIT)
        assert (state.status, state.owner) == (Status.FAILED, None)
        assert json.loads(nobody.get(started["url"]))["status_text"] == state.status_text


def test_output_arrives_while_the_job_runs(make_app: MakeApp, serve: Serve) -> None:
    app, seen = make_app(), threading.Event()
    jobs = BackJob(app)

    @app.get("/work")
    def work() -> str:
        jobs.update(30, "Reading")
        return jobs.finish("Read" if seen.wait(WAIT) else "nobody looked")

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
