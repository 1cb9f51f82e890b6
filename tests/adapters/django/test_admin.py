"""Jobs in the admin: permissions, contents of the pages, and the action that cancels."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings

from backjob import Status
from backjob.django import jobs
from backjob.django.models import Job
from backjob.django.testing import immediate, recorded
from backjob.lifecycle import Requeue, claimed, concluded
from backjob.model import Changes, Expect
from backjob.status.words import WAITING, WORDS

pytestmark = pytest.mark.usefixtures("database")

LIST = "/admin/backjob/job/"


def staff(*permissions: str, **fields: Any) -> Client:
    """A client with a member of staff logged in who has these permissions."""
    made = User.objects.create(username="Al", is_staff=True, **fields)
    made.user_permissions.set(Permission.objects.filter(codename__in=permissions, content_type__app_label="backjob"))
    client = Client()
    client.force_login(made)
    return client


@pytest.fixture
def ended() -> str:
    """An ended job that has printed a script."""
    with immediate():
        return jobs.start("see", as_current_user=False, scope="<i>reports</i>", owner="<u>Bo</u>")


@pytest.fixture
def waiting() -> str:
    """A job that is not delivered."""
    with recorded():
        return jobs.start("see", as_current_user=False, scope="mail", owner="Di")


def detail(job_id: str) -> str:
    return f"{LIST}{Job.objects.get(id=job_id).pk}/change/"


def cancelling(client: Client, *job_ids: str) -> Any:
    chosen = [str(Job.objects.get(id=job_id).pk) for job_id in job_ids]
    return client.post(LIST, {"action": "cancel", "_selected_action": chosen}, follow=True)


def test_without_a_permission_the_admin_shows_no_jobs(ended: str) -> None:
    al = staff()
    assert [al.get(path).status_code for path in (LIST, detail(ended))] == [403, 403]
    assert "backjob" not in al.get("/admin/").content.decode()


def test_the_list_shows_each_job_escaped(ended: str, waiting: str) -> None:
    page = staff("view_job").get(LIST).content.decode()
    assert ended in page
    assert waiting in page
    assert "&lt;i&gt;reports&lt;/i&gt;" in page
    assert "<i>reports" not in page
    assert "<u>Bo" not in page
    assert ">Done<" in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status__exact": "0"}, ["waiting"]),
        ({"status__exact": "2"}, ["ended"]),
        ({"scope": "mail"}, ["waiting"]),
        ({"owner": "<u>Bo</u>"}, ["ended"]),
        ({"owner": "nobody"}, []),
        ({"q": "Di"}, ["waiting"]),
        ({}, ["ended", "waiting"]),
    ],
)
def test_the_list_is_filtered(ended: str, waiting: str, query: dict[str, str], found: list[str]) -> None:
    names = {ended: "ended", waiting: "waiting"}
    changes = staff("view_job").get(LIST, query).context["cl"]
    assert sorted(names[job.id] for job in changes.result_list) == found


def test_a_job_is_found_by_its_id(ended: str, waiting: str) -> None:
    changes = staff("view_job").get(LIST, {"q": ended}).context["cl"]
    assert [job.id for job in changes.result_list] == [ended]


def test_the_detail_shows_texts_and_output_escaped(ended: str) -> None:
    page = staff("view_job").get(detail(ended)).content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;Seen&lt;/b&gt;" in page
    for raw in ("<script>alert", "<b>Seen", "<u>Bo", "<i>reports"):
        assert raw not in page


def test_the_detail_page_of_an_unfinished_job_updates_itself(waiting: str) -> None:
    al = staff("view_job")
    page = al.get(detail(waiting)).content.decode()
    assert f'<backjob-progress src="{jobs.status_url(waiting)}" output>' in page
    assert "field-text" not in page  # it would stand still beside what moves
    assert "field-state" not in page
    with override_settings(ROOT_URLCONF="tests.adapters.django.urls_without_status"):
        assert al.get(detail(waiting)).status_code == 302  # another application's job
        with recorded():
            own = jobs.start("/see", as_current_user=False)
        page = al.get(detail(own)).content.decode()
    assert "Waiting to start" in page
    assert "field-text" in page


def test_the_admin_shows_the_same_words_as_the_page(waiting: str) -> None:
    page = staff("view_job").get(LIST).content.decode()
    for status, word in WORDS.items():
        assert re.search(rf'status__exact={status:d}"[^>]*>\s*{word}<', page)


def test_the_list_says_why_a_job_waits_and_which_attempt_it_is(ended: str, waiting: str) -> None:
    with recorded():
        later = jobs.start("/see", as_current_user=False, delay=60)
        again = jobs.start("/see", as_current_user=False, retries=3)
    jobs.store.change(waiting, Expect(unclaimed=True), Changes(waiting_for="proof"))
    fail_once(again)
    page = staff("view_job").get(LIST).content.decode()
    notes = re.findall(r'<td class="field-note">([^<]*)</td>', page)
    assert "&lt;b&gt;Seen&lt;/b&gt;" in notes
    assert {WAITING["proof"].replace("'", "&#x27;"), WAITING["due"]} <= set(notes), later
    assert [note for note in notes if note.startswith("&lt;boom&gt;; attempt 2 of 4")]


def test_the_detail_page_of_an_ended_job_shows_its_attempts_and_earlier_runs(database: str) -> None:
    with recorded():
        again = jobs.start("/see", as_current_user=False, retries=3)
    fail_once(again)
    jobs.cancel(again)
    page = staff("view_job").get(detail(again)).content.decode()
    assert "2 of 4" in page
    assert re.search(r"<ol><li>[-\d]+ [:\d]+ – [:\d]+ UTC: &lt;boom&gt;</li></ol>", page)


def fail_once(job_id: str) -> None:
    """Write a run that fails and is followed by another one."""
    job = jobs.store.change(job_id, *claimed("token", 1, 18))
    assert job is not None
    changes = concluded(job, Requeue("<boom>", 0), job.read_time)
    assert jobs.store.change(job_id, Expect(token="token"), changes) is not None


def test_the_detail_page_shows_times_in_the_format_of_the_list(ended: str, waiting: str) -> None:
    al = staff("view_job")
    Job.objects.filter(id=ended).update(created_time=1_795_953_600_250_000)
    with override_settings(TIME_ZONE="Europe/Berlin"):
        page = al.get(detail(ended)).content.decode()
    assert "Nov. 29, 2026, 1 p.m." in page
    assert re.search(
        r"field-ended_at.*?<div class=\"readonly\">-</div>", al.get(detail(waiting)).content.decode(), re.DOTALL
    )


def test_nothing_can_be_added_changed_or_deleted(ended: str) -> None:
    al = staff("view_job", "cancel_job", is_superuser=True)
    before = Job.objects.values().get()
    assert al.get(f"{LIST}add/").status_code == 403
    assert al.post(detail(ended), {"scope": "other"}).status_code == 403
    assert al.post(f"{LIST}{before['seq']}/delete/", {"post": "yes"}).status_code == 403
    assert "delete_selected" not in dict(al.get(LIST).context["action_form"].fields["action"].choices)
    assert Job.objects.values().get() == before


def test_cancelling_needs_a_separate_permission(waiting: str) -> None:
    al = staff("view_job")
    cancelling(al, waiting)
    assert jobs.status(waiting).status is Status.STARTED
    assert 'value="cancel"' not in al.get(LIST).content.decode()


def test_the_action_cancels_unfinished_jobs(ended: str, waiting: str) -> None:
    al = staff("view_job", "cancel_job")
    assert 'value="cancel"' in al.get(LIST).content.decode()
    page = cancelling(al, ended, waiting).content.decode()
    assert "1 job cancelled." in page
    assert [jobs.status(job).status for job in (ended, waiting)] == [Status.COMPLETED, Status.CANCELLED]
