"""The list of jobs: whose jobs it has, its filter and its pages, as JSON and as HTML."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from backjob.model import Headers, Query, Request, Status
from backjob.status.endpoints import Endpoints, Visit
from backjob.status.exchange import StatusResponse
from tests.unit.core import bench
from tests.unit.status.fake_jobs import HTML, NOON, SAME_ORIGIN, FakeJobs, a_state, fake_jobs, fetch

FORGED = '<script>alert(1)</script>"&'


@pytest.fixture
def jobs() -> FakeJobs:
    return fake_jobs()


def ids(response: StatusResponse) -> list[str]:
    assert response.status == 200
    return [job["id"] for job in json.loads(response.body)["jobs"]]


def page(jobs: FakeJobs, query: str = "", headers: Headers = HTML, **options: Any) -> str:
    response = fetch(jobs, "/", query=query, headers=headers, **options)
    assert (response.status, response.header("Content-Type")) == (200, "text/html; charset=utf-8")
    return response.body.decode()


def test_the_list_has_the_visitors_own_jobs(jobs: FakeJobs) -> None:
    assert ids(fetch(jobs, "/", owner="ann")) == ["job1"]
    assert ids(fetch(jobs, "/", owner="bob")) == ["job2"]
    assert ids(fetch(jobs, "/", owner="eve")) == []


@pytest.mark.parametrize("owner", [None, ""])
def test_a_visitor_without_an_owner_has_no_jobs_and_none_are_read(jobs: FakeJobs, owner: str | None) -> None:
    response = fetch(jobs, "/", owner=owner)
    assert json.loads(response.body) == {"jobs": [], "next": None}
    assert "Log in to see your jobs." in page(jobs, owner=owner)
    assert jobs.queries == []


@pytest.mark.parametrize("options", [{"sees_all": True}, {"manages_all": True}, {"owner": "ann", "sees_all": True}])
def test_who_may_see_all_gets_all_jobs_with_their_owners(jobs: FakeJobs, options: dict[str, Any]) -> None:
    assert ids(fetch(jobs, "/", **options)) == ["job1", "job2", "unowned"]
    assert '<span data-label="Owner">bob</span>' in page(jobs, **options)
    assert "Owner" not in page(jobs, owner="ann")


def test_a_job_in_the_list_is_its_state_with_links(jobs: FakeJobs) -> None:
    [job] = json.loads(fetch(jobs, "/", owner="ann").body)["jobs"]
    assert job["links"]["cancel"] == "/backjob/job1.cancel-job1/cancel"
    del job["links"]
    assert job == a_state().as_dict()
    seen = json.loads(fetch(jobs, "/", sees_all=True).body)["jobs"]
    assert {job["links"]["cancel"] for job in seen} == {None}


def test_the_parameters_become_the_query(jobs: FakeJobs) -> None:
    fetch(jobs, "/", owner="ann", query="status=failed&queue=exports&q=%20rep%20&before=job1.1772366400000001&limit=7")
    assert jobs.queries == [
        Query(
            owner="ann",
            status=Status.FAILED,
            queue="exports",
            text="rep",
            before="job1",
            before_time=NOON + timedelta(microseconds=1),
            limit=8,
        )
    ]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("status=9", "status"),
        ("status=failed&status=started", "status"),
        ("before=a.b", "before"),
        ("before=a.999999999999999999", "before"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("q=" + "x" * 101, "q"),
        ("q=%00", "q"),
        ("&".join(f"a{number}=1" for number in range(30)), "query"),
    ],
)
def test_a_wrong_parameter_is_a_400_that_names_it(jobs: FakeJobs, query: str, name: str) -> None:
    response = fetch(jobs, "/", owner="ann", query=query)
    assert response.status == 400
    assert json.loads(response.body)["error"].startswith(f"{name}: ")
    assert fetch(jobs, "/", owner="ann", query=query, headers=HTML).header("Content-Type") == "text/html; charset=utf-8"
    assert jobs.queries == []


def many() -> FakeJobs:
    return FakeJobs(states={f"j{n}": a_state(id=f"j{n}", created_time=NOON) for n in range(4)})


def test_the_next_page_begins_after_the_last_jobs_position() -> None:
    response = fetch(many(), "/", owner="ann", query="limit=3&q=a%20b")
    assert len(ids(response)) == 3
    assert json.loads(response.body)["next"] == "/backjob/?q=a+b&before=j2.1772366400000000&limit=3"
    assert json.loads(fetch(many(), "/", owner="ann", query="limit=4").body)["next"] is None
    absolute = json.loads(fetch(many(), "/", owner="ann", query="limit=3&absolute=1").body)["next"]
    assert absolute == "https://shop.example/backjob/?before=j2.1772366400000000&limit=3&absolute=1"


def test_a_page_links_to_older_and_to_newer_jobs() -> None:
    shown = page(many(), "limit=3&before=j0", owner="ann")
    assert '<a rel="next" href="/backjob/?before=j2.1772366400000000&amp;limit=3">Older jobs</a>' in shown
    assert '<a href="/backjob/?limit=3">Newer jobs</a>' in shown
    first = page(many(), owner="ann")
    assert "Older jobs" not in first
    assert "Newer jobs" not in first


def test_without_the_slash_the_list_redirects_to_it_with_its_query(jobs: FakeJobs) -> None:
    response = fetch(jobs, "", query="q=a", mount="/shop/backjob")
    assert (response.status, response.header("Location")) == (307, "/shop/backjob/?q=a")
    assert fetch(jobs, "", method="POST").status == 405


def test_a_store_that_can_not_list_says_so(jobs: FakeJobs) -> None:
    jobs.can_list = False
    assert fetch(jobs, "/", owner="ann").status == 501
    assert b"can&#x27;t be listed" in fetch(jobs, "/", owner="ann", headers=HTML).body


# --- the page -------------------------------------------------------------------------------------------------------


def test_all_values_on_the_page_are_escaped(jobs: FakeJobs) -> None:
    forged = dict.fromkeys(("title", "method", "path", "owner", "status_text"), FORGED)
    jobs.states = {"job1": a_state(status=Status.FAILED, end_time=NOON, **forged)}
    shown = page(jobs, f"q={FORGED.replace('&', '%26')}&queue={FORGED.replace('&', '%26')}", sees_all=True)
    assert "<script>" not in shown
    assert '"&"' not in shown
    assert shown.count("&lt;script&gt;alert(1)") >= 7


def test_the_page_shows_title_route_state_progress_duration_and_error(jobs: FakeJobs) -> None:
    jobs.states = {
        "job1": a_state(
            title="Invoices 2026",
            method="POST",
            path="/invoices",
            status=Status.FAILED,
            status_text="The bank does not answer",
            progress=40,
            created_time=NOON,
            claimed_time=NOON,
            end_time=NOON + timedelta(seconds=75),
        )
    }
    shown = page(jobs, owner="ann")
    for part in (
        '<a href="/backjob/job1?back=%2Fbackjob%2F">Invoices 2026</a>',
        "<code>POST /invoices</code>",
        ">Failed<",
        'value="40"',
        "40%",
        ">1 min 15 sec<",
        ">The bank does not answer<",
        'datetime="2026-03-01T12:00:00+00:00"',
    ):
        assert part in shown
    assert "Owner" not in shown


def test_the_pages_forms_carry_tokens_and_return_to_the_page(jobs: FakeJobs) -> None:
    url = "%2Fbackjob%2F%3Fstatus%3Dfailed"
    jobs.states = {"job1": a_state(status=Status.FAILED, end_time=NOON, keeps_request=True), "job2": a_state(id="job2")}
    shown = page(jobs, "status=failed", owner="ann")
    assert f'<form method="post" action="/backjob/job1.manage-job1/run_again?back={url}">' in shown
    assert f'<form method="post" action="/backjob/job1.manage-job1/delete?then={url}">' in shown
    assert f'<form method="post" action="/backjob/job2.cancel-job2/cancel?then={url}">' in shown
    assert shown.count("<form") == 4
    assert '<option value="failed" selected>' in shown


def test_a_visitor_who_only_sees_all_gets_no_forms_for_the_jobs(jobs: FakeJobs) -> None:
    assert page(jobs, sees_all=True).count("<form") == 1


def test_the_page_leads_back_to_its_own_url_after_a_cancel(jobs: FakeJobs) -> None:
    response = fetch(
        jobs, "/job1.cancel-job1/cancel", method="POST", query="then=%2Fbackjob%2F%3Fstatus%3Dfailed", headers=HTML
    )
    assert (response.status, response.header("Location")) == (303, "/backjob/?status=failed")


def test_the_page_leads_back_to_the_page_of_the_site_that_it_was_opened_from(jobs: FakeJobs) -> None:
    shown = page(jobs, "back=%2Forders%3Fy%3D1&limit=1", sees_all=True)
    assert '<p class="backjob-back"><a href="/orders?y=1">Back</a></p>' in shown
    assert '<input type="hidden" name="back" value="/orders?y=1">' in shown
    assert 'href="/backjob/job1?back=%2Fbackjob%2F%3Flimit%3D1%26back%3D%252Forders%253Fy%253D1"' in shown
    assert 'limit=1&amp;back=%2Forders%3Fy%3D1">Older jobs</a>' in shown
    assert "evil" not in page(jobs, "back=https%3A%2F%2Fevil.example%2F", owner="ann")
    assert "orders" not in fetch(jobs, "/", query="back=%2Forders&limit=1", sees_all=True).body.decode()


def test_the_page_links_to_the_files_of_jobs(jobs: FakeJobs) -> None:
    file = {"name": "orders.csv", "type": "text/csv", "size": 3}
    jobs.states = {"job1": a_state(status=Status.COMPLETED, end_time=NOON, file=file)}
    assert '<a href="/backjob/job1/file" download>Download orders.csv</a>' in page(jobs, owner="ann")


def test_a_second_click_on_delete_leads_to_the_list_too(jobs: FakeJobs) -> None:
    del jobs.states["job1"]
    options: dict[str, Any] = {"method": "POST", "query": "then=%2Forders", "headers": HTML}
    response = fetch(jobs, "/job1.manage-job1/delete", **options)
    assert (response.status, response.header("Location")) == (303, "/orders")
    for path in ("/job1.cancel-job1/delete", "/job1.manage-job1/cancel"):
        response = fetch(jobs, path, **options)
        assert response.status == 404
        assert b'<a href="/orders">Back</a>' in response.body
    assert fetch(jobs, "/job1.manage-job1/delete", method="POST").status == 404


@pytest.mark.parametrize("ref", ["job1", "job1.view-job1", "job2", "unknown"])
def test_a_second_click_on_delete_in_a_list_without_tokens_leads_on_too(jobs: FakeJobs, ref: str) -> None:
    del jobs.states["job1"]
    options: dict[str, Any] = {"method": "POST", "query": "then=%2Forders", "owner": "ann"}
    response = fetch(jobs, f"/{ref}/delete", headers=(*SAME_ORIGIN, *HTML), **options)
    assert (response.status, response.header("Location")) == (303, "/orders")
    assert jobs.deleted == []
    assert fetch(jobs, f"/{ref}/delete", headers=HTML, **options).status == 404, "from another site"
    assert fetch(jobs, f"/{ref}/delete", headers=SAME_ORIGIN, **options).status == 404, "a program"
    assert fetch(jobs, f"/{ref}/cancel", headers=(*SAME_ORIGIN, *HTML), **options).status == 404


@pytest.mark.parametrize("action", ["cancel", "run_again", "delete"])
@pytest.mark.parametrize(("ref", "status"), [("job1", 404), ("job1.view-job1", 403), ("unknown", 404)])
def test_a_click_without_a_login_says_that_one_must_log_in(jobs: FakeJobs, ref: str, status: int, action: str) -> None:
    options: dict[str, Any] = {"method": "POST", "query": "then=%2Forders", "headers": (*SAME_ORIGIN, *HTML)}
    response = fetch(jobs, f"/{ref}/{action}", **options)
    assert response.status == status
    assert b"You are not logged in. Log in, then try again." in response.body
    assert b'<a href="/orders">Back</a>' in response.body
    other = fetch(jobs, f"/job1.view-job1/{action}", owner="bob", **options)
    assert (other.status, b"You may not do that." in other.body) == (403, True)


def test_an_empty_list_says_why(jobs: FakeJobs) -> None:
    assert "There are no jobs yet." in page(jobs, owner="eve")
    assert "No job matches." in page(jobs, "q=x", owner="eve")
    assert "<table" not in page(jobs, owner="eve")


def test_a_job_that_waits_says_why_and_a_file_can_be_downloaded(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(status=Status.STARTED, status_text="", waiting_for="due")
    assert '<span class="backjob-text">waiting until it is due</span>' in page(jobs, owner="ann")
    jobs.states["job1"] = a_state(
        status=Status.COMPLETED, status_text="Exported", file={"name": '"><b>.csv', "type": "text/csv", "size": 1}
    )
    assert "download>Download &quot;&gt;&lt;b&gt;.csv</a>" in page(jobs, owner="ann")


def test_a_text_that_repeats_the_state_is_left_out(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(status=Status.CANCELLED, status_text="cancelled")
    german = page(jobs, headers=(*HTML, ("Accept-Language", "de")), owner="ann")
    assert "Abgebrochen</td>" in german
    assert "backjob-text" not in german


def test_a_job_that_waits_has_no_duration_and_no_progress(jobs: FakeJobs) -> None:
    jobs.states = {"job1": evolve(a_state(), status=Status.STARTED, progress=0)}
    shown = page(jobs, owner="ann")
    assert "Waiting to start" in shown
    assert "<progress" not in shown


def test_the_page_speaks_the_browsers_language(jobs: FakeJobs) -> None:
    german = page(jobs, headers=(*HTML, ("Accept-Language", "de-AT,en;q=0.5")), owner="ann")
    assert '<html lang="de">' in german
    assert "Hintergrundaufträge" in german
    assert ">Läuft<" in german


@pytest.mark.parametrize("time", ["", ".99999999999999999"])
def test_a_page_does_not_show_whether_another_user_has_the_job_before_it(time: str) -> None:
    world = bench()
    own = world.start(owner="ann")
    of_another = world.start(owner="bob")

    def found(job_id: str, *, sees_all: bool = False) -> list[str]:
        request = Request("GET", f"/backjob/?before={job_id}{time}")
        visit = Visit(request, "/", "ann", "/backjob", sees_all)
        answer = Endpoints(world.engine, "/backjob").respond(visit)
        return [job["id"] for job in json.loads(answer.body)["jobs"]]

    later = world.start(owner="ann")
    assert found(of_another) == found("unknown") == ([later, own] if time else [])
    assert found(later) == [own]
    assert found(of_another, sees_all=True) == [own]
