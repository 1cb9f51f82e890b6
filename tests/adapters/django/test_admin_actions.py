"""The actions of the admin: cancel, run again and delete, with their permissions and log entries."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client

from backjob import Status
from backjob.django import jobs
from backjob.django.models import Job
from backjob.django.testing import immediate, recorded

pytestmark = pytest.mark.usefixtures("database")

LIST = "/admin/backjob/job/"


def staff(*permissions: str) -> Client:
    """A client with a member of staff logged in who has these permissions."""
    made = User.objects.create(username="Al", is_staff=True)
    made.user_permissions.set(Permission.objects.filter(codename__in=permissions, content_type__app_label="backjob"))
    client = Client()
    client.force_login(made)
    return client


@pytest.fixture
def ended() -> str:
    """An ended job whose request was kept."""
    with immediate():
        return jobs.start("see", as_current_user=False, keep_request=True, title="See <it>")


@pytest.fixture
def waiting() -> str:
    """A job that is not delivered."""
    with recorded():
        return jobs.start("see", as_current_user=False)


def key(job_id: str) -> str:
    return str(Job.objects.get(id=job_id).pk)


def act(client: Client, action: str, *job_ids: str, **more: str) -> Any:
    chosen = [key(job_id) for job_id in job_ids]
    return client.post(LIST, {"action": action, "_selected_action": chosen, **more}, follow=True)


def log() -> list[tuple[int, str, str]]:
    return list(LogEntry.objects.order_by("pk").values_list("action_flag", "object_repr", "change_message"))


@pytest.mark.parametrize("action", ["cancel", "run_again", "delete_selected"])
def test_each_action_needs_a_permission_of_its_own(ended: str, waiting: str, action: str) -> None:
    others = {"cancel": "cancel_job", "run_again": "run_again_job", "delete_selected": "delete_job"}
    del others[action]
    al = staff("view_job", *others.values())
    act(al, action, ended, waiting, post="yes")
    assert [jobs.status(job_id).status for job_id in (ended, waiting)] == [Status.COMPLETED, Status.STARTED]
    assert Job.objects.count() == 2
    assert log() == []
    page = al.get(LIST).content.decode()
    assert f'value="{action}"' not in page
    assert all(f'value="{other}"' in page for other in others)


# --- cancel ---------------------------------------------------------------------------------------------------------


def test_cancel_ends_the_unfinished_jobs_and_logs_them(ended: str, waiting: str) -> None:
    al = staff("view_job", "cancel_job")
    page = act(al, "cancel", ended, waiting).content.decode()
    assert "1 job cancelled." in page
    assert [jobs.status(job_id).status for job_id in (ended, waiting)] == [Status.COMPLETED, Status.CANCELLED]
    assert log() == [(CHANGE, "/see", "Cancelled.")]
    assert "Cancelled." in al.get(f"{LIST}{key(waiting)}/history/").content.decode()


def test_the_button_on_a_page_cancels_and_returns_to_it(waiting: str) -> None:
    al = staff("view_job", "cancel_job")
    path = f"{LIST}{key(waiting)}/change/"
    assert '<button class="button" type="submit" name="action" value="cancel">' in al.get(path).content.decode()
    answer = act(al, "cancel", waiting, _from_page="1")
    assert answer.redirect_chain[-1][0] == path
    assert jobs.status(waiting).status is Status.CANCELLED
    assert 'name="action"' not in al.get(path).content.decode()


# --- run again ------------------------------------------------------------------------------------------------------


def test_run_again_starts_the_kept_request_and_logs_it(ended: str) -> None:
    al = staff("view_job", "run_again_job")
    with recorded() as started:
        page = act(al, "run_again", ended).content.decode()
    assert "1 job started again." in page
    assert [job.request.target for job in started] == ["/see"]
    assert log() == [(CHANGE, "See <it>", "Started again.")]


def test_identical_jobs_start_one_again(ended: str) -> None:
    with immediate():
        same = [jobs.start("see", as_current_user=False, keep_request=True) for _ in range(2)]
    al = staff("view_job", "run_again_job")
    with recorded() as started:
        assert "1 job started again." in act(al, "run_again", *same).content.decode()
    assert len(started) == 1


def test_the_button_runs_again_and_leads_to_the_new_job(ended: str) -> None:
    al = staff("view_job", "run_again_job")
    assert 'name="action" value="run_again"' in al.get(f"{LIST}{key(ended)}/change/").content.decode()
    with recorded() as started:
        answer = act(al, "run_again", ended, _from_page="1")
    [new] = started
    assert answer.redirect_chain[-1][0] == f"{LIST}{key(new.job_id)}/change/"


def test_only_the_owner_of_a_job_that_ran_with_a_login_gets_the_button(database: str) -> None:
    al = staff("view_job", "run_again_job")
    with recorded():
        arguments = [{"path": "/see", "keep_request": True, **more} for more in ({}, {"owner": "someone else"})]
        ids = [al.post("/start", given, content_type="application/json").json()["id"] for given in arguments]
    for job_id in ids:
        jobs.cancel(job_id)
    pages = [al.get(f"{LIST}{key(job_id)}/change/").content.decode() for job_id in ids]
    assert ['value="run_again"' in page for page in pages] == [True, False]


def test_a_job_that_cannot_run_again_is_an_error_that_says_why(database: str) -> None:
    with immediate():
        not_kept = jobs.start("see", as_current_user=False)
    with recorded():
        waiting = jobs.start("see", as_current_user=False, title="<Later>")
    al = staff("view_job", "run_again_job")
    with recorded() as started:
        page = act(al, "run_again", waiting, not_kept).content.decode()
    assert started == []
    assert "&lt;Later&gt;: the job has not ended" in page
    assert "start such jobs with keep_request=True" in page
    assert log() == []
    for job_id in (waiting, not_kept):
        assert 'value="run_again"' not in al.get(f"{LIST}{key(job_id)}/change/").content.decode()


# --- delete ---------------------------------------------------------------------------------------------------------


def test_delete_asks_first_then_removes_jobs_and_logs_them(ended: str, waiting: str) -> None:
    al = staff("view_job", "delete_job")
    assert "Are you sure" in act(al, "delete_selected", ended, waiting).content.decode()
    assert Job.objects.count() == 2
    act(al, "delete_selected", ended, waiting, post="yes")
    assert [jobs.exists(job_id) for job_id in (ended, waiting)] == [False, False]
    assert sorted(log()) == [(DELETION, "/see", ""), (DELETION, "See <it>", "")]


def test_the_page_of_a_job_can_delete_it(ended: str) -> None:
    al = staff("view_job", "delete_job")
    path = f"{LIST}{key(ended)}/delete/"
    assert path in al.get(f"{LIST}{key(ended)}/change/").content.decode()
    assert al.post(path, {"post": "yes"}).status_code == 302
    assert not jobs.exists(ended)


def test_a_job_that_was_deleted_meanwhile_is_no_error(ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
    delete = type(jobs).delete

    def late(self: Any, job_id: str) -> Any:
        delete(self, job_id)  # by another process
        return delete(self, job_id)

    monkeypatch.setattr(type(jobs), "delete", late)
    al = staff("view_job", "delete_job")
    assert al.post(f"{LIST}{key(ended)}/delete/", {"post": "yes"}).status_code == 302
    assert not jobs.exists(ended)


def test_deleting_goes_through_backjob_and_removes_the_output_too(ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[str] = []
    delete = type(jobs).delete

    def noting(self: Any, job_id: str) -> Any:
        deleted.append(job_id)
        return delete(self, job_id)

    monkeypatch.setattr(type(jobs), "delete", noting)
    act(staff("view_job", "delete_job"), "delete_selected", ended, post="yes")
    assert deleted == [ended]


def test_a_job_that_is_gone_meanwhile_does_no_harm(ended: str, waiting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    delete = type(jobs).delete

    def twice(self: Any, job_id: str) -> Any:
        delete(self, job_id)
        return delete(self, job_id)

    monkeypatch.setattr(type(jobs), "delete", twice)
    answer = act(staff("view_job", "delete_job"), "delete_selected", ended, waiting, post="yes")
    assert answer.status_code == 200
    assert Job.objects.count() == 0
