"""Who may cancel, delete and run again, and which requests show that the visitor meant it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve

from backjob.lifecycle import UNEXPECTED
from backjob.model import Headers, Status
from backjob.status.exchange import StatusResponse
from tests.unit.status.fake_jobs import HTML, NOON, SAME_ORIGIN, FakeJobs, a_state, fake_jobs, fetch

EVIL: Headers = (("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site"), ("Host", "shop.example"))
APP = "https://app.example"
FROM_APP: Headers = (("Origin", APP), ("Sec-Fetch-Site", "same-site"), ("Host", "shop.example"))
BEARER = ("Authorization", "Bearer abc")


@pytest.fixture
def jobs() -> FakeJobs:
    jobs = fake_jobs()
    jobs.states["job1"] = a_state(status=Status.FAILED, end_time=NOON, keeps_request=True)
    return jobs


def delete(jobs: FakeJobs, ref: str = "job1", **options: Any) -> StatusResponse:
    return fetch(jobs, f"/{ref}", method="DELETE", **options)


def run_again(jobs: FakeJobs, ref: str = "job1", **options: Any) -> StatusResponse:
    return fetch(jobs, f"/{ref}/run_again", method="POST", **options)


WHO = [
    ("job1", {"owner": "ann", "headers": SAME_ORIGIN}, 200),
    ("job1", {"manages_all": True, "headers": SAME_ORIGIN}, 200),
    ("job1", {"owner": "bob", "manages_all": True, "headers": SAME_ORIGIN}, 200),
    ("job1.manage-job1", {}, 200),
    ("job1.manage-job1", {"headers": EVIL}, 200),
    ("job1.view-job1", {"owner": "ann", "headers": SAME_ORIGIN}, 200),
    ("job1", {"owner": "ann", "headers": (BEARER,)}, 200),
    ("job1", {"owner": "ann", "headers": (("Authorization", "Token abc"), *EVIL)}, 200),
    ("job1", {"owner": "ann"}, 403),
    ("job1", {"owner": "ann", "headers": EVIL}, 403),
    ("job1", {"owner": "ann", "headers": (BEARER, ("Cookie", "session=1"))}, 403),
    ("job1", {"owner": "ann", "headers": (("Authorization", "Token abc"), ("Cookie", "session=1"))}, 403),
    ("job1", {"owner": "ann", "headers": (("Authorization", " "),)}, 403),
    ("job1", {"owner": "ann", "headers": (("Authorization", "Basic abc"),)}, 403),
    ("job1", {"owner": "ann", "headers": (("Authorization", "DIGEST username=ann"),)}, 403),
    ("job1", {"owner": "ann", "headers": (("Authorization", "Negotiate abc"),)}, 403),
    ("job1", {"owner": "ann", "headers": (("Remote-User", "ann"),)}, 403),
    ("job1", {"owner": "ann", "headers": (("Origin", "null"), ("Host", "shop.example"))}, 403),
    ("job1.view-job1", {"owner": "ann", "headers": EVIL}, 403),
    ("job1.cancel-job1", {"owner": "ann", "headers": EVIL}, 403),
    ("job1.cancel-job1", {"headers": SAME_ORIGIN}, 403),
    ("job1.view-job1", {"headers": SAME_ORIGIN}, 403),
    ("job1", {"sees_all": True, "headers": SAME_ORIGIN}, 403),
    ("job1", {"owner": "bob", "headers": SAME_ORIGIN}, 404),
    ("job1", {"owner": "", "headers": SAME_ORIGIN}, 404),
    ("job1", {"headers": SAME_ORIGIN}, 404),
    ("unowned", {"owner": "", "headers": SAME_ORIGIN}, 404),
    ("unowned", {"owner": "ann", "headers": SAME_ORIGIN}, 404),
    ("job2.manage-job1", {"headers": SAME_ORIGIN}, 404),
]


@pytest.mark.parametrize(("ref", "options", "status"), WHO, ids=str)
def test_who_may_delete_a_job(jobs: FakeJobs, ref: str, options: dict[str, Any], status: int) -> None:
    assert delete(jobs, ref, **options).status == status
    assert jobs.deleted == (["job1"] if status == 200 else [])
    by_form = fetch(fake_jobs(), f"/{ref}/delete", method="POST", **options)
    assert by_form.status == status


@pytest.mark.parametrize(("ref", "options", "status"), WHO, ids=str)
def test_who_may_run_a_job_again(jobs: FakeJobs, ref: str, options: dict[str, Any], status: int) -> None:
    response = run_again(jobs, ref, **options)
    assert response.status == (201 if status == 200 else status)
    assert jobs.again == (["job1"] if status == 200 else [])


@pytest.mark.parametrize(
    ("ref", "options", "status"),
    [
        *[(ref, options, 200) for ref, options, status in WHO if status == 200],
        ("job1.cancel-job1", {"headers": EVIL}, 200),
        ("job1.view-job1", {"headers": SAME_ORIGIN}, 403),
        ("job1", {"sees_all": True, "headers": SAME_ORIGIN}, 403),
        ("job1", {"manages_all": True, "headers": EVIL}, 403),
        ("job1", {"owner": "ann", "headers": EVIL}, 403),
        ("job1", {"owner": "bob", "headers": SAME_ORIGIN}, 404),
    ],
    ids=str,
)
def test_who_may_cancel_a_job(ref: str, options: dict[str, Any], status: int) -> None:
    jobs = fake_jobs()
    assert fetch(jobs, f"/{ref}/cancel", method="POST", **options).status == status
    assert jobs.cancelled == (["job1"] if status == 200 else [])


def test_a_deleted_job_is_gone_and_the_response_says_so(jobs: FakeJobs) -> None:
    response = delete(jobs, owner="ann", headers=SAME_ORIGIN)
    assert json.loads(response.body) == {"id": "job1", "deleted": True}
    assert delete(jobs, owner="ann", headers=SAME_ORIGIN).status == 404


def test_a_job_that_runs_again_is_answered_with_its_state_and_its_url(jobs: FakeJobs) -> None:
    response = run_again(jobs, owner="ann", headers=SAME_ORIGIN, mount="/shop/backjob")
    assert (response.status, response.header("Location")) == (201, "/shop/backjob/again.view-again")
    again = json.loads(response.body)
    assert (again["id"], again["links"]["cancel"]) == ("again", "/shop/backjob/again.cancel-again/cancel")


def test_the_job_that_an_earlier_press_has_started_shows_no_unexpected_error(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(
        status=Status.FAILED, status_text="KeyError: 'secret'", error=UNEXPECTED, keeps_request=True
    )
    assert b"secret" not in run_again(jobs, owner="ann", headers=SAME_ORIGIN).body
    assert b"secret" in run_again(jobs, owner="admin", headers=SAME_ORIGIN, manages_all=True).body


def test_a_job_that_can_not_run_again_is_a_409_with_the_reason(jobs: FakeJobs) -> None:
    jobs.refusal = "the request of this job was not kept"
    response = run_again(jobs, owner="ann", headers=SAME_ORIGIN)
    assert (response.status, json.loads(response.body)) == (409, {"error": f"not run again: {jobs.refusal}"})
    page = run_again(jobs, owner="ann", headers=(*SAME_ORIGIN, *HTML))
    assert page.status == 409
    assert b"The job could not be started again." in page.body


def test_a_job_that_needs_its_users_login_says_so_to_a_visitor_without_one(jobs: FakeJobs) -> None:
    jobs.refusal = "only its owner can run it again"
    jobs.states["job1"] = a_state(status=Status.FAILED, keeps_request=True)
    response = run_again(jobs, "job1.manage-job1")
    assert (response.status, json.loads(response.body)) == (403, {"error": f"not run again: {jobs.refusal}"})
    page = run_again(jobs, "job1.manage-job1", headers=HTML)
    assert (page.status, b"Log in, then try again." in page.body) == (403, True)
    assert run_again(jobs, "job1.manage-job1", owner="bob").status == 409


@pytest.mark.parametrize(
    ("ref", "options", "location"),
    [
        ("job1", {"owner": "ann"}, "/backjob/again"),
        ("job1.manage-job1", {"owner": "ann"}, "/backjob/again"),
        ("job1.manage-job1", {"manages_all": True}, "/backjob/again"),
        ("job1.manage-job1", {}, "/backjob/again.manage-again"),
    ],
    ids=str,
)
def test_a_person_is_redirected_to_the_new_job_without_a_token_if_possible(
    jobs: FakeJobs, ref: str, options: dict[str, Any], location: str
) -> None:
    response = run_again(jobs, ref, headers=(*SAME_ORIGIN, *HTML), **options)
    assert (response.status, response.header("Location")) == (303, location)


@pytest.mark.parametrize(
    ("back", "location"),
    [
        ("/reports?page=2", "/reports?page=2"),
        ("/r%C3%A9ports%3Fa%3Db%2520c", "/r%C3%A9ports?a=b%20c"),
        ("/a%3Fb%3D%2520", "/a?b=%20"),
        ("https%3A%2F%2Fevil.example", "/backjob/"),
        ("//evil.example", "/backjob/"),
        ("/%5Cevil.example", "/backjob/"),
        ("/%09/evil.example", "/backjob/"),
        ("/a%0D%0ASet-Cookie:x", "/backjob/"),
        ("javascript:alert(1)", "/backjob/"),
        ("/a%5Cb", "/backjob/"),
        ("", "/backjob/"),
        ("/a&then=/b", "/backjob/"),
    ],
)
def test_then_leads_to_a_path_of_this_site_and_to_no_other_one(jobs: FakeJobs, back: str, location: str) -> None:
    response = fetch(
        jobs, "/job1/delete", method="POST", query=f"then={back}", owner="ann", headers=(*SAME_ORIGIN, *HTML)
    )
    assert (response.status, response.header("Location")) == (303, location)


# --- other origins --------------------------------------------------------------------------------------------------


def shared(response: StatusResponse) -> dict[str, str]:
    return {name: value for name, value in response.headers if name.startswith("Access-Control")}


def test_a_page_of_a_trusted_origin_may_read_and_act(jobs: FakeJobs) -> None:
    jobs.trusted_origins = (APP,)
    seen = fetch(jobs, "/job1", owner="ann", headers=FROM_APP)
    assert (seen.header("Access-Control-Allow-Origin"), seen.header("Vary")) == (APP, "Accept, Origin")
    assert seen.header("Access-Control-Allow-Credentials") == "true"
    assert delete(jobs, owner="ann", headers=FROM_APP).status == 200
    unknown = fetch(jobs, "/unknown", owner="ann", headers=FROM_APP)
    assert (unknown.status, unknown.header("Access-Control-Allow-Origin")) == (404, APP)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.evil", "http://app.example", ""]
)
def test_a_page_of_another_origin_may_neither_read_nor_act(jobs: FakeJobs, origin: str) -> None:
    jobs.trusted_origins = (APP,)
    headers = (("Origin", origin), ("Sec-Fetch-Site", "cross-site"), ("Host", "shop.example"))
    seen = fetch(jobs, "/job1", owner="ann", headers=headers)
    assert (shared(seen), seen.header("Vary")) == ({}, "Accept, Origin")
    assert delete(jobs, owner="ann", headers=headers).status == 403
    asked = (*headers, ("Access-Control-Request-Method", "DELETE"))
    assert fetch(jobs, "/job1", method="OPTIONS", headers=asked).status == 405


def test_without_trusted_origins_no_response_has_cors_fields(jobs: FakeJobs) -> None:
    seen = fetch(jobs, "/job1", owner="ann", headers=FROM_APP)
    assert (shared(seen), seen.header("Vary")) == ({}, "Accept")
    asked = (*FROM_APP, ("Access-Control-Request-Method", "DELETE"))
    assert fetch(jobs, "/job1", method="OPTIONS", headers=asked).status == 405


def test_a_preflight_is_answered_without_a_look_at_the_job(jobs: FakeJobs) -> None:
    jobs.trusted_origins = (APP,)
    asked = (
        *FROM_APP,
        ("Access-Control-Request-Method", "DELETE"),
        ("Access-Control-Request-Headers", "authorization,x-csrf-token"),
    )
    known, unknown = (fetch(jobs, path, method="OPTIONS", headers=asked) for path in ("/job1", "/unknown"))
    assert known == unknown
    assert known.status == 200
    assert shared(known) == {
        "Access-Control-Allow-Origin": APP,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": "Backjob-Next-Offset, Content-Disposition, Location, Retry-After",
        "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
        "Access-Control-Allow-Headers": "authorization,x-csrf-token",
        "Access-Control-Max-Age": "600",
    }
    assert jobs.reads == 0


def test_a_preflight_echoes_no_strange_field_names(jobs: FakeJobs) -> None:
    jobs.trusted_origins = (APP,)
    asked = (*FROM_APP, ("Access-Control-Request-Method", "GET"), ("Access-Control-Request-Headers", "a\r\nX-B: 1"))
    assert "Access-Control-Allow-Headers" not in shared(fetch(jobs, "/job1", method="OPTIONS", headers=asked))


# --- links ----------------------------------------------------------------------------------------------------------


def links(jobs: FakeJobs, ref: str = "job1", query: str = "", **options: Any) -> dict[str, str | None]:
    found: dict[str, str | None] = json.loads(fetch(jobs, f"/{ref}", query=query, **options).body)["links"]
    return found


def test_links_have_tokens_for_exactly_the_visitors_rights(jobs: FakeJobs) -> None:
    managed = {
        "self": "/backjob/job1.view-job1",
        "events": None,
        "output": "/backjob/job1.view-job1/output",
        "file": None,
        "cancel": None,
        "run_again": "/backjob/job1.manage-job1/run_again",
    }
    assert links(jobs, owner="ann") == managed
    assert links(jobs, manages_all=True) == managed
    assert links(jobs, "job1.manage-job1") == managed
    assert links(jobs, "job1.view-job1", owner="ann") == managed
    viewed = managed | {"run_again": None}
    others: list[tuple[str, dict[str, Any]]] = [
        ("job1.view-job1", {"owner": "bob"}),
        ("job1.cancel-job1", {}),
        ("job1", {"sees_all": True}),
    ]
    for ref, options in others:
        assert links(jobs, ref, **options) == viewed
    jobs.states["job1"] = evolve(
        jobs.states["job1"], keeps_request=False, file={"name": "a.csv", "type": "", "size": 1}
    )
    assert links(jobs, owner="ann") == viewed | {"file": "/backjob/job1.view-job1/file"}


def test_a_job_that_only_its_owner_can_run_again_is_offered_to_nobody_else(jobs: FakeJobs) -> None:
    jobs.needs_owner = True
    for owner, is_offered in [("ann", True), ("bob", False)]:
        assert (links(jobs, owner=owner, manages_all=True)["run_again"] is not None) is is_offered
        for path in ("/job1", "/"):
            page = fetch(jobs, path, headers=HTML, owner=owner, manages_all=True).body
            assert (b"job1.manage-job1/run_again" in page) is is_offered
    assert links(jobs, "job1.manage-job1")["run_again"] is not None


def test_only_a_visitor_who_may_cancel_gets_a_link_to_cancel_an_unfinished_job() -> None:
    jobs = fake_jobs()
    cancel = "/backjob/job1.cancel-job1/cancel"
    assert links(jobs, owner="ann")["cancel"] == cancel
    assert links(jobs, "job1.cancel-job1")["cancel"] == cancel
    assert links(jobs, "job1.view-job1")["cancel"] is None
    assert links(jobs, sees_all=True)["cancel"] is None
    assert links(jobs, manages_all=True)["run_again"] is None


@pytest.mark.parametrize(
    ("public", "query", "base"),
    [
        (None, "", "/shop/backjob"),
        (None, "absolute=1", "https://shop.example/shop/backjob"),
        ("https://www.shop.example/x/backjob", "absolute=1", "https://www.shop.example/x/backjob"),
        ("https://www.shop.example/x/backjob", "", "/shop/backjob"),
        (None, "absolute=0", "/shop/backjob"),
    ],
)
def test_links_are_absolute_on_request(jobs: FakeJobs, public: str | None, query: str, base: str) -> None:
    jobs.public = public
    assert links(jobs, query=query, owner="ann", mount="/shop/backjob")["self"] == f"{base}/job1.view-job1"
