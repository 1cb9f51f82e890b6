"""An action sees the request that was passed to `start()`, with properties of the request that started it."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest

from backjob import Status
from tests.scenarios.sites import Site, result_of

BROWSER = {"User-Agent": "Browser/7", "Cookie": "user=ann; theme=dark", "Authorization": "Bearer 5ecret"}


def seen_by(site: Site, path: str = "/work/see", query: dict[str, Any] | None = None, **options: Any) -> Any:
    """The request that the action "see" returns when run as a job."""
    state = site.run(path, query, **options)
    assert state.status is Status.COMPLETED, state
    return result_of(state)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "CHICKEN"])
@pytest.mark.every_server
def test_any_method_that_the_route_allows_is_sent(site: Site, method: str) -> None:
    if method == "CHICKEN" and site.custom_verb_error is not None:
        state = site.run("/work/see", method=method)
        assert state.status is Status.FAILED
        assert site.custom_verb_error in state.status_text
        return
    assert seen_by(site, method=method)["method"] == method


@pytest.mark.every_server
def test_the_action_sees_exactly_the_query_passed_to_start(site: Site) -> None:
    target = "/work/see?flag&a=1&a=b+c&x=%7e%2f&empty=&uml=ä"
    seen = seen_by(site, target, {"id": [5, 6], "none": None, "text": "a&b=c"})
    assert seen["query"] == "flag&a=1&a=b+c&x=~%2F&empty=&uml=%C3%A4&id=5&id=6&text=a%26b%3Dc"
    if site.kind.raw_path:
        assert seen["raw"] == f"/work/see?{seen['query']}"


@pytest.mark.every_server
def test_the_action_sees_no_query_if_none_was_passed(site: Site) -> None:
    seen = seen_by(site)
    assert seen["query"] == ""
    assert seen["raw"] == ("/work/see" if site.kind.raw_path else None)


def test_a_form_arrives_as_the_body_and_keeps_the_query(site: Site) -> None:
    seen = seen_by(site, query={"id": 5}, method="POST", form={"name": "ä b", "tag": ["x", "y"]})
    assert seen["headers"]["content-type"] == "application/x-www-form-urlencoded"
    assert (seen["body"], seen["query"]) == ("name=%C3%A4+b&tag=x&tag=y", "id=5")


def test_json_arrives_as_json(site: Site) -> None:
    seen = seen_by(site, method="POST", json={"rows": [1, None, "ä"]})
    assert seen["headers"]["content-type"] == "application/json"
    assert json.loads(seen["body"]) == {"rows": [1, None, "ä"]}


@pytest.mark.every_server
def test_a_body_of_300_kb_arrives_whole(site: Site) -> None:
    body = "".join(random.Random(1).choices("abcdefghij\n", k=300_000))
    seen = seen_by(site, method="PUT", body=body, headers={"Content-Type": "text/x-letters"})
    assert (seen["size"], seen["digest"]) == (300_000, hashlib.sha256(body.encode()).hexdigest())
    assert seen["headers"]["content-type"] == "text/x-letters"


@pytest.mark.parametrize(
    ("path", "decoded", "raw"),
    [
        ("/work/see/a%2fb", "/work/see/a/b", "/work/see/a%2Fb"),
        ("/work/see/Grüße/日本", "/work/see/Grüße/日本", "/work/see/Gr%C3%BC%C3%9Fe/%E6%97%A5%E6%9C%AC"),
        ("/work/see/%7euser;v=1/a b", "/work/see/~user;v=1/a b", "/work/see/~user;v=1/a%20b"),
        ("/work/see/100%25", "/work/see/100%", "/work/see/100%25"),
    ],
)
@pytest.mark.every_server
def test_paths_arrive_decoded_and_escaped_correctly(site: Site, path: str, decoded: str, raw: str) -> None:
    seen = seen_by(site, path, {"q": 1})
    assert (seen["path"], seen["query"]) == (decoded, "q=1")
    if site.kind.raw_path:
        assert seen["raw"] == f"{raw}?q=1"


@pytest.mark.parametrize("path", ["/work/see", "/work/see/a%2Fb/ä"])
@pytest.mark.every_server
def test_a_mounted_application_runs_jobs_below_its_mount(site: Site, path: str) -> None:
    started = site.started(path, {"id": 5}, mount="/shop")
    seen = result_of(site.end(started["id"]))
    assert (seen["mount"], seen["query"]) == ("/shop", "id=5")
    assert seen["path"].startswith("/work/see")
    assert started["url"].startswith("/shop/backjob/")
    assert site.page(started["url"]).json()["status_name"] == "COMPLETED"


@pytest.mark.every_server
def test_a_job_carries_the_current_users_credentials(site: Site) -> None:
    seen = seen_by(site, visitor=BROWSER)
    assert seen["headers"]["cookie"] == BROWSER["Cookie"]
    assert seen["headers"]["authorization"] == BROWSER["Authorization"]


LOGIN = {"X-Api-Key": "5ecret", "Remote-User": "ann"}
CONTEXT = {
    "Accept-Language": "de-CH, de;q=0.9",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "vendor=1",
    "baggage": "user=5",
    "sentry-trace": "abc-def-1",
    "X-Request-ID": "r-1",
    "X-Tenant": "blue",
}


def test_an_anonymous_job_carries_no_credentials(site: Site) -> None:
    headers = seen_by(site, visitor=BROWSER | LOGIN, as_current_user=False)["headers"]
    assert not {"cookie", "authorization", "x-api-key", "remote-user", "backjob-credentials"} & headers.keys()


@pytest.mark.every_server
def test_the_action_sees_the_login_the_language_and_the_trace_of_the_page(site: Site) -> None:
    seen = seen_by(site, visitor=LOGIN | CONTEXT)["headers"]
    for name, value in (LOGIN | CONTEXT).items():
        assert seen.get(name.lower()) == value, name
    assert "backjob-credentials" not in seen


@pytest.mark.every_server
def test_a_cookie_whose_last_byte_python_takes_for_a_space_arrives_as_it_does_at_a_page(site: Site) -> None:
    visitor = {"Cookie": "name=voil\xa0"}
    page = site.page("/work/see", headers=visitor).json()["headers"].get("cookie", "")  # granian under WSGI empties it
    assert seen_by(site, visitor=visitor)["headers"].get("cookie", "") == page


def test_the_owner_is_the_user_who_started_the_job(site: Site) -> None:
    assert site.run("/work/none", visitor=BROWSER).owner == "ann"
    assert site.run("/work/none").owner is None


@pytest.mark.every_server
def test_a_job_has_the_client_properties_of_the_request_that_started_it(site: Site) -> None:
    visitor = {
        **BROWSER,
        "Host": "www.shop.example:8443",
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "https",
    }
    foreground = site.page("/work/see", headers=visitor, source="127.0.0.2").json()
    background = seen_by(site, visitor=visitor, source="127.0.0.2")
    for name in ("address", "scheme", "host"):
        assert background[name] == foreground[name], name
    for name in ("user-agent", "x-forwarded-for", "x-forwarded-proto"):
        assert background["headers"].get(name) == foreground["headers"].get(name), name
    assert background["host"] == "www.shop.example:8443"
    assert background["headers"]["user-agent"] == "Browser/7"
    if site.kind.listens != "unix":
        assert background["address"] == "127.0.0.2"


def test_headers_passed_to_start_arrive_and_the_visitors_other_headers_do_not(site: Site) -> None:
    headers = seen_by(site, visitor={"X-Theirs": "1"}, headers={"X-Ours": "2", "Cookie": "user=bob"})["headers"]
    assert (headers["x-ours"], headers["cookie"]) == ("2", "user=bob")
    assert "x-theirs" not in headers


def test_the_action_knows_its_job_id(site: Site) -> None:
    job_id = site.start("/work/see")
    seen = result_of(site.end(job_id))
    assert (seen["background"], seen["job_id"]) == (True, job_id)
    assert site.runs(job_id) == 1


def test_the_same_routes_work_in_the_foreground(site: Site) -> None:
    page = site.page("/work/see", {"a": "1"})
    assert (page.status, page.json()["background"], page.json()["job_id"]) == (200, False, None)
    assert page.json()["query"] == "a=1"
    steps = json.dumps(
        [["update", [20, "x"], {}], ["increment", [5], {}], ["track", [3, "y"], {}], ["echo", ["z"], {}]]
    )
    assert site.page("/work/steps", {"steps": steps}).text == "done"
    assert site.page("/work/stream").text == "first second ä third"
    assert (site.page("/work/finish").status, site.page("/work/finish").text) == (200, "")
    assert site.page("/work/answer", {"status": "302", "location": "/login"}).headers["location"] == "/login"
    assert site.page("/work/fail").status == 500
