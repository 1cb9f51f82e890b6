"""Jobs in the admin: permissions and contents of the pages."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from backjob.django import jobs
from backjob.django.models import Job, Output
from backjob.django.testing import immediate, recorded
from backjob.lifecycle import Requeue, claimed, concluded
from backjob.model import Changes, Expect, Report
from backjob.status.words import WAITING, WORDS
from tests.adapters.django.work import echo, fail_by_value

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
    assert f'<backjob-progress src="{jobs.status_url(waiting)}" output ' in page
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
        r"field-began_at.*?<div class=\"readonly\">-</div>", al.get(detail(waiting)).content.decode(), re.DOTALL
    )


def test_nothing_can_be_added_or_changed(ended: str) -> None:
    al = staff("view_job", "cancel_job", is_superuser=True)
    before = Job.objects.values().get()
    assert al.get(f"{LIST}add/").status_code == 403
    assert al.post(detail(ended), {"scope": "other"}).status_code == 403
    assert Job.objects.values().get() == before


# --- what a visitor may see -----------------------------------------------------------------------------------------


@pytest.fixture
def failed_task() -> str:
    """A task that has failed, with a secret among its arguments."""
    with immediate():
        result = fail_by_value.enqueue("s3cret <token>")
    return str(result.id)


def test_arguments_and_tracebacks_need_a_permission_of_their_own(failed_task: str) -> None:
    al = staff("view_job")
    page = al.get(detail(failed_task)).content.decode()
    assert "tests.adapters.django.work.fail_by_value" in page
    for hidden in ("Traceback", "field-arguments", "field-errors", "backjob.django task"):
        assert hidden not in page
    User.objects.get().user_permissions.add(Permission.objects.get(codename="inspect_job"))
    page = al.get(detail(failed_task)).content.decode()
    assert "backjob.django task" not in page
    [arguments] = re.findall(r"field-arguments.*?<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert arguments == "&quot;s3cret &lt;token&gt;&quot;"
    [traceback] = re.findall(r"<details[^>]* open>.*?<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert traceback.endswith("ValueError: s3cret &lt;token&gt;")
    assert "<summary>Run 1: ValueError</summary>" in page


def test_a_task_is_called_by_its_path(failed_task: str) -> None:
    path = "tests.adapters.django.work.fail_by_value"
    assert jobs.status(failed_task).title == path
    assert f">{path}</span></a>" in staff("view_job").get(LIST).content.decode()


def test_the_result_of_a_task_is_its_return_value() -> None:
    with immediate():
        done = str(echo.enqueue(1, name="<Ann>").id)
    page = staff("view_job").get(detail(done)).content.decode()
    [result] = re.findall(r"field-outcome.*?<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert json.loads(html.unescape(result)) == [[1], {"name": "<Ann>"}]


def test_a_job_that_is_no_task_has_no_section_for_it(ended: str) -> None:
    page = staff("view_job", "inspect_job").get(detail(ended)).content.decode()
    assert "field-task" not in page
    assert "field-arguments" not in page


def test_the_page_shows_route_owner_file_and_duration(ended: str) -> None:
    ann = User.objects.create(username="<Ann>")
    file = json.dumps({"name": "<report>.csv", "type": "text/csv", "size": 12})
    times = {"claimed_time": 1_000_000, "end_time": 76_000_000}
    Job.objects.filter(id=ended).update(owner=str(ann.pk), title="Invoices <2026>", file=file, **times)
    page = staff("view_job").get(detail(ended)).content.decode()
    for shown in ("GET /see", "&lt;Ann&gt;", "Invoices &lt;2026&gt;", "&lt;report&gt;.csv (text/csv, 12 B)", "1:15"):
        assert shown in page


def test_the_list_reads_no_large_columns_and_a_page_no_body(ended: str) -> None:
    al = staff("view_job")
    path = detail(ended)
    for url, columns in ((LIST, "body|sealed|request|result"), (path, "body")):
        with CaptureQueriesContext(connection) as captured:
            assert al.get(url).status_code == 200
        assert not [query["sql"] for query in captured if re.search(f'"({columns})"', query["sql"])]


def test_a_page_needs_few_queries(ended: str, waiting: str, failed_task: str) -> None:
    al = staff("view_job", "inspect_job", "cancel_job")
    for job_id in (ended, waiting, failed_task):
        path = detail(job_id)
        with CaptureQueriesContext(connection) as captured:
            assert al.get(path).status_code == 200
        of_jobs = [query["sql"] for query in captured if re.search('"backjob_(job|output)"', query["sql"])]
        assert len(of_jobs) <= 4, of_jobs  # the row; the element, or the output, which is found by the job once more


def test_a_running_job_has_the_element_above_the_fields_in_full_width(waiting: str) -> None:
    page = staff("view_job").get(detail(waiting)).content.decode()
    assert page.index('<div class="backjob-live">') < page.index("<backjob-progress") < page.index("<fieldset")
    assert '<link href="/static/backjob/admin.css"' in page


def test_output_looks_as_on_a_terminal_and_is_escaped(ended: str) -> None:
    Output.objects.all().delete()
    printed = b"10 %\r100 %\n\x1b[31m<b>red</b>\x1b[0m\n"
    Output.objects.create(job=Job.objects.get(id=ended).pk, start=0, piece=printed)
    Job.objects.filter(id=ended).update(output_size=len(printed))
    page = staff("view_job").get(detail(ended)).content.decode()
    assert '<pre class="backjob-text">100 %\n<span class="bj-f1">&lt;b&gt;red&lt;/b&gt;</span>' in page
    assert '<link rel="stylesheet" href="/backjob/progress.css">' in page


def test_a_truncated_output_has_a_marked_gap(waiting: str) -> None:
    assert jobs.store.change(waiting, *claimed("token", 1, 18))
    report = Report(output="line 1\n", truncated=True, tail="<b>line 4999</b>\n")
    assert jobs.store.report(waiting, "token", report)
    jobs.cancel(waiting)
    page = staff("view_job").get(detail(waiting)).content.decode()
    [output] = re.findall(r'<pre class="backjob-text">(.*?)</pre>', page, re.DOTALL)
    assert re.fullmatch(r'line 1\n<span part="note">[^<]+</span>&lt;b&gt;line 4999&lt;/b&gt;\n?', output)
