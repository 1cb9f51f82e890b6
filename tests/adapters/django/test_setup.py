"""The setting ``BACKJOB``, and the other settings that backjob reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client, override_settings

from backjob import InvalidRequest, JobState, Status
from backjob.django import jobs
from backjob.django.models import Job
from backjob.django.signals import job_ended
from backjob.django.site import engine
from backjob.django.testing import immediate, recorded
from backjob.errors import JobFailed
from backjob.model import Job as StoredJob
from backjob.stores.cached import CachedStore
from backjob.stores.sqlite import SQLiteStore

pytestmark = pytest.mark.usefixtures("database")

OLD, NEW = "the older secret 7f0e4c1d8a2b9c46", "the newer secret 1b9d6a3c5e80f27d"

ended: list[JobState] = []


def owner_by_header(request: Any) -> str | None:
    owner: str | None = request.headers.get("x-owner")
    return owner


def note_end(state: JobState) -> None:
    ended.append(state)


def here(name: str) -> str:
    return f"tests.adapters.django.test_setup.{name}"


def started() -> str:
    return jobs.start("see", as_current_user=False)


def test_overridden_settings_apply_only_within_the_override() -> None:
    before = engine()
    with override_settings(BACKJOB={"MAX_BODY": 3}):
        assert engine() is not before
        with recorded(), pytest.raises(InvalidRequest, match="body"):
            jobs.start("see", method="POST", body=b"long", as_current_user=False)
    with recorded():
        jobs.start("see", method="POST", body=b"long", as_current_user=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"BASEURL": "http://x"}, "BASEURL.*did you mean BASE_URL"),
        ({"base_url": "http://x"}, "did you mean BASE_URL"),
        ({"DATABSE": "x"}, "did you mean DATABASE"),
        ({"ERROR_TIMEOUT": "soon"}, "ERROR_TIMEOUT"),
        ({"DATABASE": "nowhere"}, "nowhere"),
        ({"CACHE": "nowhere"}, "CACHES"),
        ({"OWNER": "tests.nowhere.owner"}, "OWNER"),
        ({"OWNER": 5}, "OWNER"),
        ({"ON_END": here("nothing")}, "ON_END"),
        ({"DATABASE": "default", "STORE": "memory:"}, "DATABASE"),
        ([], "a dict"),
    ],
)
def test_an_invalid_setting_is_refused(given: Any, said: str) -> None:
    with override_settings(BACKJOB=given), pytest.raises(InvalidRequest, match=said):
        engine()


def test_a_weak_key_is_refused() -> None:
    with override_settings(SECRET_KEY="short"), pytest.raises(InvalidRequest, match="SECRET_KEY"):
        engine()


def test_a_signature_by_a_fallback_key_stays_valid() -> None:
    with override_settings(SECRET_KEY=OLD), recorded():
        url = jobs.status_url(started())
    with override_settings(SECRET_KEY=NEW):
        assert Client().get(url).status_code == 404
    with override_settings(SECRET_KEY=NEW, SECRET_KEY_FALLBACKS=["weak", OLD]):
        assert Client().get(url).status_code == 200


def test_with_a_key_setting_the_secret_key_does_not_count() -> None:
    with override_settings(BACKJOB={"KEY": OLD}, SECRET_KEY=NEW), recorded():
        url = jobs.status_url(started())
    with override_settings(BACKJOB={"KEY": OLD}):
        assert Client().get(url).status_code == 200
    assert Client().get(url).status_code == 404


@pytest.mark.parametrize("dotted", [True, False], ids=["dotted path", "function"])
def test_the_setting_owner_determines_the_owner(dotted: bool) -> None:
    owner = here("owner_by_header") if dotted else owner_by_header
    with override_settings(BACKJOB={"OWNER": owner}), recorded():
        bo = Client(headers={"x-owner": "Bo"})
        job_id = bo.post("/start", {"path": "see"}, content_type="application/json").json()["id"]
        assert jobs.status(job_id).owner == "Bo"
        assert bo.get(f"/backjob/{job_id}").status_code == 200
        assert Client(headers={"x-owner": "Eve"}).get(f"/backjob/{job_id}").status_code == 404


def test_on_end_is_called_at_each_end() -> None:
    ended.clear()
    with override_settings(BACKJOB={"ON_END": here("note_end")}), immediate():
        job_id = started()
    assert [(state.id, state.status) for state in ended] == [(job_id, Status.COMPLETED)]


def test_on_end_is_not_called_once_the_setting_is_gone() -> None:
    ended.clear()
    with override_settings(BACKJOB={"ON_END": here("note_end")}):
        engine()
    with immediate():
        started()
    assert ended == []


@pytest.mark.parametrize("error", [LookupError("no"), JobFailed("no")], ids=["exception", "exit of a job"])
def test_a_failing_receiver_changes_nothing_about_the_job(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[tuple[str, Status, int]] = []

    def fail(**_options: Any) -> None:
        raise error

    def note(job: StoredJob, state: JobState, **_options: Any) -> None:
        assert job.id == state.id
        ends.append((state.id, state.status, job.progress))

    job_ended.connect(note)
    job_ended.connect(fail)
    try:
        with immediate():
            job_id = started()
    finally:
        job_ended.disconnect(note)
        job_ended.disconnect(fail)
    assert ends == [(job_id, Status.COMPLETED, 100)]
    assert jobs.status(job_id).status is Status.COMPLETED
    assert "fail" in caplog.text


def test_the_setting_store_keeps_jobs_outside_of_the_database(tmp_path: Path) -> None:
    with override_settings(BACKJOB={"STORE": f"sqlite:///{tmp_path / 'jobs.db'}"}):
        with immediate():
            state = jobs.status(started())
        assert isinstance(jobs.store, SQLiteStore)
        assert state.status is Status.COMPLETED
        assert Client().get(jobs.status_url(state.id)).json()["status_text"] == "<b>Seen</b>"
    assert not Job.objects.exists()


def test_the_setting_cache_puts_a_cache_in_front_of_the_store() -> None:
    with override_settings(BACKJOB={"CACHE": "default"}):
        assert isinstance(jobs.store, CachedStore)


def test_without_status_routes_status_url_raises() -> None:
    without = override_settings(ROOT_URLCONF="tests.adapters.django.urls_without_status")
    with without, pytest.raises(InvalidRequest, match="include"):
        jobs.status_url("job")
