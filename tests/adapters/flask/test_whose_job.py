"""Whose job it is: visitors whose jobs merge, views that log a user in before they start a job, logins by header."""

from __future__ import annotations

import http.cookiejar
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import flask
import flask_login
import flask_session
import pytest
from cachelib import FileSystemCache
from flask import Flask, request
from werkzeug.test import TestResponse

from backjob import InvalidRequest, Status
from backjob.flask import BackJob
from backjob.testing import immediate, recorded

WAIT = 60.0
MakeApp = Callable[..., Flask]


# --- visitors whose jobs merge --------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["pending", "unfinished"])
@pytest.mark.parametrize("owner", ["", None])
@pytest.mark.parametrize("config", [{}, {"SESSION_COOKIE_NAME": "shop_session"}], ids=["default", "renamed"])
def test_a_visitors_double_click_merges_with_himself_only(
    make_app: MakeApp, merge: Any, owner: str | None, config: dict[str, str]
) -> None:
    app = make_app(**config)
    jobs = BackJob(app, owner=lambda _: owner)

    @app.route("/visit")
    def visit() -> str:
        flask.session["name"] = request.args["name"]
        return ""

    @app.route("/export")
    def export() -> str:
        return jobs.start("/work", merge=merge, delay=60)

    with recorded(jobs):
        ann, bob, stranger = app.test_client(), app.test_client(), app.test_client()
        ann.get("/visit?name=ann")
        bob.get("/visit?name=bob")
        anns, bobs = ann.get("/export").text, bob.get("/export").text
        assert anns != bobs
        assert (ann.get("/export").text, bob.get("/export").text) == (anns, bobs)
        assert len({anns, bobs, stranger.get("/export").text, stranger.get("/export").text}) == 4


# --- a view that logs the user in -----------------------------------------------------------------------------------


class User:
    is_authenticated = is_active = True

    def __init__(self, name: str) -> None:
        self._name = name

    def get_id(self) -> str:
        return self._name


@pytest.fixture(params=["in the cookie", "Flask-Session"])
def shop(request: pytest.FixtureRequest, make_app: MakeApp, tmp_path: Path) -> tuple[Flask, BackJob]:
    """An application with Flask-Login, whose sessions are in the cookie or in files."""
    app = make_app()
    if request.param == "Flask-Session":
        app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(str(tmp_path / "sessions")))
        flask_session.Session(app)
    manager: Any = flask_login.LoginManager(app)
    manager.session_protection = "strong"
    manager.user_loader(User)
    jobs = BackJob(app)

    @app.route("/work")
    def work() -> str:
        user = flask_login.current_user
        name = user.get_id() if user.is_authenticated else None
        return jobs.finish(result=[name, flask.session.get("cart")])

    @app.route("/sign-in/<name>")
    def sign_in(name: str) -> str:
        flask_login.login_user(User(name))
        return jobs.start("work")

    @app.route("/sign-out")
    def sign_out() -> str:
        flask_login.logout_user()
        return jobs.start("work")

    @app.route("/leave")
    def leave() -> str:
        flask.session.clear()
        return jobs.start("work")

    @app.route("/add/<thing>")
    def add(thing: str) -> str:
        flask.session["cart"] = [*flask.session.get("cart", []), thing]
        return jobs.start("work")

    @app.route("/look")
    def look() -> str:
        return jobs.start("work")

    return app, jobs


@pytest.fixture
def at_once(shop: tuple[Flask, BackJob]) -> Iterator[None]:
    app, jobs = shop
    with immediate(jobs, app):
        yield


@pytest.mark.usefixtures("at_once")
def test_the_job_gets_the_session_as_it_is_when_the_view_starts_it(shop: tuple[Flask, BackJob]) -> None:
    app, jobs = shop
    browser = app.test_client()

    def result(page: str) -> Any:
        state = jobs.status(browser.get(page).text)
        assert state.status is Status.COMPLETED
        return state.result

    assert result("/look") == [None, None]
    assert result("/add/tea") == [None, ["tea"]]
    assert result("/sign-in/ann") == ["ann", ["tea"]]
    assert result("/look") == ["ann", ["tea"]]
    assert result("/sign-in/bob") == ["bob", ["tea"]]
    assert result("/add/cup") == ["bob", ["tea", "cup"]]
    assert result("/sign-out") == [None, ["tea", "cup"]]
    assert result("/leave") == [None, None]
    assert result("/look") == [None, None]


def test_a_job_of_the_view_that_logs_in_runs_as_the_user_on_a_server(
    shop: tuple[Flask, BackJob], serve: Callable[[Flask], AbstractContextManager[str]]
) -> None:
    app, jobs = shop
    with serve(app) as base_url:
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        with browser.open(f"{base_url}/sign-in/ann", timeout=WAIT) as page:
            state = jobs.join(page.read().decode(), WAIT)
        assert (state.status, state.result, state.owner) == (Status.COMPLETED, ["ann", None], "ann")
        with browser.open(f"{base_url}/look", timeout=WAIT) as page:
            assert jobs.join(page.read().decode(), WAIT).result == ["ann", None]


# --- logins by header, language, large cookies ----------------------------------------------------------------------


def sight() -> list[Any]:
    return [
        request.headers.get("X-Api-Key"),
        request.headers.get("Remote-User"),
        request.remote_user,
        request.accept_languages.best,
        request.headers.get("X-Request-ID"),
        request.headers.get("Backjob-Credentials"),
    ]


@pytest.fixture
def api(make_app: MakeApp) -> Iterator[tuple[Flask, BackJob]]:
    app = make_app(BACKJOB_CREDENTIAL_HEADERS="Remote-User,X-Api-Key", BACKJOB_MAX_HEADERS=10_000)
    jobs = BackJob(app)

    @app.route("/work")
    def work() -> str:
        return jobs.finish(result=sight())

    @app.route("/start")
    def start() -> str:
        return jobs.start("work", as_current_user="anonymous" not in request.args)

    with immediate(jobs, app):
        yield app, jobs


def visit(app: Flask, path: str) -> TestResponse:
    fields = {"X-Api-Key": "key", "Remote-User": "ann", "Accept-Language": "de", "X-Request-ID": "r-1"}
    return app.test_client().get(path, headers=fields, environ_overrides={"REMOTE_USER": "the server's"})


def test_an_action_sees_the_login_and_the_language_of_the_page(api: tuple[Flask, BackJob]) -> None:
    app, jobs = api
    mine, anonymous = (jobs.status(visit(app, path).text).result for path in ("/start", "/start?anonymous"))
    assert mine == ["key", "ann", "the server's", "de", "r-1", None]
    assert anonymous == [None, None, None, "de", "r-1", None]


def test_large_cookies_fit_by_a_setting_whose_name_the_error_gives(api: tuple[Flask, BackJob]) -> None:
    app, jobs = api
    client = app.test_client(use_cookies=False)
    page = client.get("/start", headers={"Cookie": f"a={'x' * 9000}"})
    assert jobs.status(page.text).status is Status.COMPLETED
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(InvalidRequest, match="MAX_HEADERS=10000"):
        client.get("/start", headers={"Cookie": f"a={'x' * 10_000}"})
