"""Jobs that run as their owner with Flask-Login: as the user whom the application's ``user_loader`` returns, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import flask
import flask_login
import pytest
from flask import Flask

from backjob import InvalidRequest, JobState, Status
from backjob.flask import BackJob
from backjob.testing import immediate

MakeApp = Callable[..., Flask]


class User:
    is_authenticated, is_anonymous = True, False

    def __init__(self, name: str, active: bool = True) -> None:
        self._name = name
        self.is_active = active

    def get_id(self) -> str:
        return self._name


class Shop:
    """An application with Flask-Login. ``users`` are those that its ``user_loader`` finds."""

    def __init__(self, app: Flask, **options: Any) -> None:
        self.app = app
        self.users: dict[str, User] = {"ann": User("ann")}
        self.acted: list[str | None] = []
        self.seen: list[str | None] = []
        self.manager: Any = flask_login.LoginManager(app)
        self.manager.user_loader(self.load)
        # Registered before backjob's own.
        app.before_request(lambda: self.seen.append(flask_login.current_user.get_id()))
        self.jobs = BackJob(app, **options)
        app.add_url_rule("/work", view_func=flask_login.login_required(self.work))
        app.add_url_rule("/open", "open", self.work)
        app.add_url_rule("/click", view_func=self.click)

    def load(self, name: str) -> User | None:
        return self.users.get(name)

    def work(self) -> str:
        self.acted.append(flask_login.current_user.get_id())
        return self.jobs.finish(result=[flask_login.current_user.get_id(), self.jobs.owner, [*flask.session]])

    def click(self) -> str:
        flask_login.login_user(self.users["ann"])
        return self.jobs.start("/work", as_owner=True)

    def state(self, path: str = "/work", **options: Any) -> JobState:
        """The state of a job that has run at once."""
        terms: Any = {"owner": "ann", "as_owner": True, "as_current_user": False, **options}
        with immediate(self.jobs, self.app), self.app.app_context():
            return self.jobs.status(self.jobs.start(path, **terms))


@pytest.fixture
def shop(make_app: MakeApp) -> Shop:
    return Shop(make_app())


def test_the_action_runs_as_its_owner_without_credentials_or_session(shop: Shop) -> None:
    with immediate(shop.jobs, shop.app):
        job_id = shop.app.test_client().get("/click").text
    with shop.app.app_context():
        state = shop.jobs.status(job_id)
        job = shop.jobs.store.get(job_id)
    assert (state.status, state.result) == (Status.COMPLETED, ["ann", "ann", []])
    assert shop.seen[-1] == "ann", "functions before the request see the owner too"
    assert job is not None
    assert (job.as_owner, job.held, job.sealed) == (True, False, None)


def test_the_owner_is_loaded_anew(shop: Shop) -> None:
    calls: list[str] = []
    load = shop.load

    def loading(name: str) -> User | None:
        calls.append(name)
        return load(name)

    shop.manager.user_loader(loading)
    assert shop.state().result == ["ann", "ann", []]
    assert calls == ["ann"]


@pytest.mark.parametrize("how", ["another context", "thread"])
def test_further_contexts_of_the_request_have_the_owner_too(shop: Shop, how: str) -> None:
    seen: list[str | None] = []

    def look() -> None:
        seen.append(flask_login.current_user.get_id())

    def view() -> str:
        if how == "another context":
            with shop.app.app_context():
                look()
        else:
            thread = threading.Thread(target=flask.copy_current_request_context(look))
            thread.start()
            thread.join()
        return "looked"

    shop.app.add_url_rule("/further", "further", view)
    assert shop.state("/further").status is Status.COMPLETED
    assert seen == ["ann"]
    shop.state("/further", as_owner=False)
    assert seen == ["ann", None]


def test_an_ordinary_job_runs_as_nobody(shop: Shop) -> None:
    state = shop.state("/open", as_owner=False)
    assert state.result == [None, "ann", []]


@pytest.mark.parametrize("owner", ["inactive", "deleted"])
def test_a_job_whose_owner_may_not_act_fails_at_once_and_its_action_does_not_run(shop: Shop, owner: str) -> None:
    shop.users = {"ann": User("ann", active=False)} if owner == "inactive" else {}
    state = shop.state(retries=3)
    assert (state.status, state.attempt, shop.acted, shop.seen) == (Status.FAILED, 1, [], [])
    assert ("not active" if owner == "inactive" else "no user") in state.status_text


def test_without_a_user_loader_the_owner_can_not_be_read(shop: Shop) -> None:
    shop.manager._user_callback = None
    shop.manager.request_loader(lambda _: None)
    state = shop.state()
    assert (state.status, shop.acted) == (Status.FAILED, [])


def test_a_loader_that_fails_is_the_runs_error_and_may_be_retried(shop: Shop) -> None:
    load, failures = shop.load, [OSError("no database")]

    def loading(name: str) -> User | None:
        if failures:
            raise failures.pop()
        return load(name)

    shop.manager.user_loader(loading)
    state = shop.state(retries=1)
    assert (state.status, state.result) == (Status.COMPLETED, ["ann", "ann", []])
    assert state.history[0]["reason"]


def test_it_needs_an_owner(shop: Shop) -> None:
    with pytest.raises(InvalidRequest, match="as_owner"):
        shop.state(owner=None)


def test_with_a_hook_for_owners_the_action_reads_the_owner_and_no_user_is_logged_in(make_app: MakeApp) -> None:
    """The hook's owners need not be ids of users: an account 1 is not the user 1."""
    shop = Shop(make_app(), owner=lambda _: "ann")
    assert shop.state("/open").result == [None, "ann", []]


def test_without_flask_login_the_action_reads_the_owner(app: Flask) -> None:
    jobs = BackJob(app)
    app.add_url_rule("/work", "work", lambda: jobs.finish(result=jobs.owner))
    with immediate(jobs, app), app.app_context():
        job_id = jobs.start("/work", owner="ann", as_owner=True, as_current_user=False)
        assert jobs.status(job_id).result == "ann"
