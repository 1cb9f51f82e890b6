"""Two applications with different keys on one store: neither runs, shows nor ends a job of the other one."""

from __future__ import annotations

import json
import threading
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import flask
import pytest
from flask import Flask

from backjob import Status
from backjob.errors import JobNotFound
from backjob.flask import BackJob
from backjob.jobs import engine_of
from tests.adapters.flask.test_server import WAIT, Browser
from tests.shared_stores import BY_NAME

Serve = Callable[[Flask], AbstractContextManager[str]]
MakeApp = Callable[..., Flask]

KEYS = {"a": "Hq7vX2mZ9tB4kW8rN1cJ6yL3pD5sF0gA", "b": "Tz5nQ8wK3xR7bM1vC9fJ2hY6dL4gS0pE"}
NOWHERE = "http://127.0.0.1:9"
"""Nothing answers there, so jobs wait."""


@pytest.fixture(params=["Redis", "PostgreSQL"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with BY_NAME[request.param].place(tmp_path) as url:
        yield url


@pytest.fixture
def make(make_app: MakeApp, url: str) -> Callable[..., tuple[Flask, BackJob]]:
    """``make("a")``: one process of an application on the shared store, which notes what it runs."""

    def make(name: str, **config: Any) -> tuple[Flask, BackJob]:
        app = make_app(name, SECRET_KEY=KEYS[name], BACKJOB_STORE=url, **config)
        jobs = BackJob(app, owner=lambda request: flask.session.get("user"))
        app.config["RAN"] = []

        @app.get("/login/<user>")
        def login(user: str) -> str:
            flask.session["user"] = user
            return ""

        @app.get("/start")
        def start() -> list[str]:
            return [jobs.start("work", as_current_user=False) for _ in range(3)]

        @app.get("/work")
        def work() -> str:
            app.config["RAN"].append(name)
            print(f"of {name}")
            return jobs.finish(f"by {name}")

        return app, jobs

    return make


def note_polls(jobs: BackJob) -> threading.Event:
    """Return an event that is set when the monitor has asked the store for due jobs."""
    own: Any = engine_of(jobs).own_jobs
    polled = threading.Event()
    take_due = own.take_due

    def noted(*arguments: Any, **named: Any) -> Any:
        taken = take_due(*arguments, **named)
        polled.set()
        return taken

    own.take_due = noted
    return polled


@pytest.mark.services
def test_jobs_wait_for_their_own_application_and_no_other_one_sees_them(
    make: Callable[..., tuple[Flask, BackJob]], serve: Serve
) -> None:
    a_app, _ = make("a", BACKJOB_BASE_URL=NOWHERE)
    with serve(a_app) as base_url:
        user = Browser(base_url)
        user.get("/login/5")
        waiting = json.loads(user.get("/start"))

    b_app, b = make("b")
    polled = note_polls(b)
    with serve(b_app) as base_url:
        user = Browser(base_url)
        user.get("/login/5")
        own = json.loads(user.get("/start"))
        assert polled.wait(WAIT)
        with b_app.app_context():
            assert [b.join(job_id, WAIT).status_text for job_id in own] == ["by b"] * 3
            assert {state.id for state in b.find(owner="5")} == set(own)
            assert not any(b.exists(job_id) for job_id in waiting)
            for job_id in waiting:
                for call in (b.status, b.output, b.cancel):
                    with pytest.raises(JobNotFound):
                        call(job_id)
        for job_id in waiting:
            for path in ("", "/output", "/events"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    user.get(f"/backjob/{job_id}{path}")
        store = engine_of(b).own_jobs.store
        for job_id in waiting:
            job = store.get(job_id)
            assert job is not None
            assert (job.status, job.attempt, job.lessee) == (Status.STARTED, 1, None)
    assert b_app.config["RAN"] == ["b"] * 3

    a_app, a = make("a")
    with serve(a_app) as base_url:
        user = Browser(base_url)
        user.get("/login/5")
        with a_app.app_context():
            assert [a.join(job_id, WAIT).status_text for job_id in waiting] == ["by a"] * 3
            assert not any(a.exists(job_id) for job_id in own)
        assert json.loads(user.get(f"/backjob/{waiting[0]}"))["owner"] == "5"
        assert json.loads(user.get(f"/backjob/{waiting[0]}/output"))["text"] == "of a\n"
