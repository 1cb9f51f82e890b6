"""The status routes: routing, access, content negotiation, escaping, and the header fields of each response."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from backjob.errors import InvalidRequest, StoreUnusable
from backjob.model import Headers, JobState, JsonValue, Request, Status
from backjob.signing import MessageSigner
from backjob.signing.tokens import Access
from backjob.signing.tokens import Right as Granted
from backjob.status.endpoints import Endpoints, StatusResponse, Visit
from backjob.status.exchange import preferred
from backjob.status.page import fill, headline, result_link
from tests.unit.core import Bench, bench
from tests.unit.status.fake_jobs import CHUNK, HTML, NOON, SAME_ORIGIN, FakeJobs, a_state, fake_jobs, fetch

OTHER_KEY = "Xo5TgHq1_iWn8-eRkUz3McVb6YsLa0Pd"


@pytest.fixture
def jobs() -> FakeJobs:
    return fake_jobs()


@pytest.mark.parametrize(
    ("path", "method", "calls"),
    [
        ("/progress.js", "GET", 0),
        ("/terminal.js", "GET", 0),
        ("/words.js", "GET", 0),
        ("/progress.css", "GET", 0),
        ("/unknown.xyz/abc", "GET", 0),
        ("/a/b/c", "GET", 0),
        ("/", "GET", 1),
        ("/", "POST", 0),
        ("/job1", "PUT", 0),
        ("/job1.view-job1", "GET", 1),  # for the links
        ("/job1.manage-job1", "GET", 0),
        ("/job1.manage-job1", "DELETE", 0),
        ("/job1.view-job1/output", "GET", 0),
        ("/job1.view-job1/fragment", "GET", 0),
        ("/job1.manage-job1/cancel", "POST", 0),
        ("/job1", "GET", 1),
        ("/job1/output", "GET", 1),
        ("/job1.view-job1/cancel", "POST", 1),
    ],
)
def test_the_owner_hook_is_called_only_by_routes_that_need_the_visitor(
    jobs: FakeJobs, path: str, method: str, calls: int
) -> None:
    called: list[str] = []

    def owner() -> None:
        called.append("owner")

    def sees_all() -> bool:
        called.append("sees_all")
        return False

    headers = (("Accept", "application/json"),)
    Endpoints(jobs, "/backjob").respond(Visit(Request(method, path, headers), path, owner, "/backjob", sees_all))
    assert called.count("owner") == calls
    assert called.count("sees_all") <= calls


def page_of(jobs: FakeJobs, path: str = "/job1.view-job1", *, owner: str | None = None, mount: str = "/backjob") -> str:
    response = fetch(jobs, path, headers=HTML, owner=owner, mount=mount)
    assert response.status == 200
    assert response.header("Content-Type") == "text/html; charset=utf-8"
    return response.body.decode("utf-8")


class Page(HTMLParser):
    """A page as a browser parses it: its elements with their attributes, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


# --- responses -----------------------------------------------------------------------------------------------


def test_the_state_is_the_jobs_dictionary_as_json(jobs: FakeJobs) -> None:
    response = fetch(jobs, "/job1", owner="ann")
    assert (response.status, response.header("content-type")) == (200, "application/json")
    given = json.loads(response.body)
    assert given.pop("links").keys() == {"self", "events", "output", "file", "cancel", "run_again"}
    assert given == a_state().as_dict()


def test_output_is_json_from_the_offset(jobs: FakeJobs) -> None:
    response = fetch(jobs, "/job1.view-job1/output", query="offset=6")
    assert json.loads(response.body) == {"text": "second ä\n", "next_offset": 16, "truncated": False, "tail": ""}


def test_output_without_an_offset_starts_at_0_and_states_whether_it_was_truncated(jobs: FakeJobs) -> None:
    jobs.truncated = True
    response = fetch(jobs, "/job1/output", owner="ann")
    assert json.loads(response.body) == {"text": "first\nsecond ä\n", "next_offset": 16, "truncated": True, "tail": ""}


def test_output_past_the_end_is_empty(jobs: FakeJobs) -> None:
    assert json.loads(fetch(jobs, "/job1/output", owner="ann", query="offset=16").body)["text"] == ""


def test_plain_text_output_has_the_next_offset_in_a_header_field(jobs: FakeJobs) -> None:
    response = fetch(jobs, "/job1/output", owner="ann", query="offset=6", headers=(("accept", "text/plain"),))
    assert response.header("Content-Type") == "text/plain; charset=utf-8"
    assert response.header("Backjob-Next-Offset") == "16"
    assert response.body == "second ä\n".encode()


@pytest.mark.parametrize(
    "query", ["offset=-1", "offset=x", "offset=", "offset=1.5", "offset=1&offset=2", "offset=٣", "offset=" + "9" * 16]
)  # fmt: skip
def test_a_bad_offset_is_refused(jobs: FakeJobs, query: str) -> None:
    response = fetch(jobs, "/job1/output", owner="ann", query=query)
    assert response.status == 400
    assert "offset" in json.loads(response.body)["error"]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/progress.js", "text/javascript"),
        ("/terminal.js", "text/javascript"),
        ("/words.js", "text/javascript"),
        ("/progress.css", "text/css"),
    ],
)
def test_static_files_are_public_and_cacheable(jobs: FakeJobs, path: str, media_type: str) -> None:
    response = fetch(jobs, path)
    assert response.status == 200
    assert response.header("Content-Type") == f"{media_type}; charset=utf-8"
    assert response.header("Cache-Control") == "public, max-age=3600"
    assert response.header("X-Content-Type-Options") == "nosniff"
    assert any(word in response.body for word in (b"bj-", b"backjob-progress", b"export const language"))
    assert jobs.reads == 0


@pytest.mark.parametrize(
    "path",
    [
        *("//", "/job1/", "/job1/nothing", "/job1/output/", "/job1//output", "/job1./output"),
        *(
            "/../progress.js",
            "/page.html",
            "/progress.d.ts",
            "/progress.py",
            "/job1.a.b/x/y",
            "/jöb1",
            "/job1\0",
            "/job1.view-job1\n",
        ),
        "/" + "a" * 200,
    ],
)
def test_an_unknown_path_is_not_found(jobs: FakeJobs, path: str) -> None:
    assert fetch(jobs, path, owner="ann").status == 404


def test_head_is_get_without_the_body(jobs: FakeJobs) -> None:
    for path in ("/job1", "/job1/output", "/progress.js", "/unknown"):
        for headers in ((), HTML):
            got = fetch(jobs, path, owner="ann", headers=headers)
            head = fetch(jobs, path, owner="ann", headers=headers, method="HEAD")
            assert head == evolve(got, body=b"")
            assert got.body


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/job1", "POST", "GET, HEAD, DELETE"),
        ("/", "DELETE", "GET, HEAD"),
        ("/job1/delete", "GET", "POST"),
        ("/job1/run_again", "GET", "POST"),
        ("/progress.js", "DELETE", "GET, HEAD"),
        ("/job1.view-job1/output", "DELETE", "GET, HEAD"),
        ("/job1/cancel", "GET", "POST"),
        ("/job1/cancel", "HEAD", "POST"),
        ("/progress.js", "POST", "GET, HEAD"),
        ("/job1/fragment", "POST", "GET, HEAD"),
        ("/unknown", "OPTIONS", "GET, HEAD, DELETE"),
        ("/job1", "get", "GET, HEAD, DELETE"),
    ],
)
def test_another_method_is_405_with_the_allowed_methods_whether_the_job_exists_or_not(
    jobs: FakeJobs, path: str, method: str, allow: str
) -> None:
    response = fetch(jobs, path, method=method)
    assert (response.status, response.header("Allow")) == (405, allow)
    assert jobs.reads == 0


@pytest.mark.parametrize(("method", "path"), [("GET", "/job1"), ("GET", "/job1/output"), ("POST", "/job1/cancel")])
def test_an_unavailable_store_is_503_with_retry_after(jobs: FakeJobs, method: str, path: str) -> None:
    jobs.down = True
    response = fetch(jobs, path, method=method, owner="ann", headers=SAME_ORIGIN)
    assert (response.status, response.header("Retry-After")) == (503, "2")
    assert "error" in json.loads(response.body)


# --- access -------------------------------------------------------------------------------------------------

SEEN, HIDDEN = 200, 404


@pytest.mark.parametrize(
    ("path", "owner", "status"),
    [
        ("/job1", "ann", SEEN),
        ("/job1", "bob", HIDDEN),
        ("/job1", "", HIDDEN),
        ("/job1", None, HIDDEN),
        ("/job1.view-job1", None, SEEN),
        ("/job1.cancel-job1", None, SEEN),
        ("/job1.view-job1", "bob", SEEN),
        ("/job1.view-job2", None, HIDDEN),
        ("/job1.cancel-job2", "bob", HIDDEN),
        ("/job1.wrong", None, HIDDEN),
        ("/job1.wrong", "ann", SEEN),
        ("/job1.", "ann", HIDDEN),
        ("/unowned", None, HIDDEN),
        ("/unowned", "", HIDDEN),
        ("/unowned", "ann", HIDDEN),
        ("/unowned", "None", HIDDEN),
        ("/unowned.view-unowned", None, SEEN),
        ("/unknown", "ann", HIDDEN),
        ("/unknown", None, HIDDEN),
        ("/purged.view-purged", None, HIDDEN),
    ],
)
@pytest.mark.parametrize("leaf", ["", "/output", "/fragment"])
def test_only_the_owner_or_a_token_opens_a_job(
    jobs: FakeJobs, path: str, owner: str | None, status: int, leaf: str
) -> None:
    assert fetch(jobs, path + leaf, owner=owner).status == status


def test_a_visitor_without_access_gets_the_same_response_as_for_an_unknown_job(jobs: FakeJobs) -> None:
    unknown = fetch(jobs, "/unknown", owner="bob")
    page = fetch(jobs, "/unknown", owner="bob", headers=HTML)
    for path, owner in [
        ("/job1", "bob"),
        ("/job1", None),
        ("/job1.wrong", None),
        ("/job1.view-job2", "bob"),
        ("/unowned", None),
        ("/job1/output", "bob"),
        ("/job1/nothing", "ann"),
        ("/purged.view-purged", None),
        ("//", None),
    ]:
        assert fetch(jobs, path, owner=owner) == unknown
        assert fetch(jobs, path, owner=owner, headers=HTML) == page
    assert fetch(jobs, "/job1/cancel", method="POST", owner="bob", headers=SAME_ORIGIN) == unknown
    assert unknown.body == b'{"error": "not found"}'
    assert (page.status, page.header("Content-Type")) == (404, "text/html; charset=utf-8")
    assert b"This job does not exist, or you may not see it." in page.body


def test_a_link_that_another_key_signed_says_so_whether_the_job_exists_or_not(jobs: FakeJobs) -> None:
    token = Access(MessageSigner(OTHER_KEY)).token("job1")
    known, unknown = (fetch(jobs, f"/{job_id}.{token}") for job_id in ("job1", "unknown"))
    assert known == unknown
    assert known.status == 404
    assert "do all processes have the same key?" in json.loads(known.body)["error"]
    page = fetch(jobs, f"/job1.{token}", headers=HTML)
    assert (page.status, page.header("Content-Type")) == (404, "text/html; charset=utf-8")
    assert b"do all processes have the same key?" in page.body
    assert jobs.reads == 0


def test_a_link_that_another_key_signed_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    world = bench()
    token = Access(MessageSigner(OTHER_KEY)).token("job1", Granted.CANCEL)
    for seconds in (0, 59, 1):
        world.clock.advance(seconds)
        Endpoints(world.engine, "/backjob").respond(
            Visit(Request("GET", f"/backjob/job1.{token}"), f"/job1.{token}", None, "/backjob")
        )
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert "do all processes have the same key" in warnings[0]
    assert token not in caplog.text


@pytest.mark.parametrize("error", [StoreUnusable("no such table"), StoreUnusable("another layout")])
def test_a_store_that_can_not_be_used_is_a_503_without_details(
    jobs: FakeJobs, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Unusable(FakeJobs):
        def status(self, job_id: str) -> JobState:
            raise error

    response = fetch(Unusable(), "/job1", owner="ann")
    assert response.status == 503
    assert json.loads(response.body) == {"error": "background jobs are not configured; see the log"}
    assert str(error) in caplog.text


def test_an_empty_owner_has_no_access_even_to_a_job_with_an_empty_owner(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(owner="")
    assert fetch(jobs, "/job1", owner="").status == 404


def test_without_an_owner_or_a_valid_token_the_store_is_not_read(jobs: FakeJobs) -> None:
    fetch(jobs, "/job1")
    fetch(jobs, "/job1.wrong")
    assert jobs.reads == 0


def test_a_visitor_who_sees_all_views_every_job_and_cancels_none(jobs: FakeJobs) -> None:
    assert fetch(jobs, "/unowned", sees_all=True).status == 200
    assert fetch(jobs, "/job1", sees_all=True, owner="bob").status == 200
    assert fetch(jobs, "/unknown", sees_all=True).status == 404
    assert fetch(jobs, "/job1/cancel", method="POST", sees_all=True, headers=SAME_ORIGIN).status == 403
    assert jobs.cancelled == []


# --- cancel ---------------------------------------------------------------------------------------------------------


def cancel(
    jobs: FakeJobs, path: str = "/job1/cancel", *, owner: str | None = "ann", headers: Headers = SAME_ORIGIN
) -> StatusResponse:
    return fetch(jobs, path, method="POST", owner=owner, headers=headers)


def test_a_token_to_cancel_works_from_any_site(jobs: FakeJobs) -> None:
    response = cancel(jobs, "/job1.cancel-job1/cancel", owner=None, headers=(("Sec-Fetch-Site", "cross-site"),))
    assert response.status == 200
    assert json.loads(response.body)["status_name"] == "CANCELLED"
    assert jobs.cancelled == ["job1"]


def test_a_token_to_view_does_not_cancel(jobs: FakeJobs) -> None:
    assert cancel(jobs, "/job1.view-job1/cancel", owner=None).status == 403
    assert cancel(jobs, "/job1.view-job1/cancel", owner="bob").status == 403
    assert jobs.cancelled == []


@pytest.mark.parametrize("owner", [None, ""])
def test_an_anonymous_visitor_does_not_own_a_job_without_an_owner(jobs: FakeJobs, owner: str | None) -> None:
    jobs.states["unowned"] = a_state(id="unowned", owner=owner)
    assert cancel(jobs, "/unowned.view-unowned/cancel", owner=owner).status == 403
    assert not Page(page_of(jobs, "/unowned.view-unowned", owner=owner)).all("form")
    assert jobs.cancelled == []


@pytest.mark.parametrize(
    "headers",
    [
        (("Sec-Fetch-Site", "same-origin"),),
        (("sec-fetch-site", "same-origin"), ("Origin", "null")),
        (("Origin", "https://shop.example"), ("Host", "shop.example")),
        (("Origin", "https://shop.example"), ("Host", "SHOP.example:443")),
        (("Origin", "http://shop.example:8000"), ("Host", "shop.example:8000")),
        (("Origin", "http://[::1]:8000"), ("Host", "[::1]:8000")),
    ],
)
@pytest.mark.parametrize("path", ["/job1/cancel", "/job1.view-job1/cancel"])
def test_the_owner_cancels_from_a_page_of_the_same_origin(jobs: FakeJobs, headers: Headers, path: str) -> None:
    assert cancel(jobs, path, headers=headers).status == 200
    assert jobs.cancelled == ["job1"]


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Host", "shop.example"),),
        (("Origin", "https://shop.example"),),
        (("Origin", ""), ("Host", "")),
        (("Origin", "https://"), ("Host", "")),
        (("Origin", "null"), ("Host", "null")),
        (("Origin", "https://evil.example"), ("Host", "shop.example")),
        (("Origin", "https://shop.example.evil.example"), ("Host", "shop.example")),
        (("Origin", "http://shop.example:8000"), ("Host", "shop.example")),
        (("Origin", "file://shop.example"), ("Host", "shop.example")),
        (("Referer", "https://shop.example/"), ("Host", "shop.example")),
        (("Sec-Fetch-Site", "same-site"),),
        (("Sec-Fetch-Site", "none"),),
        (("Sec-Fetch-Site", "cross-site"), ("Origin", "https://shop.example"), ("Host", "shop.example")),
        (("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-origin")),
        (("Origin", "https://shop.example"), ("Origin", "https://evil.example"), ("Host", "shop.example")),
    ],
)
def test_without_proof_of_the_same_origin_the_owner_cancels_nothing(jobs: FakeJobs, headers: Headers) -> None:
    assert cancel(jobs, headers=headers).status == 403
    assert jobs.cancelled == []


def test_cancelling_twice_succeeds(jobs: FakeJobs) -> None:
    assert [cancel(jobs).status, cancel(jobs).status] == [200, 200]
    assert jobs.cancelled == ["job1"]


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_cancelling_an_ended_job_is_409_with_its_state(jobs: FakeJobs, status: Status) -> None:
    jobs.states["job1"] = a_state(status=status, end_time=NOON)
    response = cancel(jobs)
    assert response.status == 409
    body = json.loads(response.body)
    assert body["status_name"] == status.name
    assert status.name in body["error"]


@pytest.mark.parametrize(
    ("path", "owner", "location"),
    [
        ("/job1/cancel", "ann", "/app/backjob/job1"),
        ("/job1.cancel-job1/cancel", None, "/app/backjob/job1.cancel-job1"),
        ("/job1.cancel-job1/cancel", "ann", "/app/backjob/job1"),
    ],
)
@pytest.mark.parametrize("ended", [False, True])
def test_after_the_form_the_browser_is_redirected_to_the_page(
    jobs: FakeJobs, path: str, owner: str | None, location: str, ended: bool
) -> None:
    if ended:
        jobs.states["job1"] = a_state(status=Status.COMPLETED, end_time=NOON)
    response = fetch(jobs, path, method="POST", owner=owner, headers=SAME_ORIGIN + HTML, mount="/app/backjob")
    assert (response.status, response.header("Location")) == (303, location)
    assert jobs.cancelled == ([] if ended else ["job1"])


def test_the_redirect_never_leaves_this_host(jobs: FakeJobs) -> None:
    response = fetch(
        jobs, "/job1/cancel", method="POST", owner="ann", headers=SAME_ORIGIN + HTML, mount="//evil.example/b"
    )
    assert response.header("Location") == "/evil.example/b/job1"


# --- headers --------------------------------------------------------------------------------------------------------


def every_response(jobs: FakeJobs) -> dict[str, StatusResponse]:
    from_a_form = SAME_ORIGIN + HTML
    responses = {
        "state": fetch(jobs, "/job1", owner="ann"),
        "page": fetch(jobs, "/job1", owner="ann", headers=HTML),
        "output": fetch(jobs, "/job1/output", owner="ann"),
        "plain": fetch(jobs, "/job1/output", owner="ann", headers=(("Accept", "text/plain"),)),
        "fragment": fetch(jobs, "/job1/fragment", owner="ann"),
        "400": fetch(jobs, "/job1/output", owner="ann", query="offset=x"),
        "403": fetch(jobs, "/job1/cancel", owner="ann", method="POST"),
        "404": fetch(jobs, "/unknown"),
        "405": fetch(jobs, "/job1", method="PUT"),
        "cancel": fetch(jobs, "/job1/cancel", owner="ann", method="POST", headers=SAME_ORIGIN),
        "303": fetch(jobs, "/job1/cancel", owner="ann", method="POST", headers=from_a_form),
    }
    jobs.down = True
    responses["503"] = fetch(jobs, "/job1", owner="ann")
    return responses


def test_no_response_is_stored_or_sniffed_or_leaks_its_url(jobs: FakeJobs) -> None:
    for name, response in every_response(jobs).items():
        assert response.header("Cache-Control") == "no-store", name
        assert response.header("Referrer-Policy") == "no-referrer", name
        assert response.header("X-Content-Type-Options") == "nosniff", name
        is_page = (response.header("Content-Type") or "").startswith("text/html")
        assert response.header("Vary") == ("Accept, Accept-Language" if is_page else "Accept"), name
        assert response.header("Content-Length") == str(len(response.body)), name
        assert response.header("Content-Type"), name


def test_each_header_field_is_valid_and_appears_once(jobs: FakeJobs) -> None:
    for name, response in every_response(jobs).items():
        names = [key.lower() for key, _ in response.headers]
        assert len(names) == len(set(names)), name
        assert all(f"{key}{value}".isascii() and f"{key}{value}".isprintable() for key, value in response.headers), name


def test_the_pages_content_security_policy_allows_only_its_own_files(jobs: FakeJobs) -> None:
    policy = fetch(jobs, "/job1", owner="ann", headers=HTML).header("Content-Security-Policy")
    assert policy == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
        "img-src data:; base-uri 'none'; frame-ancestors 'self'"
    )


# --- negotiation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "text/html"),
        ("TEXT/HTML", "text/html"),
        ("text/*", "text/html"),
        ("text/html, application/json", "application/json"),
        ("text/html;q=0.9, application/json;q=0.8", "text/html"),
        ("text/html;q=0.8, application/json", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("text/html;q=0, */*", "application/json"),
        ("text/html;q=0.2, text/*;q=1, */*;q=0.5", "application/json"),
        ("*/*;q=0.1, text/*;q=0.9, application/json;q=0.5", "text/html"),
        ("text/html;level=1;q=0.9, application/json;q=0.1", "text/html"),
        ("text/html; Q=1.000 , application/json; q=0.999", "text/html"),
        ("text/html;q=2, application/json;q=0.001", "application/json"),
        ("text/html;q=nan, application/json;q=0.1", "application/json"),
        ("text/html;q=-1, application/json;q=0.1", "application/json"),
        ("image/png", "application/json"),
        (",;,", "application/json"),
    ],
)
def test_a_client_that_prefers_html_gets_html(jobs: FakeJobs, accept: str | None, best: str) -> None:
    assert preferred(accept, ("application/json", "text/html")) == best
    headers = () if accept is None else (("ACCEPT", accept),)
    assert (fetch(jobs, "/job1", owner="ann", headers=headers).header("Content-Type") or "").startswith(best)


def test_several_accept_fields_count_as_one(jobs: FakeJobs) -> None:
    headers = (("Accept", "application/json;q=0.5"), ("Accept", "text/html"))
    assert b"<!doctype html>" in fetch(jobs, "/job1", owner="ann", headers=headers).body


@given(st.text(max_size=60))
def test_a_malformed_accept_field_is_no_error(accept: str) -> None:
    offered = ("application/json", "text/html")
    assert preferred(accept, offered) in offered


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_shows_state_and_output_without_javascript(jobs: FakeJobs) -> None:
    page = Page(page_of(jobs))
    assert [bar["value"] for bar in page.all("progress")] == ["40"]
    assert all(bar["aria-label"] for bar in page.all("progress"))
    assert "Running: Chugging along" in page.text
    assert "first\nsecond ä\n" in page.text


def test_the_page_links_to_its_files_and_the_job_below_the_mount(jobs: FakeJobs) -> None:
    page = Page(page_of(jobs, mount="/my app/backjob"))
    assert [script["src"] for script in page.all("script")] == ["/my%20app/backjob/progress.js"]
    assert "/my%20app/backjob/progress.css" in [link["href"] for link in page.all("link")]
    assert page.all("backjob-progress")[0]["src"] == "/my%20app/backjob/job1.view-job1"


def test_all_files_that_the_page_links_are_served(jobs: FakeJobs) -> None:
    page = Page(page_of(jobs))
    linked = [script["src"] for script in page.all("script")] + [link["href"] for link in page.all("link")]
    ours = [path for path in linked if path and path.startswith("/")]
    assert len(ours) == 2
    assert [fetch(jobs, path.removeprefix("/backjob")).status for path in ours] == [200, 200]


@pytest.mark.parametrize(
    ("path", "owner", "action"),
    [
        ("/job1.view-job1", None, None),
        ("/job1.cancel-job1", None, "/backjob/job1.cancel-job1/cancel"),
        ("/job1", "ann", "/backjob/job1.cancel-job1/cancel"),
        ("/job1.view-job1", "ann", "/backjob/job1.cancel-job1/cancel"),
    ],
)
def test_the_page_has_a_cancel_button_for_visitors_who_may_cancel(
    jobs: FakeJobs, path: str, owner: str | None, action: str | None
) -> None:
    page = Page(page_of(jobs, path, owner=owner))
    assert [form["action"] for form in page.all("form")] == ([action] if action else [])
    assert ("cancel" in page.all("backjob-progress")[0]) == bool(action)


@pytest.mark.parametrize("in_thread", [True, False])
def test_the_page_uses_events_if_streams_are_enabled(jobs: FakeJobs, in_thread: bool) -> None:
    visit = Visit(Request("GET", "/backjob/job1", HTML), "/job1", "ann", "/backjob", in_thread=in_thread)
    page = Page(Endpoints(jobs, "/backjob").respond(visit).body.decode())
    assert ("stream" in page.all("backjob-progress")[0]) is not in_thread


def test_the_form_works_in_a_browser_that_sends_no_origin(jobs: FakeJobs) -> None:
    """A form on a no-referrer page sends ``Origin: null``, and over plain http no Sec-Fetch-Site."""
    action = Page(page_of(jobs, "/job1", owner="ann")).all("form")[0]["action"] or ""
    response = cancel(
        jobs, action.removeprefix("/backjob"), headers=(("Origin", "null"), ("Host", "shop.example"), *HTML)
    )
    assert (response.status, response.header("Location")) == (303, "/backjob/job1")
    assert jobs.cancelled == ["job1"]


@pytest.mark.parametrize("status", list(Status))
def test_the_page_reloads_itself_without_javascript_until_the_end(jobs: FakeJobs, status: Status) -> None:
    jobs.states["job1"] = a_state(status=status, end_time=NOON if status.is_final else None)
    markup = page_of(jobs, "/job1.cancel-job1")
    refresh = '<noscript><meta http-equiv="refresh" content="2"></noscript>'
    assert (refresh in markup) is (not status.is_final)
    assert bool(Page(markup).all("form")) is (not status.is_final)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.STARTED, "Waiting to start"),
        (Status.IN_PROGRESS, "Running"),
        (Status.COMPLETED, "Done"),
        (Status.FAILED, "Failed"),
        (Status.CANCELLED, "Cancelled"),
    ],
)
def test_the_status_is_shown_in_words(jobs: FakeJobs, status: Status, words: str) -> None:
    jobs.states["job1"] = a_state(status=status, status_text="")
    assert f'role="status">{words}</span></span>' in page_of(jobs)


def test_a_job_that_waits_for_another_attempt_has_started_already(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(status=Status.STARTED, status_text="", attempt=2)
    assert 'role="status">Retrying</span></span>' in page_of(jobs)


def test_a_status_text_equal_to_the_word_is_not_repeated(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(status=Status.CANCELLED, status_text="cancelled")
    assert 'role="status">Cancelled</span></span>' in page_of(jobs)


@pytest.mark.parametrize(
    ("status", "value"), [(Status.STARTED, None), (Status.IN_PROGRESS, None), (Status.FAILED, "0")]
)
def test_the_bar_is_indeterminate_until_there_is_progress_or_an_end(
    jobs: FakeJobs, status: Status, value: str | None
) -> None:
    jobs.states["job1"] = a_state(status=status, progress=0)
    assert [bar.get("value") for bar in Page(page_of(jobs)).all("progress")] == [value]


@pytest.mark.parametrize(
    ("status", "seconds", "progress", "shown"),
    [
        (Status.STARTED, 30, 0, ""),
        (Status.IN_PROGRESS, 1, 40, "1 sec"),
        (Status.IN_PROGRESS, 30, 0, "30 sec"),
        (Status.IN_PROGRESS, 42, 35, "42 sec · about 2 min left"),
        (Status.IN_PROGRESS, 60, 75, "1 min · about 20 sec left"),
        (Status.IN_PROGRESS, 7500, 50, "2 hr 5 min · about 2 hr 5 min left"),
        (Status.IN_PROGRESS, 30, 100, "30 sec"),
        (Status.COMPLETED, 65, 100, "1 min 5 sec"),
        (Status.FAILED, 200_000, 40, "2 days 7 hr"),
        (Status.CANCELLED, -5, 0, ""),
    ],
)
def test_the_elapsed_time_and_an_estimate_of_the_rest_are_shown(
    jobs: FakeJobs, status: Status, seconds: float, progress: int, shown: str
) -> None:
    then = NOON + timedelta(seconds=seconds)
    end = then if status.is_final else None
    jobs.states["job1"] = a_state(status=status, progress=progress, updated_time=then, end_time=end)
    assert f'<span part="time">{shown}</span>' in page_of(jobs)


def test_a_job_that_is_not_due_yet_shows_when_it_starts(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(status=Status.STARTED, progress=0, status_text="", waiting_for="due")
    assert '<span part="time">starts at 2026-03-01 12:00:00 UTC</span>' in page_of(jobs)


RUNS = (
    {"run": 1, "begin": "2026-03-01T11:00:00+00:00", "end": "2026-03-01T11:05:30+00:00", "reason": "<boom> & bang"},
    {"run": 2, "begin": "2026-03-01T13:10:00+02:00", "end": "2026-03-02T00:00:00+00:00", "reason": "continued"},
)


@pytest.mark.parametrize("leaf", ["", "/fragment"])
def test_the_attempt_and_the_earlier_runs_are_shown(jobs: FakeJobs, leaf: str) -> None:
    jobs.states["job1"] = a_state(attempt=2, retries=3, history=RUNS)
    markup = page_of(jobs, f"/job1.view-job1{leaf}")
    assert '<span part="attempt">attempt 2 of 4</span>' in markup
    assert '<details part="history"><summary>Earlier runs</summary>' in markup
    assert re.findall(r"<li>(.*)</li>", markup) == [
        "2026-03-01 11:00:00 – 11:05:30 UTC: &lt;boom&gt; &amp; bang",
        "2026-03-01 11:10:00 – 2026-03-02 00:00:00 UTC: continued",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"attempt": 1, "retries": 3},
        {"attempt": 2, "retries": 3, "status": Status.STARTED},  # its text says it
        {"attempt": 4, "retries": 3, "status": Status.FAILED},
    ],
)
def test_the_attempt_is_shown_only_while_a_later_one_runs(jobs: FakeJobs, changes: dict[str, Any]) -> None:
    jobs.states["job1"] = a_state(**changes)
    markup = page_of(jobs)
    assert 'part="attempt"' not in markup
    assert 'part="history"' not in markup


def test_output_can_not_pose_as_the_list_of_earlier_runs(jobs: FakeJobs) -> None:
    jobs.outputs["job1"] = b"<!-- runs -->"
    jobs.states["job1"] = a_state(history=RUNS)
    assert page_of(jobs).count("<li>") == len(RUNS)


def test_the_status_text_is_in_the_live_region_only_at_the_end(jobs: FakeJobs) -> None:
    apart = '<span part="state" role="status">Running</span>: <span part="text">Chugging along</span>'
    assert apart in page_of(jobs)
    jobs.states["job1"] = a_state(status=Status.FAILED, status_text="No coal", end_time=NOON)
    assert '<span part="state" role="status">Failed: <span part="text">No coal</span></span>' in page_of(jobs)


# --- the fragment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(Status))
def test_a_fragment_is_html_and_stops_htmx_from_polling_once_the_job_has_ended(jobs: FakeJobs, status: Status) -> None:
    jobs.states["job1"] = a_state(status=status, end_time=NOON if status.is_final else None, result={"href": "/a"})
    response = fetch(jobs, "/job1.view-job1/fragment")
    assert response.status == (286 if status.is_final else 200)
    assert response.reason == ("Stop Polling" if status.is_final else "OK")
    assert response.header("Content-Type") == "text/html; charset=utf-8"
    fragment = Page(response.body.decode())
    assert {name for name, _ in fragment.elements} == {"backjob-progress", "span", "progress", "a"}
    assert fragment.all("backjob-progress") == [{"lang": "en", "data-status": status.name.lower()}]
    assert [bar["value"] for bar in fragment.all("progress")] == ["40"]
    assert [link["href"] for link in fragment.all("a")] == ["/a"]
    assert "Chugging along" in fragment.text


@pytest.mark.parametrize(
    ("query", "shown"), [("", False), ("output=0", False), ("output=1", True), ("output=1&x", True)]
)
def test_a_fragment_contains_the_end_of_the_output_on_request(jobs: FakeJobs, query: str, shown: bool) -> None:
    response = fetch(jobs, "/job1/fragment", owner="ann", query=query)
    assert ("first\nsecond ä\n" in response.body.decode()) is shown
    assert jobs.reads == 1 + shown


def test_all_values_in_a_fragment_are_escaped(jobs: FakeJobs) -> None:
    plain = [
        name for name, _ in Page(fetch(jobs, "/job1/fragment", owner="ann", query="output=1").body.decode()).elements
    ]
    jobs.states["job1"] = a_state(status_text=NASTY)
    jobs.outputs["job1"] = NASTY.encode("utf-8", "surrogatepass")
    fragment = Page(fetch(jobs, "/job1/fragment", owner="ann", query="output=1").body.decode())
    assert [name for name, _ in fragment.elements] == plain
    assert fragment.text.count(NASTY.replace("\ud800", "\ufffd").replace("\0", "\ufffd")) >= 1


NASTY = "</pre><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>{{output}}{{#cancel}}\ud800\0end"


@pytest.mark.parametrize("where", ["status_text", "scope", "output", "mount", "href"])
def test_all_values_of_a_job_are_escaped_on_the_page(jobs: FakeJobs, where: str) -> None:
    plain = [name for name, _ in Page(page_of(jobs)).elements]
    mount = "/backjob"
    if where == "output":
        jobs.outputs["job1"] = NASTY.encode("utf-8", "surrogatepass")
    elif where == "mount":
        mount = "/" + NASTY
    elif where == "href":
        jobs.states["job1"] = a_state(result={"href": "/x" + NASTY.replace("\0", "")})
        plain += ["a"]
    else:
        jobs.states["job1"] = a_state(**{where: NASTY})
    page = Page(page_of(jobs, mount=mount))
    assert sorted(name for name, _ in page.elements) == sorted(plain)
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    if where in ("status_text", "scope", "output"):
        assert NASTY.replace("\ud800", "\ufffd").replace("\0", "\ufffd") in page.text


def test_json_is_ascii_even_for_surrogates(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(status_text=NASTY)
    jobs.outputs["job1"] = NASTY.encode("utf-8", "surrogatepass")
    for path in ("/job1", "/job1/output"):
        response = fetch(jobs, path, owner="ann")
        assert response.body.isascii()
        assert NASTY in json.loads(response.body).values()


def test_plain_output_is_valid_utf_8_even_with_surrogates(jobs: FakeJobs) -> None:
    jobs.outputs["job1"] = "a\ud800b".encode("utf-8", "surrogatepass")
    response = fetch(jobs, "/job1/output", owner="ann", headers=(("Accept", "text/plain"),))
    assert response.body.decode("utf-8") == "a\ufffdb"


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK, 7 * CHUNK + 5, 40 * CHUNK - 1])
def test_the_page_shows_the_end_of_a_long_output_in_few_reads(jobs: FakeJobs, size: int) -> None:
    jobs.outputs["job1"] = output = b"".join(b"%07d\n" % number for number in range(size // 8 + 1))[:size]
    markup = page_of(jobs)
    assert jobs.reads <= 16
    assert ("There is more output before this." in markup) is (size > CHUNK)
    shown = markup.partition('tabindex="0">\n')[2].partition("</pre>")[0]
    end = output[-CHUNK:].decode()
    assert shown == (end.partition("\n")[2] if size > CHUNK else end)


def test_the_page_shows_output_as_a_terminal_would(jobs: FakeJobs) -> None:
    jobs.outputs["job1"] = b"10 %\r\x1b[32m20 %\x1b[0m <b>\x1b]8;;javascript:alert(1)\x07x\x1b]8;;\x07\n"
    markup = page_of(jobs)
    assert '<span class="bj-f2">20 %</span> &lt;b&gt;x\n</pre>' in markup
    assert "style=" not in markup


def test_the_headline_is_free_of_sequences(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(status_text="\x1b[1mhalf\x1b[0m way\r")
    assert ">half way</span>" in page_of(jobs)


def test_the_page_states_that_output_is_missing(jobs: FakeJobs) -> None:
    assert "a part is missing here" not in page_of(jobs)
    jobs.truncated = True
    assert "a part is missing here" in page_of(jobs)


@pytest.mark.parametrize(
    ("result", "link"),
    [
        ({"href": "/export.csv"}, "/export.csv"),
        ({"href": "export.csv?x=1&y=2#z"}, "export.csv?x=1&y=2#z"),
        ({"href": " https://shop.example/a b "}, "https://shop.example/a b"),
        ({"href": "HTTP://shop.example"}, "HTTP://shop.example"),
        ({"href": "/time/12:30"}, "/time/12:30"),
        ({"href": "javascript:alert(1)"}, None),
        ({"href": " \x01JavaScript:alert(1)"}, None),
        ({"href": "java\nscript:alert(1)"}, None),
        ({"href": "java\tscript:alert(1)"}, None),
        ({"href": "data:text/html,<script>"}, None),
        ({"href": "vbscript:x"}, None),
        ({"href": "file:///etc/passwd"}, None),
        ({"href": ""}, None),
        ({"href": " "}, None),
        ({"href": ["/a"]}, None),
        ({"url": "/a"}, None),
        (["/a"], None),
        ("/a", None),
        (None, None),
    ],
)
def test_a_result_is_a_link_only_if_its_scheme_is_safe(jobs: FakeJobs, result: JsonValue, link: str | None) -> None:
    assert result_link(result) == link
    jobs.states["job1"] = a_state(status=Status.COMPLETED, end_time=NOON, result=result)
    assert [anchor["href"] for anchor in Page(page_of(jobs)).all("a")] == ([] if link is None else [link])


@pytest.mark.parametrize(
    ("text", "output", "shown"),
    [
        ("Chugging along", "", "Chugging along"),
        ("Two\nlines", "", "Two\nlines"),
        ("Two\nlines", "other", "Two\nlines"),
        ("first\nsecond\n", "zero\nfirst\nsecond\n", "second"),
        ("boom", "boom\n", "boom"),
        ("x" * 600, "", "x" * 500),
        ("x" * 600 + "\nlast", "", "last"),
    ],
)
def test_the_headline_does_not_repeat_the_output(text: str, output: str, shown: str) -> None:
    assert headline(text, output) == shown


def test_a_query_with_too_many_fields_is_400(jobs: FakeJobs) -> None:
    assert fetch(jobs, "/job1/output", owner="ann", query="&".join(["a=1"] * 30)).status == 400


def test_values_are_not_parsed_as_templates() -> None:
    assert (
        fill("{{a}}{{#b}}<{{b}}>{{/b}}{{#c}}no{{/c}}", {"a": "{{b}}", "b": "{{#c}}&", "c": ""}) == "{{b}}<{{#c}}&amp;>"
    )


# --- events ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> Bench:
    """With real jobs: real streams need the whole engine."""
    return bench(streams=1)


def events(
    world: Bench, job_id: str, query: str = "", *headers: tuple[str, str], method: str = "GET", **changes: Any
) -> StatusResponse:
    path = f"/{job_id}.{world.jobs.status_url(job_id).rpartition('.')[2]}/events"
    visit = Visit(Request(method, f"/backjob{path}?{query}", headers), path, None, "/backjob")
    return Endpoints(world.engine, "/backjob").respond(evolve(visit, **changes))


def test_events_are_a_stream_that_proxies_may_not_buffer(world: Bench) -> None:
    response = events(world, world.start())
    assert (response.status, response.body, response.header("Content-Length")) == (200, b"", None)
    assert response.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert response.header("Cache-Control") == "no-store, no-transform"
    assert response.header("X-Accel-Buffering") == "no"
    assert response.header("Referrer-Policy") == "no-referrer"
    assert response.stream is not None


@pytest.mark.parametrize(
    ("query", "last", "begins", "output"),
    [
        ("", None, 0, True),
        ("offset=7", None, 7, True),
        ("offset=7&output=1", "", 7, True),
        ("offset=7&output=0", "12", 12, False),
        ("offset=x", "12", 12, True),
        ("offset=7", "twelve", 7, True),
        ("offset=7", "-1", 7, True),
    ],
)
def test_events_resume_after_the_last_event_id_or_at_the_offset(
    world: Bench, query: str, last: str | None, begins: int, output: bool
) -> None:
    headers = () if last is None else (("Last-Event-ID", last),)
    stream = events(world, world.start(), query, *headers).stream
    assert stream is not None
    assert (stream.offset, stream.output) == (begins, output)


def test_events_with_a_bad_offset_are_400_and_open_no_stream(world: Bench) -> None:
    response = events(world, world.start(), "offset=-1")
    assert (response.status, json.loads(response.body)["error"][:6]) == (400, "offset")
    assert world.engine.broadcast.count == 0


def test_head_of_events_has_the_headers_and_opens_no_stream(world: Bench) -> None:
    job_id = world.start()
    head = events(world, job_id, method="HEAD")
    assert (head.status, head.headers, head.stream) == (200, events(world, job_id).headers, None)
    assert world.engine.broadcast.count == 0


def test_too_many_streams_are_503_with_retry_after(world: Bench) -> None:
    job_id = world.start()
    first = events(world, job_id)
    refused = events(world, job_id)
    assert (refused.status, refused.header("Retry-After"), refused.stream) == (503, "2", None)
    assert first.stream is not None
    first.stream.close()
    assert events(world, job_id).status == 200


def test_without_streams_the_events_route_does_not_exist() -> None:
    world = bench(streams=0)
    response = events(world, world.start())
    assert response == fetch(FakeJobs(), "/nothing/of-the-kind")
    assert events(bench(), world.start()).status == 404


def test_another_method_of_events_is_405(world: Bench) -> None:
    refused = events(world, world.start(), method="POST")
    assert (refused.status, refused.header("Allow")) == (405, "GET, HEAD")


# --- for the adapters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("/backjob/job1", "/job1"),
        ("/backjob/job1/output", "/job1/output"),
        ("/backjob/", "/"),
        ("/backjob", ""),
        ("/backjobs/job1", None),
        ("/other/backjob/job1", None),
        ("/", None),
    ],
)
def test_below_returns_the_path_after_the_prefix(jobs: FakeJobs, path: str, below: str | None) -> None:
    assert Endpoints(jobs, "/backjob").below(path) == below


@pytest.mark.parametrize("prefix", ["", "/", "backjob", "/backjob/", "//backjob"])
def test_an_invalid_prefix_is_refused(jobs: FakeJobs, prefix: str) -> None:
    with pytest.raises(InvalidRequest, match="status_prefix"):
        Endpoints(jobs, prefix)


@pytest.mark.parametrize("show", [repr, str])
def test_the_repr_of_a_request_contains_neither_token_nor_header_values(show: Callable[[object], str]) -> None:
    shown = show(
        Visit(
            Request("GET", "/backjob/job1.view-job1/output", (("Cookie", "session=1"),)),
            "/job1.view-job1/output",
            "ann",
            "/backjob",
        )
    )
    assert "view-job1" not in shown
    assert "session=1" not in shown
    assert "/job1.…/output" in shown
    assert "Cookie" in shown
