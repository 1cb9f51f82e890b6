"""Setting up: settings, key, default store, several applications."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import flask
import pytest
from flask import Flask

from backjob import InvalidRequest, NoCurrentRequest, Status
from backjob.errors import UnknownKey
from backjob.flask import BackJob
from backjob.model import Grant, JobState, Request
from backjob.stores.memory import MemoryStore
from backjob.testing import immediate, recorded
from tests.unit.gateways import environ_of

MakeApp = Callable[..., Flask]

SECRET = "Hq7vX2mZ9tB4kW8rN1cJ6yL3pD5sF0gA"
OTHER_SECRET = "b3R4nU8wQ6xE1zC9vK2jM7hG5tY0aLpS"
GRANT = Grant(job_id="job", run=1, delivery=1, created=1_000, expires=2_000)


def verifies(signing: Flask, verifying: Flask) -> bool:
    """Return whether one application accepts the signature of the other."""
    signer, verifier = (app.extensions["backjob"].engine.signer for app in (signing, verifying))
    signed = signer.sign(Request("GET", "/work"), GRANT)
    try:
        verifier.verify(signed, datetime.fromtimestamp(1_500, UTC))
    except UnknownKey:
        return False
    return True


# --- settings ---------------------------------------------------------------------------------------------------------


def test_an_unknown_setting_is_refused_at_once_with_a_suggestion(make_app: MakeApp) -> None:
    with pytest.raises(InvalidRequest, match=r"BACKJOB_EROR_TIMEOUT.*did you mean BACKJOB_ERROR_TIMEOUT"):
        BackJob(make_app(BACKJOB_EROR_TIMEOUT=5))


def test_settings_reach_the_jobs(make_app: MakeApp) -> None:
    app = make_app(BACKJOB_STATUS_PREFIX="/tasks", BACKJOB_STORE="memory:", BACKJOB_BASE_URL="http://127.0.0.1:8000")
    jobs = BackJob(app)
    job_id = jobs.start("/work", as_current_user=False, delay=3600)
    assert isinstance(jobs.store, MemoryStore)
    assert jobs.status_url(job_id).startswith(f"/tasks/{job_id}.")
    assert app.test_client().get(jobs.status_url(job_id)).json["status_name"] == "STARTED"  # type: ignore[index]


def test_settings_can_change_until_the_first_use(make_app: MakeApp) -> None:
    app = make_app(SECRET_KEY=None)
    jobs = BackJob(app)
    app.config["BACKJOB_STORE"] = "memory:"
    app.secret_key = SECRET
    assert app.test_client().get("/").status_code == 404
    assert isinstance(jobs.store, MemoryStore)


def test_a_status_prefix_that_changes_after_init_app_is_refused(make_app: MakeApp) -> None:
    app = make_app(BACKJOB_STORE="memory:")
    jobs = BackJob(app)
    app.config["BACKJOB_STATUS_PREFIX"] = "/tasks"
    with pytest.raises(InvalidRequest, match=r"BACKJOB_STATUS_PREFIX.*after init_app"):
        jobs.find()


def test_arguments_take_precedence_over_settings(make_app: MakeApp) -> None:
    store = MemoryStore()
    assert BackJob(make_app(BACKJOB_STORE="sqlite:////nowhere/jobs.db"), store=store).store is store


def test_on_end_is_called_in_an_application_context(app: Flask) -> None:
    seen: list[tuple[str, JobState]] = []
    jobs = BackJob(app, store=MemoryStore(), on_end=lambda state: seen.append((flask.current_app.name, state)))
    app.add_url_rule("/work", "work", lambda: jobs.finish("Done"))
    with immediate(jobs, app), app.test_request_context():
        job_id = jobs.start("/work")
    assert [(name, state.id, state.status) for name, state in seen] == [("shop", job_id, Status.COMPLETED)]


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "reason"), [(None, "is not set, nor is BACKJOB_KEY"), ("", "is not set"), ("dev", "too short")]
)
def test_without_a_strong_secret_the_first_use_raises_with_a_hint(
    make_app: MakeApp, secret: str | None, reason: str
) -> None:
    app = make_app(SECRET_KEY=secret)
    jobs = BackJob(app)
    with pytest.raises(InvalidRequest, match=f"SECRET_KEY.*{reason}.*make one with"):
        jobs.find()
    assert app.test_client().get("/").status_code == 404


def test_with_a_key_no_secret_is_needed(make_app: MakeApp) -> None:
    app = make_app(SECRET_KEY=None, BACKJOB_KEY=OTHER_SECRET, BACKJOB_STORE="memory:")
    assert BackJob(app).find() == []


def test_the_key_depends_on_the_application_and_its_secret(make_app: MakeApp) -> None:
    apps = [make_app("shop"), make_app("shop"), make_app("blog"), make_app("shop", SECRET_KEY=OTHER_SECRET)]
    for app in apps:
        BackJob(app, store=MemoryStore())
    assert [verifies(apps[0], app) for app in apps] == [True, True, False, False]


def test_a_rotated_secret_still_verifies_and_a_weak_fallback_is_ignored(make_app: MakeApp) -> None:
    old = make_app()
    new = make_app(SECRET_KEY=OTHER_SECRET, SECRET_KEY_FALLBACKS=["dev", SECRET])
    for app in (old, new):
        BackJob(app, store=MemoryStore())
    assert verifies(old, new)
    assert not verifies(new, old)


# --- the default store ------------------------------------------------------------------------------------------------


def test_the_default_store_is_in_the_instance_folder_which_is_created(app: Flask) -> None:
    assert BackJob(app).find() == []
    assert (Path(app.instance_path) / "backjob.db").is_file()


def test_if_the_instance_folder_can_not_be_created_the_error_names_the_setting(
    make_app: MakeApp, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match=r"BACKJOB_STORE: is not set.*instance folder"):
        BackJob(make_app("file")).find()


def test_two_applications_with_the_same_default_store_are_refused(make_app: MakeApp, tmp_path: Path) -> None:
    shop, blog = make_app("shop"), make_app("blog")
    blog.instance_path = shop.instance_path
    jobs = BackJob(shop)
    jobs.find()
    with pytest.raises(InvalidRequest, match="'shop' has the same instance folder"):
        BackJob(blog).find()


# --- several applications ---------------------------------------------------------------------------------------------


def test_one_extension_serves_several_applications_with_separate_jobs(make_app: MakeApp) -> None:
    jobs = BackJob()
    apps = [make_app("shop", BACKJOB_STORE="memory:"), make_app("blog", BACKJOB_STORE="memory:")]
    for app in apps:
        jobs.init_app(app)
        app.add_url_rule("/work", "work", lambda: jobs.finish(flask.current_app.name))
        app.add_url_rule("/start", "start", lambda: jobs.start("work"))
    ids = []
    for app in apps:
        with immediate(jobs, app):
            ids.append(app.test_client().get("/start").text)
    for app, own, other in zip(apps, ids, reversed(ids), strict=True):
        with app.app_context():
            assert jobs.status(own).status_text == app.name
            assert not jobs.exists(other)


def test_with_several_applications_an_application_context_is_required(make_app: MakeApp) -> None:
    jobs = BackJob()
    with pytest.raises(NoCurrentRequest, match=r"no applications.*app_context"):
        jobs.find()
    shop = make_app("shop", BACKJOB_STORE="memory:")
    jobs.init_app(shop)
    assert jobs.find() == []
    jobs.init_app(make_app("blog", BACKJOB_STORE="memory:"))
    with pytest.raises(NoCurrentRequest, match="serves 2 applications"):
        jobs.find()
    with shop.app_context():
        assert jobs.find() == []


def test_an_application_with_another_backjob_is_refused(make_app: MakeApp) -> None:
    jobs, other = BackJob(make_app("shop", BACKJOB_STORE="memory:")), make_app("blog", BACKJOB_STORE="memory:")
    BackJob(other)
    with other.app_context(), pytest.raises(NoCurrentRequest, match="not set up for the application 'blog'"):
        jobs.find()


def test_a_second_backjob_for_an_application_is_refused(app: Flask) -> None:
    BackJob(app)
    with pytest.raises(InvalidRequest, match="'shop' already has a BackJob"):
        BackJob(app)


def test_each_application_has_two_threads_and_close_ends_them_all(make_app: MakeApp) -> None:
    jobs = BackJob()
    apps = [make_app("shop", BACKJOB_STORE="memory:"), make_app("blog", BACKJOB_STORE="memory:")]
    before = set(threading.enumerate())  # an earlier test's may end meanwhile

    def added() -> list[str]:
        return sorted(thread.name for thread in set(threading.enumerate()) - before)

    for app in apps:
        jobs.init_app(app)
    assert added() == []
    for app in apps:
        app.test_client().get("/")
    assert added() == []  # a test client is no reason for a thread
    for app in apps:
        for _ in range(2):
            list(app(environ_of("/"), lambda *_: None))  # type: ignore[arg-type]
    assert added() == ["backjob-leases", "backjob-leases", "backjob-monitor", "backjob-monitor"]
    jobs.close()
    assert added() == []


def test_closing_an_unused_backjob_creates_nothing(make_app: MakeApp) -> None:
    with BackJob(make_app(SECRET_KEY=None)) as jobs:
        pass
    asyncio.run(jobs.aclose())
    assert not Path(jobs._applications[0]().instance_path).exists()  # type: ignore[union-attr]


def test_a_misspelled_name_raises_attribute_error(app: Flask) -> None:
    jobs = BackJob(app, store=MemoryStore())
    with pytest.raises(AttributeError, match="strat"):
        getattr(jobs, "strat")  # noqa: B009 - mypy would see it


def test_recorded_works_in_an_application_context(app: Flask) -> None:
    jobs = BackJob(app, store=MemoryStore())
    app.add_url_rule("/work/<int:number>", "work", lambda number: "")
    with recorded(jobs) as started, app.test_request_context():
        jobs.start("work", {"number": 5, "color": "red"})
    assert [one.request.target for one in started] == ["/work/5?color=red"]
