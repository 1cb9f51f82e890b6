"""Flask-WTF: worker requests and status routes are exempt from CSRF protection, all other requests are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask
from flask_wtf import CSRFProtect, FlaskForm
from wtforms import StringField

from backjob import Status
from backjob.flask import BackJob
from backjob.stores.memory import MemoryStore
from backjob.testing import immediate, recorded

Form = type("Form", (FlaskForm,), {"name": StringField()})


def with_csrf_after(app: Flask) -> BackJob:
    jobs = BackJob(app, store=MemoryStore())
    CSRFProtect(app)
    return jobs


def with_csrf_before(app: Flask) -> BackJob:
    CSRFProtect(app)
    return BackJob(app, store=MemoryStore())


def with_forms_only(app: Flask) -> BackJob:
    return BackJob(app, store=MemoryStore())


def with_a_check_by_hand(app: Flask) -> BackJob:
    csrf = CSRFProtect(app)
    app.config["WTF_CSRF_CHECK_DEFAULT"] = False

    @app.before_request
    def check() -> None:
        csrf.protect()

    return BackJob(app, store=MemoryStore())


@pytest.mark.parametrize("set_up", [with_csrf_after, with_csrf_before, with_forms_only, with_a_check_by_hand])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_csrf_protection_exempts_only_worker_requests(
    app: Flask, set_up: Callable[[Flask], BackJob], scheme: str
) -> None:
    jobs = set_up(app)

    @app.post("/work")
    def work() -> str:
        form: Any = Form()
        if not form.validate_on_submit():
            flask.abort(400)
        return jobs.finish(f"Hello {form.name.data}")

    with immediate(jobs, app), app.test_request_context(base_url=f"{scheme}://localhost"):
        state = jobs.status(jobs.start("work", method="POST", form={"name": "Bo"}))
    assert (state.status_text, state.status) == ("Hello Bo", Status.COMPLETED)
    assert app.test_client().post("/work", data={"name": "Eve"}).status_code == 400


def test_while_jobs_are_not_configured_csrf_protection_stays_intact(app: Flask) -> None:
    csrf = CSRFProtect(app)
    BackJob(app, store=MemoryStore())
    app.add_url_rule("/save", "save", lambda: "saved", methods=["POST"])
    app.secret_key = None
    for _ in range(2):
        assert app.test_client().get("/").status_code == 404
        assert app.test_client().post("/save").status_code != 200
    assert "protect" not in vars(csrf)


def test_the_cancel_button_needs_no_csrf_token(app: Flask) -> None:
    jobs = BackJob(app, store=MemoryStore())
    CSRFProtect(app)
    app.add_url_rule("/work", "work", lambda: "")
    with recorded(jobs):
        job_id = jobs.start("work", as_current_user=False)
    assert app.test_client().post(f"{jobs.status_url(job_id, cancel=True)}/cancel").status_code == 200
