"""The status routes: routing, who may see what, negotiation, escaping, and the headers of every answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st

from backjob.errors import InvalidRequest, JobNotFound, StoreUnavailable
from backjob.model import Headers, JobState, JsonValue, Output, Status
from backjob.status.endpoints import Answer, Ask, Endpoints, preferred
from backjob.status.page import fill, headline, result_link
from backjob.status.streaming.broadcast import Broadcast
from tests.unit.core import Bench, bench

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HTML: Headers = (("Accept", "text/html,application/xhtml+xml,*/*;q=0.8"),)
SAME_ORIGIN: Headers = (("Sec-Fetch-Site", "same-origin"),)
PIECE = 65_536


def a_state(**changes: Any) -> JobState:
    state = JobState(
        id="job1",
        status=Status.IN_PROGRESS,
        progress=40,
        status_text="Chugging along",
        start_time=NOON,
        updated_time=NOON,
        end_time=None,
        result=None,
        owner="ann",
        scope="",
    )
    return evolve(state, **changes)


@define
class FakeJobs:
    """As much of the facade as the routes need, in memory; ``reads`` are the store's."""

    states: dict[str, JobState] = field(factory=dict)
    outputs: dict[str, bytes] = field(factory=dict)
    truncated: bool = False
    down: bool = False
    reads: int = 0
    cancelled: list[str] = field(factory=list)
    broadcast: Broadcast = field(factory=lambda: bench().engine.broadcast)

    def status(self, job_id: str) -> JobState:
        self.reads += 1
        if self.down:
            raise StoreUnavailable("locked")
        if job_id not in self.states:
            raise JobNotFound(job_id)
        return self.states[job_id]

    def output(self, job_id: str, offset: int = 0) -> Output:
        self.reads += 1
        piece = self.outputs.get(job_id, b"")[offset : offset + PIECE]
        return Output(piece.decode("utf-8", "surrogatepass"), offset + len(piece), self.truncated)

    def tail(self, job_id: str) -> tuple[int, Output]:
        start = max(0, len(self.outputs.get(job_id, b"")) - PIECE)
        return start, self.output(job_id, start)

    def cancel(self, job_id: str) -> bool:
        if self.status(job_id).status.is_final:
            return False
        self.cancelled.append(job_id)
        self.states[job_id] = evolve(self.states[job_id], status=Status.CANCELLED, end_time=NOON)
        return True

    def rights(self, job_id: str, token: str) -> str | None:
        return {f"view-{job_id}": "view", f"cancel-{job_id}": "cancel"}.get(token)

    def status_url(self, job_id: str, cancel: bool = False) -> str:
        return f"/backjob/{job_id}.{'cancel' if cancel else 'view'}-{job_id}"


@pytest.fixture
def jobs() -> FakeJobs:
    nobodys = a_state(id="nobodys", owner=None)
    return FakeJobs(
        states={"job1": a_state(), "job2": a_state(id="job2", owner="bob"), "nobodys": nobodys},
        outputs={"job1": "first\nsecond ä\n".encode()},
    )


def ask(
    jobs: FakeJobs,
    path: str,
    *,
    method: str = "GET",
    query: str = "",
    headers: Headers = (),
    owner: str | None = None,
    mount: str = "/backjob",
    sees_all: bool = False,
) -> Answer:
    return Endpoints(jobs, "/backjob").answer(Ask(method, path, query, headers, owner, mount, sees_all))


def page_of(jobs: FakeJobs, path: str = "/job1.view-job1", *, owner: str | None = None, mount: str = "/backjob") -> str:
    answer = ask(jobs, path, headers=HTML, owner=owner, mount=mount)
    assert answer.status == 200
    assert answer.header("Content-Type") == "text/html; charset=utf-8"
    return answer.body.decode("utf-8")


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

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


# --- what is answered -----------------------------------------------------------------------------------------------


def test_the_state_is_the_jobs_dictionary_as_json(jobs: FakeJobs) -> None:
    answer = ask(jobs, "/job1", owner="ann")
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert json.loads(answer.body) == a_state().as_dict()


def test_output_is_json_from_the_offset_on(jobs: FakeJobs) -> None:
    answer = ask(jobs, "/job1.view-job1/output", query="offset=6")
    assert json.loads(answer.body) == {"text": "second ä\n", "next_offset": 16, "truncated": False}


def test_output_begins_at_the_start_without_an_offset_and_says_if_it_was_truncated(jobs: FakeJobs) -> None:
    jobs.truncated = True
    answer = ask(jobs, "/job1/output", owner="ann")
    assert json.loads(answer.body) == {"text": "first\nsecond ä\n", "next_offset": 16, "truncated": True}


def test_output_past_the_end_is_empty(jobs: FakeJobs) -> None:
    assert json.loads(ask(jobs, "/job1/output", owner="ann", query="offset=16").body)["text"] == ""


def test_output_as_plain_text_says_where_the_next_piece_begins(jobs: FakeJobs) -> None:
    answer = ask(jobs, "/job1/output", owner="ann", query="offset=6", headers=(("accept", "text/plain"),))
    assert answer.header("Content-Type") == "text/plain; charset=utf-8"
    assert answer.header("Backjob-Next-Offset") == "16"
    assert answer.body == "second ä\n".encode()


@pytest.mark.parametrize(
    "query", ["offset=-1", "offset=x", "offset=", "offset=1.5", "offset=1&offset=2", "offset=٣", "offset=" + "9" * 16]
)  # fmt: skip
def test_a_bad_offset_is_refused(jobs: FakeJobs, query: str) -> None:
    answer = ask(jobs, "/job1/output", owner="ann", query=query)
    assert answer.status == 400
    assert "offset" in json.loads(answer.body)["error"]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [("/progress.js", "text/javascript"), ("/progress.css", "text/css"), ("/progress.d.ts", "text/plain")],
)
def test_static_files_are_for_everybody_and_may_be_cached_for_a_while(
    jobs: FakeJobs, path: str, media_type: str
) -> None:
    answer = ask(jobs, path)
    assert answer.status == 200
    assert answer.header("Content-Type") == f"{media_type}; charset=utf-8"
    assert answer.header("Cache-Control") == "public, max-age=3600"
    assert answer.header("X-Content-Type-Options") == "nosniff"
    assert b"backjob-progress" in answer.body
    assert jobs.reads == 0


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "//", "/job1/", "/job1/nothing", "/job1/output/", "/job1//output", "/job1./output"),
        *("/../progress.js", "/page.html", "/progress.py", "/job1.a.b/x/y", "/jöb1", "/job1\0", "/job1.view-job1\n"),
        "/" + "a" * 200,
    ],
)
def test_an_unknown_path_is_not_found(jobs: FakeJobs, path: str) -> None:
    assert ask(jobs, path, owner="ann").status == 404


def test_head_is_get_without_the_body(jobs: FakeJobs) -> None:
    for path in ("/job1", "/job1/output", "/progress.js", "/unknown"):
        for headers in ((), HTML):
            got = ask(jobs, path, owner="ann", headers=headers)
            head = ask(jobs, path, owner="ann", headers=headers, method="HEAD")
            assert head == Answer(got.status, got.headers, b"")
            assert got.body


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/job1", "POST", "GET, HEAD"),
        ("/job1.view-job1/output", "DELETE", "GET, HEAD"),
        ("/job1/cancel", "GET", "POST"),
        ("/job1/cancel", "HEAD", "POST"),
        ("/progress.js", "POST", "GET, HEAD"),
        ("/job1/fragment", "POST", "GET, HEAD"),
        ("/unknown", "OPTIONS", "GET, HEAD"),
        ("/job1", "get", "GET, HEAD"),
    ],
)
def test_another_method_is_refused_with_those_allowed_whether_the_job_exists_or_not(
    jobs: FakeJobs, path: str, method: str, allow: str
) -> None:
    answer = ask(jobs, path, method=method)
    assert (answer.status, answer.header("Allow")) == (405, allow)
    assert jobs.reads == 0


@pytest.mark.parametrize(("method", "path"), [("GET", "/job1"), ("GET", "/job1/output"), ("POST", "/job1/cancel")])
def test_a_store_that_does_not_answer_is_503_with_retry_after(jobs: FakeJobs, method: str, path: str) -> None:
    jobs.down = True
    answer = ask(jobs, path, method=method, owner="ann", headers=SAME_ORIGIN)
    assert (answer.status, answer.header("Retry-After")) == (503, "2")
    assert "error" in json.loads(answer.body)


# --- who may see it -------------------------------------------------------------------------------------------------

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
        ("/nobodys", None, HIDDEN),
        ("/nobodys", "", HIDDEN),
        ("/nobodys", "ann", HIDDEN),
        ("/nobodys", "None", HIDDEN),
        ("/nobodys.view-nobodys", None, SEEN),
        ("/unknown", "ann", HIDDEN),
        ("/unknown", None, HIDDEN),
        ("/purged.view-purged", None, HIDDEN),
    ],
)
@pytest.mark.parametrize("leaf", ["", "/output", "/fragment"])
def test_only_the_owner_or_a_token_opens_a_job(
    jobs: FakeJobs, path: str, owner: str | None, status: int, leaf: str
) -> None:
    assert ask(jobs, path + leaf, owner=owner).status == status


def test_whoever_may_not_see_a_job_is_told_the_same_as_of_an_unknown_one(jobs: FakeJobs) -> None:
    unknown = ask(jobs, "/unknown", owner="bob")
    for path, owner in [
        ("/job1", "bob"),
        ("/job1", None),
        ("/job1.wrong", None),
        ("/job1.view-job2", "bob"),
        ("/nobodys", None),
        ("/job1/output", "bob"),
        ("/job1/nothing", "ann"),
        ("/purged.view-purged", None),
        ("", None),
    ]:
        for headers in ((), HTML):
            assert ask(jobs, path, owner=owner, headers=headers) == unknown
    assert ask(jobs, "/job1/cancel", method="POST", owner="bob", headers=SAME_ORIGIN) == unknown
    assert unknown.body == b'{"error": "not found"}'


def test_an_empty_owner_is_nobody_even_where_a_job_has_an_empty_owner(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(owner="")
    assert ask(jobs, "/job1", owner="").status == 404


def test_without_owner_or_valid_token_the_store_is_not_even_asked(jobs: FakeJobs) -> None:
    ask(jobs, "/job1")
    ask(jobs, "/job1.wrong")
    assert jobs.reads == 0


def test_who_sees_all_sees_every_job_and_cancels_none(jobs: FakeJobs) -> None:
    assert ask(jobs, "/nobodys", sees_all=True).status == 200
    assert ask(jobs, "/job1", sees_all=True, owner="bob").status == 200
    assert ask(jobs, "/unknown", sees_all=True).status == 404
    assert ask(jobs, "/job1/cancel", method="POST", sees_all=True, headers=SAME_ORIGIN).status == 403
    assert jobs.cancelled == []


# --- cancel ---------------------------------------------------------------------------------------------------------


def cancel(
    jobs: FakeJobs, path: str = "/job1/cancel", *, owner: str | None = "ann", headers: Headers = SAME_ORIGIN
) -> Answer:
    return ask(jobs, path, method="POST", owner=owner, headers=headers)


def test_a_token_with_that_right_cancels_from_anywhere(jobs: FakeJobs) -> None:
    answer = cancel(jobs, "/job1.cancel-job1/cancel", owner=None, headers=(("Sec-Fetch-Site", "cross-site"),))
    assert answer.status == 200
    assert json.loads(answer.body)["status_name"] == "CANCELLED"
    assert jobs.cancelled == ["job1"]


def test_a_token_to_view_does_not_cancel(jobs: FakeJobs) -> None:
    assert cancel(jobs, "/job1.view-job1/cancel", owner=None).status == 403
    assert cancel(jobs, "/job1.view-job1/cancel", owner="bob").status == 403
    assert jobs.cancelled == []


@pytest.mark.parametrize("owner", [None, ""])
def test_a_visitor_who_is_nobody_does_not_own_a_job_of_nobodys(jobs: FakeJobs, owner: str | None) -> None:
    jobs.states["nobodys"] = a_state(id="nobodys", owner=owner)
    assert cancel(jobs, "/nobodys.view-nobodys/cancel", owner=owner).status == 403
    assert not Page(page_of(jobs, "/nobodys.view-nobodys", owner=owner)).all("form")
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


def test_cancelling_twice_is_no_error(jobs: FakeJobs) -> None:
    assert [cancel(jobs).status, cancel(jobs).status] == [200, 200]
    assert jobs.cancelled == ["job1"]


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_a_job_that_had_ended_otherwise_is_a_conflict_that_shows_its_end(jobs: FakeJobs, status: Status) -> None:
    jobs.states["job1"] = a_state(status=status, end_time=NOON)
    answer = cancel(jobs)
    assert answer.status == 409
    said = json.loads(answer.body)
    assert said["status_name"] == status.name
    assert status.name in said["error"]


@pytest.mark.parametrize(
    ("path", "owner", "location"),
    [
        ("/job1/cancel", "ann", "/app/backjob/job1"),
        ("/job1.cancel-job1/cancel", None, "/app/backjob/job1.cancel-job1"),
        ("/job1.cancel-job1/cancel", "ann", "/app/backjob/job1"),
    ],
)
@pytest.mark.parametrize("ended", [False, True])
def test_after_a_form_the_browser_is_sent_back_to_the_page(
    jobs: FakeJobs, path: str, owner: str | None, location: str, ended: bool
) -> None:
    if ended:
        jobs.states["job1"] = a_state(status=Status.COMPLETED, end_time=NOON)
    answer = ask(jobs, path, method="POST", owner=owner, headers=SAME_ORIGIN + HTML, mount="/app/backjob")
    assert (answer.status, answer.header("Location")) == (303, location)
    assert jobs.cancelled == ([] if ended else ["job1"])


def test_the_way_back_never_leaves_this_host(jobs: FakeJobs) -> None:
    answer = ask(jobs, "/job1/cancel", method="POST", owner="ann", headers=SAME_ORIGIN + HTML, mount="//evil.example/b")
    assert answer.header("Location") == "/evil.example/b/job1"


# --- headers --------------------------------------------------------------------------------------------------------


def every_answer(jobs: FakeJobs) -> dict[str, Answer]:
    unlocked = SAME_ORIGIN + HTML
    answers = {
        "state": ask(jobs, "/job1", owner="ann"),
        "page": ask(jobs, "/job1", owner="ann", headers=HTML),
        "output": ask(jobs, "/job1/output", owner="ann"),
        "plain": ask(jobs, "/job1/output", owner="ann", headers=(("Accept", "text/plain"),)),
        "fragment": ask(jobs, "/job1/fragment", owner="ann"),
        "400": ask(jobs, "/job1/output", owner="ann", query="offset=x"),
        "403": ask(jobs, "/job1/cancel", owner="ann", method="POST"),
        "404": ask(jobs, "/unknown"),
        "405": ask(jobs, "/job1", method="PUT"),
        "cancel": ask(jobs, "/job1/cancel", owner="ann", method="POST", headers=SAME_ORIGIN),
        "303": ask(jobs, "/job1/cancel", owner="ann", method="POST", headers=unlocked),
    }
    jobs.down = True
    answers["503"] = ask(jobs, "/job1", owner="ann")
    return answers


def test_no_answer_is_stored_sniffed_or_gives_its_address_away(jobs: FakeJobs) -> None:
    for name, answer in every_answer(jobs).items():
        assert answer.header("Cache-Control") == "no-store", name
        assert answer.header("Referrer-Policy") == "no-referrer", name
        assert answer.header("X-Content-Type-Options") == "nosniff", name
        assert answer.header("Vary") == "Accept", name
        assert answer.header("Content-Length") == str(len(answer.body)), name
        assert answer.header("Content-Type"), name


def test_every_header_can_be_sent_and_stands_once(jobs: FakeJobs) -> None:
    for name, answer in every_answer(jobs).items():
        names = [key.lower() for key, _ in answer.headers]
        assert len(names) == len(set(names)), name
        assert all(f"{key}{value}".isascii() and f"{key}{value}".isprintable() for key, value in answer.headers), name


def test_the_page_allows_only_its_own_files_and_says_so(jobs: FakeJobs) -> None:
    policy = ask(jobs, "/job1", owner="ann", headers=HTML).header("Content-Security-Policy")
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
def test_html_is_given_to_those_who_prefer_it(jobs: FakeJobs, accept: str | None, best: str) -> None:
    assert preferred(accept, ("application/json", "text/html")) == best
    headers = () if accept is None else (("ACCEPT", accept),)
    assert (ask(jobs, "/job1", owner="ann", headers=headers).header("Content-Type") or "").startswith(best)


def test_several_accept_fields_count_as_one(jobs: FakeJobs) -> None:
    headers = (("Accept", "application/json;q=0.5"), ("Accept", "text/html"))
    assert b"<!doctype html>" in ask(jobs, "/job1", owner="ann", headers=headers).body


@given(st.text(max_size=60))
def test_no_accept_field_is_an_error(accept: str) -> None:
    offered = ("application/json", "text/html")
    assert preferred(accept, offered) in offered


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_shows_state_and_output_without_javascript(jobs: FakeJobs) -> None:
    page = Page(page_of(jobs))
    assert [bar["value"] for bar in page.all("progress")] == ["40"]
    assert all(bar["aria-label"] for bar in page.all("progress"))
    assert "Running: Chugging along" in page.text
    assert "first\nsecond ä\n" in page.text


def test_the_page_finds_its_files_and_the_job_where_they_are_mounted(jobs: FakeJobs) -> None:
    page = Page(page_of(jobs, mount="/my app/backjob"))
    assert [script["src"] for script in page.all("script")] == ["/my%20app/backjob/progress.js"]
    assert "/my%20app/backjob/progress.css" in [link["href"] for link in page.all("link")]
    assert page.all("backjob-progress")[0]["src"] == "/my%20app/backjob/job1.view-job1"


def test_all_files_that_the_page_links_are_served(jobs: FakeJobs) -> None:
    page = Page(page_of(jobs))
    linked = [script["src"] for script in page.all("script")] + [link["href"] for link in page.all("link")]
    ours = [path for path in linked if path and path.startswith("/")]
    assert len(ours) == 2
    assert [ask(jobs, path.removeprefix("/backjob")).status for path in ours] == [200, 200]


@pytest.mark.parametrize(
    ("path", "owner", "action"),
    [
        ("/job1.view-job1", None, None),
        ("/job1.cancel-job1", None, "/backjob/job1.cancel-job1/cancel"),
        ("/job1", "ann", "/backjob/job1.cancel-job1/cancel"),
        ("/job1.view-job1", "ann", "/backjob/job1.cancel-job1/cancel"),
    ],
)
def test_the_page_offers_to_cancel_to_those_who_may(
    jobs: FakeJobs, path: str, owner: str | None, action: str | None
) -> None:
    page = Page(page_of(jobs, path, owner=owner))
    assert [form["action"] for form in page.all("form")] == ([action] if action else [])
    assert ("cancel" in page.all("backjob-progress")[0]) == bool(action)


@pytest.mark.parametrize("in_thread", [True, False])
def test_the_page_listens_to_events_where_there_are_some(jobs: FakeJobs, in_thread: bool) -> None:
    wanted = Ask("GET", "/job1", "", HTML, "ann", "/backjob", in_thread=in_thread)
    page = Page(Endpoints(jobs, "/backjob").answer(wanted).body.decode())
    assert ("stream" in page.all("backjob-progress")[0]) is not in_thread


def test_the_form_works_where_a_browser_proves_nothing(jobs: FakeJobs) -> None:
    """A form on a no-referrer page sends ``Origin: null``, and over plain http no Sec-Fetch-Site."""
    action = Page(page_of(jobs, "/job1", owner="ann")).all("form")[0]["action"] or ""
    answer = cancel(
        jobs, action.removeprefix("/backjob"), headers=(("Origin", "null"), ("Host", "shop.example"), *HTML)
    )
    assert (answer.status, answer.header("Location")) == (303, "/backjob/job1")
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
def test_the_status_is_said_in_words(jobs: FakeJobs, status: Status, words: str) -> None:
    jobs.states["job1"] = a_state(status=status, status_text="")
    assert f'role="status">{words}</span></p>' in page_of(jobs)


def test_a_text_that_only_repeats_the_word_is_not_said_twice(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(status=Status.CANCELLED, status_text="cancelled")
    assert 'role="status">Cancelled</span></p>' in page_of(jobs)


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
def test_the_time_and_an_estimate_of_what_is_left_are_said(
    jobs: FakeJobs, status: Status, seconds: float, progress: int, shown: str
) -> None:
    then = NOON + timedelta(seconds=seconds)
    end = then if status.is_final else None
    jobs.states["job1"] = a_state(status=status, progress=progress, updated_time=then, end_time=end)
    assert f'<span part="time">{shown}</span>' in page_of(jobs)


def test_a_reason_is_part_of_what_a_screen_reader_is_told_at_the_end_alone(jobs: FakeJobs) -> None:
    apart = '<span part="state" role="status">Running</span><span part="text">: Chugging along</span>'
    assert apart in page_of(jobs)
    jobs.states["job1"] = a_state(status=Status.FAILED, status_text="No coal", end_time=NOON)
    assert '<span part="state" role="status">Failed<span part="text">: No coal</span></span>' in page_of(jobs)


# --- the fragment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(Status))
def test_a_fragment_is_a_piece_of_html_and_ends_the_polling_of_htmx_with_the_job(
    jobs: FakeJobs, status: Status
) -> None:
    jobs.states["job1"] = a_state(status=status, end_time=NOON if status.is_final else None, result={"href": "/a"})
    answer = ask(jobs, "/job1.view-job1/fragment")
    assert answer.status == (286 if status.is_final else 200)
    assert answer.reason == ("Stop Polling" if status.is_final else "OK")
    assert answer.header("Content-Type") == "text/html; charset=utf-8"
    piece = Page(answer.body.decode())
    assert {name for name, _ in piece.elements} == {"backjob-progress", "div", "p", "span", "progress", "a"}
    assert piece.all("backjob-progress") == [{"data-status": status.name.lower()}]
    assert [bar["value"] for bar in piece.all("progress")] == ["40"]
    assert [link["href"] for link in piece.all("a")] == ["/a"]
    assert "Chugging along" in piece.text


@pytest.mark.parametrize(
    ("query", "shown"), [("", False), ("output=0", False), ("output=1", True), ("output=1&x", True)]
)
def test_a_fragment_has_the_end_of_the_output_for_those_who_want_it(jobs: FakeJobs, query: str, shown: bool) -> None:
    answer = ask(jobs, "/job1/fragment", owner="ann", query=query)
    assert ("first\nsecond ä\n" in answer.body.decode()) is shown
    assert jobs.reads == 1 + shown


def test_nothing_in_a_fragment_becomes_markup(jobs: FakeJobs) -> None:
    plain = [
        name for name, _ in Page(ask(jobs, "/job1/fragment", owner="ann", query="output=1").body.decode()).elements
    ]
    jobs.states["job1"] = a_state(status_text=NASTY)
    jobs.outputs["job1"] = NASTY.encode("utf-8", "surrogatepass")
    piece = Page(ask(jobs, "/job1/fragment", owner="ann", query="output=1").body.decode())
    assert [name for name, _ in piece.elements] == plain
    assert piece.text.count(NASTY.replace("\ud800", "\ufffd").replace("\0", "\ufffd")) >= 1


NASTY = "</pre><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>{{output}}{{#cancel}}\ud800\0end"


@pytest.mark.parametrize("where", ["status_text", "scope", "output", "mount", "href"])
def test_nothing_a_job_says_becomes_markup(jobs: FakeJobs, where: str) -> None:
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


def test_json_is_ascii_even_of_what_utf_8_cannot_say(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(status_text=NASTY)
    jobs.outputs["job1"] = NASTY.encode("utf-8", "surrogatepass")
    for path in ("/job1", "/job1/output"):
        answer = ask(jobs, path, owner="ann")
        assert answer.body.isascii()
        assert NASTY in json.loads(answer.body).values()


def test_plain_output_is_utf_8_whatever_it_holds(jobs: FakeJobs) -> None:
    jobs.outputs["job1"] = "a\ud800b".encode("utf-8", "surrogatepass")
    answer = ask(jobs, "/job1/output", owner="ann", headers=(("Accept", "text/plain"),))
    assert answer.body.decode("utf-8") == "a\ufffdb"


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE, 7 * PIECE + 5, 40 * PIECE - 1])
def test_the_page_shows_the_end_of_a_long_output_in_few_reads(jobs: FakeJobs, size: int) -> None:
    jobs.outputs["job1"] = output = b"".join(b"%07d\n" % number for number in range(size // 8 + 1))[:size]
    markup = page_of(jobs)
    assert jobs.reads <= 16
    assert ("There is more output before this." in markup) is (size > PIECE)
    shown = markup.partition('tabindex="0">\n')[2].partition("</pre>")[0]
    assert shown == output[-PIECE:].decode()


def test_the_page_says_that_output_is_missing(jobs: FakeJobs) -> None:
    assert "the rest is missing" not in page_of(jobs)
    jobs.truncated = True
    assert "the rest is missing" in page_of(jobs)


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
def test_a_result_is_a_link_only_where_following_it_is_harmless(
    jobs: FakeJobs, result: JsonValue, link: str | None
) -> None:
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
def test_beside_the_bar_stands_a_text_that_does_not_repeat_the_output(text: str, output: str, shown: str) -> None:
    assert headline(text, output) == shown


def test_a_query_of_very_many_fields_is_refused(jobs: FakeJobs) -> None:
    assert ask(jobs, "/job1/output", owner="ann", query="&".join(["a=1"] * 30)).status == 400


def test_a_value_is_never_read_as_a_template() -> None:
    assert (
        fill("{{a}}{{#b}}<{{b}}>{{/b}}{{#c}}no{{/c}}", {"a": "{{b}}", "b": "{{#c}}&", "c": ""}) == "{{b}}<{{#c}}&amp;>"
    )


# --- events ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> Bench:
    """With real jobs: streams are not worth an imitation."""
    return bench(streams=1)


def events(world: Bench, job_id: str, query: str = "", *headers: tuple[str, str], **changes: Any) -> Answer:
    path = f"/{job_id}.{world.jobs.status_url(job_id).rpartition('.')[2]}/events"
    asked = Ask("GET", path, query, headers, None, "/backjob")
    return Endpoints(world.engine, "/backjob").answer(evolve(asked, **changes))


def test_events_are_a_stream_that_nothing_may_hold_back(world: Bench) -> None:
    answer = events(world, world.start())
    assert (answer.status, answer.body, answer.header("Content-Length")) == (200, b"", None)
    assert answer.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert answer.header("Cache-Control") == "no-store, no-transform"
    assert answer.header("X-Accel-Buffering") == "no"
    assert answer.header("Referrer-Policy") == "no-referrer"
    assert answer.stream is not None


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
def test_events_go_on_from_the_last_one_that_a_client_had_else_from_the_offset(
    world: Bench, query: str, last: str | None, begins: int, output: bool
) -> None:
    headers = () if last is None else (("Last-Event-ID", last),)
    stream = events(world, world.start(), query, *headers).stream
    assert stream is not None
    assert (stream.offset, stream.output) == (begins, output)


def test_a_bad_offset_is_refused_and_takes_no_place(world: Bench) -> None:
    answer = events(world, world.start(), "offset=-1")
    assert (answer.status, json.loads(answer.body)["error"][:6]) == (400, "offset")
    assert world.engine.broadcast.count == 0


def test_head_tells_the_headers_and_takes_no_place(world: Bench) -> None:
    job_id = world.start()
    head = events(world, job_id, method="HEAD")
    assert (head.status, head.headers, head.stream) == (200, events(world, job_id).headers, None)
    assert world.engine.broadcast.count == 0


def test_too_many_are_sent_away_for_a_while(world: Bench) -> None:
    job_id = world.start()
    first = events(world, job_id)
    refused = events(world, job_id)
    assert (refused.status, refused.header("Retry-After"), refused.stream) == (503, "2", None)
    assert first.stream is not None
    first.stream.close()
    assert events(world, job_id).status == 200


def test_where_they_are_off_there_is_no_such_route() -> None:
    world = bench(streams=0)
    answer = events(world, world.start())
    assert answer == ask(FakeJobs(), "/nothing/of-the-kind")
    assert events(bench(), world.start()).status == 404


def test_another_method_is_refused(world: Bench) -> None:
    refused = events(world, world.start(), method="POST")
    assert (refused.status, refused.header("Allow")) == (405, "GET, HEAD")


# --- for the adapters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("/backjob/job1", "/job1"),
        ("/backjob/job1/output", "/job1/output"),
        ("/backjob/", "/"),
        ("/backjob", None),
        ("/backjobs/job1", None),
        ("/other/backjob/job1", None),
        ("/", None),
    ],
)
def test_what_is_below_the_prefix_is_ours(jobs: FakeJobs, path: str, below: str | None) -> None:
    assert Endpoints(jobs, "/backjob").below(path) == below


@pytest.mark.parametrize("prefix", ["", "/", "backjob", "/backjob/", "//backjob"])
def test_a_prefix_that_could_not_work_is_refused(jobs: FakeJobs, prefix: str) -> None:
    with pytest.raises(InvalidRequest, match="status_prefix"):
        Endpoints(jobs, prefix)


@pytest.mark.parametrize("show", [repr, str])
def test_a_request_shows_neither_its_token_nor_its_header_values(show: Callable[[object], str]) -> None:
    shown = show(Ask("GET", "/job1.view-job1/output", "", (("Cookie", "session=1"),), "ann", "/backjob"))
    assert "view-job1" not in shown
    assert "session=1" not in shown
    assert "/job1.…/output" in shown
    assert "Cookie" in shown
