"""A job and pages that write to the same session: Flask-Session, Flask's own cookie, and an interface of the site's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import flask
import pytest
from cachelib import FileSystemCache
from flask import Flask
from flask.sessions import SecureCookieSession, SessionInterface, SessionMixin
from flask_session import Session

from backjob import JobState, Status
from backjob.flask import BackJob
from backjob.stores.memory import MemoryStore
from backjob.testing import immediate


def clear() -> None:
    flask.session.clear()


MakeApp = Callable[..., Flask]
View = Callable[[], Any]

BEFORE = {"cart": [1], "user": "Bo", "seen": 1}


class OwnSessions(SessionInterface):
    """Keeps sessions in a dict, and saves the whole session after each request, whether it changed or not."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}

    def open_session(self, app: Flask, request: flask.Request) -> SessionMixin:
        return SecureCookieSession(deepcopy(self.stored.get(request.cookies.get("own", ""), {})))

    def save_session(self, app: Flask, session: SessionMixin, response: flask.Response) -> None:
        key = flask.request.cookies.get("own", "bo")
        if session:
            self.stored[key] = deepcopy(dict(session))
        else:
            self.stored.pop(key, None)
        response.set_cookie("own", key)


class CachedSessions(OwnSessions):
    """Reads a session once in an application context, as an identity map of SQLAlchemy does."""

    def open_session(self, app: Flask, request: flask.Request) -> SessionMixin:
        if "read" not in flask.g:
            flask.g.read = dict(super().open_session(app, request))
        return SecureCookieSession(flask.g.read)


def _flask_session(app: Flask, directory: Path, *, refresh: bool) -> None:
    app.config["SESSION_REFRESH_EACH_REQUEST"] = refresh
    app.config["SESSION_TYPE"] = "cachelib"
    app.config["SESSION_CACHELIB"] = FileSystemCache(str(directory / "sessions"))
    Session(app)


def _own(app: Flask, _directory: Path) -> None:
    app.session_interface = OwnSessions()


def _cached(app: Flask, _directory: Path) -> None:
    app.session_interface = CachedSessions()


SERVER_SIDE: dict[str, Callable[[Flask, Path], None]] = {
    "flask-session": lambda app, directory: _flask_session(app, directory, refresh=True),
    "flask-session-unrefreshed": lambda app, directory: _flask_session(app, directory, refresh=False),
    "own": _own,
    "own-cached": _cached,
}


class Shop:
    """An application with sessions, the browser of a user, and a job as that user."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.jobs = BackJob(app, store=MemoryStore())
        self.browser = app.test_client()
        self._views: dict[str, View] = {}

        @app.get("/<name>")
        def view(name: str) -> str:
            self._views[name]()
            return ""

    def view(self, name: str, view: View) -> None:
        """Have the route with this name run the view."""
        self._views[name] = view

    def page(self, view: View) -> None:
        """Let the browser request a page that runs this view."""
        self._views["page"] = view
        assert self.browser.get("/page").status_code == 200

    def job(self, act: View, *, meanwhile: View = bool) -> JobState:
        """Run a job as the user, who requests a page while it runs."""

        def work() -> None:
            with ThreadPoolExecutor(1) as elsewhere:
                elsewhere.submit(self.page, meanwhile).result()
            act()

        self._views["work"] = work
        cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies())}
        with immediate(self.jobs, self.app), self.app.test_request_context(headers=cookies):
            return self.jobs.status(self.jobs.start("/work"))

    def session(self) -> dict[str, Any]:
        """The session that the user's next page finds."""
        seen: dict[str, Any] = {}
        self.page(lambda: seen.update(flask.session))
        return {name: value for name, value in seen.items() if name != "_permanent"}

    def _cookies(self) -> Iterator[tuple[str, str]]:
        for name in (self.app.config["SESSION_COOKIE_NAME"], "own"):
            cookie = self.browser.get_cookie(name)
            if cookie is not None:
                yield name, cookie.value


@pytest.fixture(params=SERVER_SIDE)
def shop(request: pytest.FixtureRequest, app: Flask, tmp_path: Path) -> Shop:
    """A shop with each kind of sessions on the server."""
    SERVER_SIDE[request.param](app, tmp_path)
    return Shop(app)


def test_a_job_that_does_not_touch_the_session_keeps_the_changes_of_pages(shop: Shop) -> None:
    shop.page(lambda: flask.session.update(BEFORE))
    assert shop.job(bool, meanwhile=lambda: flask.session.update(cart=[1, 2])).status is Status.COMPLETED
    assert shop.session() == {**BEFORE, "cart": [1, 2]}


@pytest.mark.parametrize("act", [bool, lambda: flask.session.update(seen=2)], ids=["untouched", "changed"])
def test_a_logout_during_a_job_lasts(shop: Shop, act: View) -> None:
    shop.page(lambda: flask.session.update(BEFORE))
    assert shop.job(act, meanwhile=clear).status is Status.COMPLETED
    assert shop.session() == {}


def test_a_job_and_a_page_may_change_different_keys(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.page(lambda: flask.session.update(BEFORE))

    def act() -> None:
        flask.session["seen"] += 1
        flask.session["cart"].append(7)
        del flask.session["user"]

    shop.job(act, meanwhile=lambda: flask.session.update(page=1))
    assert shop.session() == {"cart": [1, 7], "seen": 2, "page": 1}
    assert not caplog.records


def test_a_job_that_starts_another_one_saves_only_its_changes_too(shop: Shop) -> None:
    shop.page(lambda: flask.session.update(BEFORE))
    seen: list[dict[str, Any]] = []
    shop.view("next", lambda: seen.append(dict(flask.session)))

    def act() -> None:
        flask.session["seen"] = 2
        shop.jobs.start("/next")
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(shop.page, lambda: flask.session.update(seen=3)).result()

    assert shop.job(act, meanwhile=lambda: flask.session.update(cart=[])).status is Status.COMPLETED
    if not isinstance(shop.app.session_interface, CachedSessions):  # here the next job shares the application context
        assert [(one["seen"], one["cart"]) for one in seen] == [(2, [])]
    assert shop.session() == {**BEFORE, "cart": [], "seen": 3}


def test_a_job_that_clears_the_session_ends_it(shop: Shop) -> None:
    shop.page(lambda: flask.session.update(BEFORE))
    shop.job(clear)
    assert shop.session() == {}


def test_a_job_that_fails_changes_the_session_as_a_page_would(shop: Shop) -> None:
    shop.page(lambda: flask.session.update(BEFORE))

    def act() -> None:
        flask.session["seen"] = 2
        shop.jobs.fail("no paper")

    state = shop.job(act, meanwhile=lambda: flask.session.update(page=1))
    assert (state.status, state.status_text) == (Status.FAILED, "no paper")
    assert shop.session() == {**BEFORE, "seen": 2, "page": 1}


def _cookies(app: Flask, _directory: Path) -> None:
    """Flask's default: the session is in its cookie."""


@pytest.mark.parametrize("kind", [_cookies, _own], ids=["cookie", "new"])
def test_a_change_that_no_browser_can_see_is_logged(
    app: Flask, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Callable[[Flask, Path], None]
) -> None:
    kind(app, tmp_path)
    shop = Shop(app)
    if kind is _cookies:
        shop.page(lambda: flask.session.update(BEFORE))
    before = shop.session()
    state = shop.job(lambda: flask.session.update(seen="a secret"))
    assert shop.session() == before
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert state.id in record.getMessage()
    assert "(seen)" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_a_cookie_session_that_the_job_only_reads_is_not_mentioned(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(app)
    shop.page(lambda: flask.session.update(BEFORE))
    assert shop.job(lambda: flask.session["cart"]).status is Status.COMPLETED
    assert not caplog.records


def test_the_interface_keeps_its_class_and_attributes(app: Flask) -> None:
    shop = Shop(app)
    app.session_interface = interface = OwnSessions()
    shop.job(bool)
    app.session_interface.salt = "salt"  # type: ignore[attr-defined]
    assert isinstance(app.session_interface, OwnSessions)
    assert (app.session_interface.stored is interface.stored, interface.salt) == (True, "salt")  # type: ignore[attr-defined]
