"""A view with Flask-Login's ``login_required``: an anonymous job fails, and its status text names the login page."""

from __future__ import annotations

import http.cookiejar
import threading
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import flask_login
import pytest
from flask import Flask

from backjob import JobState, Status
from backjob.flask import BackJob

WAIT = 60.0


class User:
    is_authenticated = is_active = True

    def __init__(self, name: str) -> None:
        self._name = name

    def get_id(self) -> str:
        return self._name


@pytest.mark.parametrize("as_current_user", [True, False], ids=["as its user", "anonymous"])
def test_the_redirect_to_the_login_page_fails_an_anonymous_job(
    make_app: Callable[..., Flask], serve: Callable[[Flask], AbstractContextManager[str]], as_current_user: bool
) -> None:
    app, ran = make_app(), threading.Event()
    manager: Any = flask_login.LoginManager(app)
    manager.login_view = "login"
    manager.user_loader(User)
    jobs = BackJob(app)

    def work() -> str:
        ran.set()
        return jobs.finish("worked")

    app.add_url_rule("/work", "work", flask_login.login_required(work))
    app.add_url_rule("/login", "login", lambda: "who are you?")
    app.add_url_rule("/sign-in", "sign-in", lambda: str(flask_login.login_user(User("Bo"))))
    app.add_url_rule("/start", "start", lambda: jobs.start("work", as_current_user=as_current_user))
    with serve(app) as base_url:
        state = run(base_url, jobs)
    if as_current_user:
        assert (state.status, state.status_text) == (Status.COMPLETED, "worked")
    else:
        assert state.status is Status.FAILED
        assert state.status_text.startswith("302 Found → /login")
    assert ran.is_set() is as_current_user


def run(base_url: str, jobs: BackJob) -> JobState:
    """Log in like a browser, and start the job from a page."""
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    browser = urllib.request.build_opener(cookies)
    with browser.open(f"{base_url}/sign-in", timeout=WAIT) as page:
        assert page.read() == b"True"
    with browser.open(f"{base_url}/start", timeout=WAIT) as page:
        return jobs.join(page.read().decode(), WAIT)
