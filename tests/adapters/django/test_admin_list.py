"""The list of jobs in the admin: columns, names of owners, search, filters, and how many queries it needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from backjob.django import jobs
from backjob.django.admin import changelist
from backjob.django.models import Job
from backjob.django.testing import recorded
from backjob.lifecycle import claimed, ended, failed
from backjob.model import Expect
from tests.adapters.django.work import noop

pytestmark = pytest.mark.usefixtures("any_database")

LIST = "/admin/backjob/job/"


def staff(*permissions: str) -> Client:
    """A client with a member of staff logged in who has these permissions, such as ``backjob.view_job``."""
    made = User.objects.create(username="Al", is_staff=True)
    for permission in permissions:
        label, _, codename = permission.partition(".")
        made.user_permissions.add(Permission.objects.get(codename=codename, content_type__app_label=label))
    client = Client()
    client.force_login(made)
    return client


def started(**options: Any) -> str:
    """A job that is not delivered."""
    with recorded():
        return jobs.start("/see", as_current_user=False, **options)


def rows_of(client: Client, **query: str) -> list[str]:
    """The ids of the jobs that the list shows."""
    return [job.id for job in client.get(LIST, query).context["cl"].result_list]


def cells(page: str, name: str) -> list[str]:
    """The texts of a column."""
    return [
        re.sub("<[^>]+>", "", cell).strip()
        for cell in re.findall(rf'<t[dh] class="field-{name}[^"]*">(.*?)</t[dh]>', page)
    ]


# --- columns --------------------------------------------------------------------------------------------------------


def test_a_line_has_title_state_progress_duration_owner_queue_and_error() -> None:
    ann = User.objects.create(username="Ann")
    job_id = started(title="Invoices <2026>", owner=str(ann.pk), queue="exports")
    plain = started()
    assert jobs.store.change(job_id, *claimed("token", 1, 18))
    assert jobs.store.change(job_id, Expect(), ended(failed("first line\nNo such <customer>")))
    Job.objects.filter(id=job_id).update(claimed_time=1_000_000, end_time=76_000_000, progress=40)
    page = staff("backjob.view_job").get(LIST).content.decode()
    assert cells(page, "name") == ["/see", "Invoices &lt;2026&gt;"]
    assert cells(page, "state") == ["Waiting to start", "Failed"]
    assert cells(page, "percentage") == ["0\N{NO-BREAK SPACE}%", "40\N{NO-BREAK SPACE}%"]
    assert cells(page, "duration") == ["-", "1:15"]
    assert cells(page, "owner_name") == ["-", "Ann"]
    assert cells(page, "queue_name") == ["-", "exports"]
    assert cells(page, "note")[1] == "No such &lt;customer&gt;"
    assert f'title="{plain}"' in page


def test_the_words_are_in_the_language_of_the_admin() -> None:
    started()
    with override_settings(LANGUAGE_CODE="de"):
        page = staff("backjob.view_job").get(LIST).content.decode()
    assert cells(page, "state") == ["Wartet auf den Start"]
    assert ">Läuft<" in page  # the filter


# --- owners ---------------------------------------------------------------------------------------------------------


def test_an_owner_is_a_link_for_those_who_may_view_users() -> None:
    ann = User.objects.create(username="<Ann>")
    started(owner=str(ann.pk))
    client = staff("backjob.view_job")
    assert f'<a href="/admin/auth/user/{ann.pk}/change/">' not in client.get(LIST).content.decode()
    User.objects.get(username="Al").user_permissions.add(Permission.objects.get(codename="view_user"))
    page = client.get(LIST).content.decode()
    assert f'<a href="/admin/auth/user/{ann.pk}/change/">&lt;Ann&gt;</a>' in page
    assert "<Ann>" not in page


@pytest.mark.parametrize("owner", ["4711", "not a number", "9" * 100])
def test_an_owner_who_is_no_user_is_shown_as_it_is(owner: str) -> None:
    started(owner=owner)
    assert cells(staff("backjob.view_job").get(LIST).content.decode(), "owner_name") == [owner]


def owner_name(request: Any) -> str:
    """An ``OWNER`` function: owners are no primary keys."""
    return str(request.user.get_username())


def test_with_an_owner_function_of_the_site_no_user_is_looked_up() -> None:
    ann = User.objects.create(username="Ann")
    with override_settings(BACKJOB={"OWNER": f"{__name__}.owner_name"}):
        jobs.reset()
        started(owner=str(ann.pk))
        client = staff("backjob.view_job")
        assert cells(client.get(LIST).content.decode(), "owner_name") == [str(ann.pk)]
        assert rows_of(client, q="Ann") == []


# --- search and filters ---------------------------------------------------------------------------------------------


def test_the_search_finds_ids_parts_of_titles_and_paths_and_owners() -> None:
    ann = User.objects.create(username="Ann Smith", email="ann@example.org")
    first = started(title="Invoices 2026", owner=str(ann.pk))
    second = started(title="50% off_1", owner="Bo")
    third = started()
    client = staff("backjob.view_job")
    for text, found in (
        (first, [first]),
        ("invoices", [first]),
        ("smith", [first]),
        ("Bo", [second]),
        ("0% OFF_", [second]),
        ("off%1", []),
        ("/SEE", [third, second, first]),
        ("nothing", []),
        ("ann@example", []),
    ):
        assert rows_of(client, q=text) == found, text


def test_the_search_finds_what_the_list_of_users_finds_for_those_who_may_view_it() -> None:
    ann = User.objects.create(username="Ann", email="ann@example.org")
    job_id = started(owner=str(ann.pk))
    assert rows_of(staff("backjob.view_job", "auth.view_user"), q="ann@example") == [job_id]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"queue": "exports"}, ["first"]),
        ({"queue": "default"}, ["second", "third"]),
        ({"owned": "no"}, ["third"]),
        ({"owned": "yes"}, ["first", "second"]),
        ({"created": "day"}, ["second", "third"]),
        ({"created": "month"}, ["first", "second", "third"]),
        ({"created": "century"}, ["first", "second", "third"]),
        ({"queue": "exports", "created": "hour"}, []),
    ],
)
def test_the_filters(query: dict[str, str], found: list[str]) -> None:
    names = {
        started(owner="Ann", queue="exports"): "first",
        started(owner="Bo", scope="reports"): "second",
        started(): "third",
    }
    week = 7 * 86_400 * 1_000_000
    first = Job.objects.get(id=next(iter(names)))
    Job.objects.filter(pk=first.pk).update(created_time=first.created_time - week)
    assert sorted(names[job_id] for job_id in rows_of(staff("backjob.view_job"), **query)) == found


def test_the_filters_offer_the_names_of_owners_and_the_queues_of_recent_jobs() -> None:
    ann = User.objects.create(username="Ann")
    started(owner=str(ann.pk), queue="exports")
    page = staff("backjob.view_job").get(LIST).content.decode()
    assert re.search(rf'href="\?owner={ann.pk}"[^>]*>\s*Ann<', page)
    assert "?queue=exports" in page


# --- queries --------------------------------------------------------------------------------------------------------


def queries_of(call: Callable[[], object]) -> list[str]:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        call()
    return [query["sql"] for query in captured.captured_queries]


def test_the_number_of_queries_does_not_grow_with_the_jobs() -> None:
    client = staff("backjob.view_job", "auth.view_user")

    def grow(count: int) -> list[str]:
        for number in range(count):
            user = User.objects.create(username=f"user {User.objects.count()}")
            job_id = started(owner=str(user.pk), title=f"Job {number}", retries=2)
            assert jobs.store.change(job_id, *claimed("token", 1, 18))
        with recorded():
            noop.enqueue(1)
        return queries_of(lambda: client.get(LIST))

    grow(1)
    few, many = grow(2), grow(20)
    assert len(few) == len(many)
    of_jobs = [sql for sql in many if re.search(r"FROM .backjob_job.", sql)]
    assert len(of_jobs) == 3  # the keys, the page, and what the filters offer
    assert not [sql for sql in of_jobs if "COUNT(" in sql]
    assert not [sql for sql in of_jobs if re.search(r"\W(body|sealed|request|result|cursor)\W", sql)]


def test_a_search_reads_the_table_of_jobs_once_for_count_and_page() -> None:
    for number in range(60):
        started(title=f"Job {number}")
    client = staff("backjob.view_job")
    for query in ({"q": "job", "p": "2"}, {"q": "job 7"}, {"q": "nothing"}):
        searches = [
            sql for sql in queries_of(partial(client.get, LIST, query)) if re.search("INSTR|STRPOS|LOCATE", sql)
        ]
        assert len(searches) == 1, query


def test_pages_end_after_so_many_jobs_and_the_list_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [started() for _ in range(120)]
    client = staff("backjob.view_job")
    assert rows_of(client) == ids[:-51:-1]
    assert rows_of(client, p="3") == ids[19::-1]
    assert "These are the newest" not in client.get(LIST).content.decode()
    monkeypatch.setattr(changelist, "MOST_LISTED", 70)
    page = client.get(LIST)
    assert page.context["cl"].result_count == 70
    assert "These are the newest 70 jobs." in page.content.decode()
    assert rows_of(client, p="2") == ids[69:49:-1]


def test_a_site_whose_jobs_are_elsewhere_is_told_so(tmp_path: Path) -> None:
    started()
    client = staff("backjob.view_job")
    with override_settings(BACKJOB={"STORE": f"sqlite:///{tmp_path / 'jobs.db'}"}):
        jobs.reset()
        page = client.get(LIST)
        assert "are not in Django&#x27;s database" in page.content.decode()
        assert list(page.context["cl"].result_list) == []
    assert "are not in Django" not in client.get(LIST).content.decode()
