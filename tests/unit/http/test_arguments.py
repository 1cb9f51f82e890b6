"""Arguments of `start` and of `BackJob`: an invalid one is named, and nothing is stored or sent."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backjob import BackJob
from backjob.errors import InvalidRequest, NoCurrentRequest, StoreUnusable
from backjob.http.arguments import Content, Limits, build_request, check_delay
from backjob.model import Request
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock
from backjob.transports.sockets import SocketTransport
from tests.unit.core import COOKIE, KEY, Bench, FakeTransport, Here, bench, served

LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.fixture
def world() -> Bench:
    return bench(max_body=100, max_headers=600)


def nothing_happened(world: Bench) -> bool:
    return not world.store.calls and not world.transport.sent and not world.monitor._posted


BAD: list[tuple[str, dict[str, Any]]] = [
    *[
        ("method", {"method": method})
        for method in ("", "get", "Get", "G ET", "GET\r\n", "G\tET", "É", "A" * 21, "CONNECT", "A(B)", None, b"GET")
    ],
    *[
        ("path", {"path": path})
        for path in (
            "",
            "work",
            "http://other/work",
            "//other/work",
            "/a/../b",
            "/./a",
            "/%2e%2E/a",
            "/a%2F..%2Fb",
            "/a\r\nX: y",
            "/a\0",
            "/a\x7f",
            "/a#b",
            "/100%",
            "/\udcff",
            None,
            b"/work",
        )
    ],
    ("query", {"query": {"a": object}}),
    ("query", {"query": {1: "a"}}),
    ("query", {"query": {"a": {"b": 1}}}),
    ("query", {"query": {"a": "\udcff"}}),
    ("query", {"query": {"backjob-signature": "mine"}}),
    ("query", {"path": "/work?backjob-signature-input=x"}),
    ("query", {"query": {"a": "x" * 600}}),
    ("path", {"path": "/" + "x" * 600}),
    *[
        ("delay", {"delay": delay})
        for delay in (
            -1,
            -0.001,
            math.nan,
            math.inf,
            -math.inf,
            10**400,
            1e300,
            True,
            "1",
            None,
            timedelta(seconds=-1),
            timedelta.max,
            datetime(2040, 1, 1),  # noqa: DTZ001
            datetime.max.replace(tzinfo=FakeClock().now().tzinfo),
        )
    ],
    ("merge", {"merge": "sometimes"}),
    ("merge", {"merge": ""}),
    ("json", {"method": "POST", "form": {"a": 1}, "json": {"a": 1}}),
    ("body", {"method": "POST", "json": 1, "body": b"1"}),
    ("form", {"form": {"a": 1}}),
    ("json", {"json": 0}),
    ("body", {"body": b""}),
    ("body", {"method": "POST", "body": b"x" * 101}),
    ("body", {"method": "POST", "body": "ä" * 51}),
    ("body", {"method": "POST", "json": "x" * 99}),
    ("body", {"method": "POST", "form": {"a": "x" * 99}}),
    ("body", {"method": "POST", "body": 5}),
    ("body", {"method": "POST", "body": "\udcff"}),
    ("form", {"method": "POST", "form": {"a": "\udcff"}}),
    ("form", {"method": "POST", "form": "a=b"}),
    ("json", {"method": "POST", "json": object}),
    ("json", {"method": "POST", "json": LOOP}),
    ("json", {"method": "POST", "json": [math.nan]}),
    ("json", {"method": "POST", "json": math.inf}),
    ("headers", {"headers": {"X-A": "x" * 600}}),
    ("headers", {"headers": {"X-A": "€"}}),
    ("headers", {"headers": {"X-Ä": "a"}}),
    ("headers", {"headers": {"": "a"}}),
    ("headers", {"headers": {"X A": "a"}}),
    ("headers", {"headers": {"X-A\r\nB": "a"}}),
    ("headers", {"headers": {"X-A:": "a"}}),
    ("headers", {"headers": {1: "a"}}),
    ("headers", {"headers": {"X-A": 5}}),
    ("headers", {"headers": [("X-A", "a")]}),
    *[("headers", {"headers": {"X-A": f"a{bad}b"}}) for bad in ("\r\n", "\n", "\r", "\0", "\x1f", "\x7f")],
    ("headers", {"headers": {"X-A": " a"}}),
    ("headers", {"headers": {"Cookie": "a\r\nX: b"}}),
    *[
        ("headers", {"headers": {name: "a"}})
        for name in (
            "Host",
            "host",
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Upgrade",
            "Expect",
            "Proxy-Authorization",
            "Proxy-Connection",
            "X-Forwarded-Proto",
            "Signature",
            "Signature-Input",
            "Content-Digest",
        )
    ],
    *[(name, {name: bad}) for name in ("scope", "owner") for bad in ("a\nb", "a\r\nb", "\0", "\udcff", "x" * 256, 5)],
    ("scope", {"scope": None}),
    *[("error_timeout", {"error_timeout": bad}) for bad in (0.0001, -1, math.nan, math.inf, True, "60", 10**400)],
]


@pytest.mark.parametrize(("argument", "options"), BAD, ids=lambda value: repr(value)[:60])
def test_an_invalid_argument_is_named_and_nothing_is_stored_or_sent(
    world: Bench, argument: str, options: dict[str, Any]
) -> None:
    options = {"path": "/work", "as_current_user": False, **options}
    with pytest.raises(InvalidRequest) as caught:
        world.jobs.start(**options)
    assert caught.value.argument == argument
    assert nothing_happened(world)


def test_control_characters_in_query_values_are_escaped(world: Bench) -> None:
    job = world.job(world.start("/a b/ü", query={"a\r\nb": "c\r\nd", "e": [1, None, True], "f": None}))
    assert job.request is not None
    assert job.request.target == "/a%20b/%C3%BC?a%0D%0Ab=c%0D%0Ad&e=1&e=true"


@pytest.mark.parametrize("method", ["GET", "POST", "CHICKEN", "M-SEARCH", "A" * 20])
def test_any_upper_case_token_of_20_characters_is_a_method(world: Bench, method: str) -> None:
    job = world.job(world.start(method=method))
    assert job.request is not None
    assert job.request.method == method


def test_a_body_and_headers_exactly_at_their_limits_are_accepted() -> None:
    limits = Limits(body=3, headers=20)
    content = Content(method="POST", body=b"abc", headers={"Content-Type": "abcd"})
    request, _ = build_request("/", None, content, limits)
    assert (request.body, request.headers) == (b"abc", (("Content-Type", "abcd"),))


@pytest.mark.parametrize(
    ("options", "body", "content_type"),
    [
        ({"form": {"a": [1, 2], "b": None, "c": "ü"}}, b"a=1&a=2&c=%C3%BC", "application/x-www-form-urlencoded"),
        ({"json": {"a": [1]}}, b'{"a": [1]}', "application/json"),
        ({"body": "ü"}, "ü".encode(), "text/plain; charset=utf-8"),
        ({"body": b"\xff"}, b"\xff", "application/octet-stream"),
        ({"body": bytearray(b"\xff")}, b"\xff", "application/octet-stream"),
        ({}, b"", None),
    ],
)
def test_form_json_and_body_have_their_encodings(
    world: Bench, options: dict[str, Any], body: bytes, content_type: str | None
) -> None:
    request = world.job(world.start(method="POST", **options)).request
    assert request is not None
    assert (request.body, request.header("content-type")) == (body, content_type)


def test_a_datetime_in_the_past_means_now() -> None:
    clock = FakeClock()
    assert check_delay(clock.now() - timedelta(days=1), clock.now()) == 0.0
    assert check_delay(timedelta(seconds=2), clock.now()) == 2.0


@pytest.mark.parametrize("name", ["Cookie", "cookie", "Authorization", "AUTHORIZATION"])
def test_credentials_among_the_headers_are_never_stored(world: Bench, name: str) -> None:
    job_id = world.start(headers={name: "s3cret", "X-A": "b"})
    job = world.job(job_id)
    assert job.request is not None
    assert job.request.header(name) is None
    assert job.held
    world.step()
    request = world.transport.sent[0].delivery.sign()
    assert (request.header(name), request.header("x-a")) == ("s3cret", "b")


def test_given_credentials_replace_those_of_the_current_request(world: Bench) -> None:
    with served():
        world.jobs.start("/work", headers={"cookie": "mine"})
    world.step()
    assert world.transport.sent[0].delivery.sign().header("Cookie") == "mine"


def test_as_current_user_outside_of_a_request_is_refused(world: Bench) -> None:
    with pytest.raises(NoCurrentRequest):
        world.jobs.start("/work")
    assert nothing_happened(world)


def test_invalid_credentials_are_refused_without_being_shown(world: Bench) -> None:
    with (
        served(Here(Request("GET", "/", (("Cookie", COOKIE + "\x01"),)))),
        pytest.raises(InvalidRequest) as caught,
    ):
        world.jobs.start("/work")
    assert COOKIE not in str(caught.value)
    assert nothing_happened(world)


def test_an_invalid_user_agent_of_the_client_is_not_forwarded(world: Bench) -> None:
    with served(Here(Request("GET", "/", (("User-Agent", "a\x01b"),)))):
        job_id = world.start()
    request = world.job(job_id).request
    assert request is not None
    assert request.header("user-agent") == "backjob"


def test_the_user_agent_is_that_of_the_client_unless_configured() -> None:
    for setting, agent in ((None, "Browser/1"), ("Jobs/2", "Jobs/2")):
        world = bench(user_agent=setting)
        with served():
            request = world.job(world.start()).request
        assert request is not None
        assert request.header("user-agent") == agent


def test_cookies_count_towards_the_header_limit(world: Bench) -> None:
    here = Here(Request("GET", "/", (("Cookie", "c" * 600),)))
    with served(here), pytest.raises(InvalidRequest) as caught:
        world.jobs.start("/work")
    assert caught.value.argument == "headers"
    assert nothing_happened(world)


# --- settings -------------------------------------------------------------------------------------------------------

NUMBERS = (
    "error_timeout",
    "delivery_timeout",
    "completed_retention_days",
    "retention_days",
    "max_output",
    "max_body",
    "max_headers",
    "max_depth",
    "max_chain",
)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("bad", [math.nan, -1, math.inf, True, "1", None, 10**400])
def test_an_option_outside_of_its_range_is_named(name: str, bad: Any) -> None:
    setting: dict[str, Any] = {name: bad}
    with pytest.raises(InvalidRequest) as caught:
        bench(**setting)
    assert caught.value.argument == name


@pytest.mark.parametrize("name", ["max_output", "max_body", "max_headers", "max_depth", "max_chain"])
def test_sizes_are_whole_numbers(name: str) -> None:
    setting: dict[str, Any] = {name: 1e6}
    with pytest.raises(InvalidRequest) as caught:
        bench(**setting)
    assert caught.value.argument == name


@pytest.mark.parametrize("agent", ["a\r\nX: b", "a\0", "€", " a", 5])
def test_an_invalid_user_agent_option_is_refused(agent: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        bench(user_agent=agent)
    assert caught.value.argument == "user_agent"


@pytest.mark.parametrize("prefix", ["", "/", "jobs", "/jobs/"])
def test_a_status_prefix_must_begin_with_a_slash_and_not_end_with_one(prefix: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        bench(status_prefix=prefix)
    assert caught.value.argument == "status_prefix"


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "/app", "ftp://a", "", "//host"])
def test_a_relative_base_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SocketTransport(url)
    assert caught.value.argument == "base_url"


@pytest.mark.parametrize("key", ["Xq9!", b"x" * 31, "", "x" * 64])
def test_a_short_or_guessable_key_is_refused_without_being_shown(key: str | bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        BackJob(store=MemoryStore(), transport=FakeTransport(), signer=MessageSigner(key))
    assert caught.value.argument == "key"
    assert not key or str(key) not in str(caught.value)


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    file.write_text("this is a letter, and has been one for years\n" * 100)
    with pytest.raises(StoreUnusable):
        SQLiteStore(file)
    assert KEY not in file.read_text()
