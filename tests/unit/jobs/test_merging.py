"""Identical requests of one owner or of one visitor merge; those of two people never do."""

from __future__ import annotations

from typing import Any

import pytest

from backjob.http.serving import serving
from backjob.model import Caller, Request
from tests.unit.core import Bench, Here, bench, served

MERGES = pytest.mark.parametrize("merge", ["pending", "unfinished"])
ANN, BOB = "session=ann; theme=dark", "theme=dark; session=bob"


@pytest.fixture
def world() -> Bench:
    return bench()


def page(
    *fields: tuple[str, str], host: str = "shop.example", mount: str = "", address: str = "192.0.2.7", proxied: str = ""
) -> Here:
    forwarded = (("X-Forwarded-For", proxied),) if proxied else ()
    return Here(Request("GET", "/page", fields), Caller("https", host, address, forwarded, mount), mount)


def start(world: Bench, here: Here, merge: Any, **options: Any) -> str:
    with served(here):
        return world.jobs.start("/work", merge=merge, **options)


@MERGES
@pytest.mark.parametrize("owner", ["", None])
def test_a_visitors_double_click_merges_with_himself_and_with_nobody_else(merge: str, owner: str | None) -> None:
    world = bench(owner=lambda request: owner)
    anns = start(world, page(("Cookie", ANN)), merge, delay=9)
    bobs = start(world, page(("Cookie", BOB)), merge, delay=9)
    assert anns != bobs
    assert start(world, page(("Cookie", "theme=light;session=ann")), merge, delay=9) == anns
    assert start(world, page(("Cookie", BOB)), merge, delay=9) == bobs
    assert world.job(anns).owner is None


@pytest.mark.parametrize("place", [{"address": "192.0.2.8"}, {"proxied": "192.0.2.8"}], ids=str)
def test_equal_cookies_of_two_clients_do_not_make_them_one_visitor(place: dict[str, str]) -> None:
    # A signed session with equal contents that was set in the same second is the same cookie.
    world = bench(owner=lambda request: "")
    anns = start(world, page(("Cookie", ANN), proxied="192.0.2.7"), "unfinished", delay=9)
    assert start(world, page(("Cookie", ANN), **{"proxied": "192.0.2.7", **place}), "unfinished", delay=9) != anns


def test_a_waiting_job_never_runs_with_another_visitors_cookie() -> None:
    world = bench(owner=lambda request: "")
    anns = start(world, page(("Cookie", ANN)), "pending", delay=9)
    start(world, page(("Cookie", BOB)), "pending", delay=9)
    world.step(10)
    cookies = {sent.delivery.job_id: sent.delivery.sign().header("Cookie") for sent in world.transport.sent}
    assert cookies.pop(anns) == ANN
    assert list(cookies.values()) == [BOB]


@MERGES
def test_a_job_without_the_current_users_credentials_is_not_one_with_them(merge: str) -> None:
    world = bench(owner=lambda request: "ann")
    given = {"Authorization": "Bearer shop"}
    hers = start(world, page(("Cookie", ANN)), merge, delay=9, headers=given)
    assert start(world, page(("Cookie", ANN)), merge, delay=9, headers=given, as_current_user=False) != hers


@MERGES
@pytest.mark.parametrize("fields", [(), (("Cookie", "theme=dark"),), (("Cookie", "session="),)], ids=str)
def test_a_visitor_whom_nothing_identifies_gets_a_job_of_his_own(
    world: Bench, merge: str, fields: tuple[tuple[str, str], ...]
) -> None:
    ids = {start(world, page(*fields), merge, delay=9) for _ in range(2)}
    ids.add(start(world, page(*fields), merge, delay=9, headers={"Authorization": "Bearer shop"} if fields else None))
    assert len(ids) == 3
    assert {world.job(job_id).merge_key for job_id in ids} == {None}


@MERGES
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Authorization", "Bearer a"), ("Authorization", "Bearer b")),
        (("Cookie", "sid=1"), ("Cookie", "sid=2")),
        (("Cookie", "sid=1"), ("Cookie", "sid=1; sid=2")),
        (("X-User", "ann"), ("X-User", "bob")),
    ],
    ids=str,
)
def test_without_an_owner_credentials_distinguish_users(
    merge: str, one: tuple[str, str], other: tuple[str, str]
) -> None:
    world = bench(merge_cookies=["id", "sid"], credential_headers=["X-User"])
    first = start(world, page(one), merge, delay=9)
    assert start(world, page(one), merge, delay=9) == first
    assert start(world, page(other), merge, delay=9) != first


@MERGES
def test_the_same_owner_merges_from_two_sessions(merge: str) -> None:
    world = bench(owner=lambda request: "ann")
    first = start(world, page(("Cookie", "session=1")), merge, delay=9)
    assert start(world, page(("Cookie", "session=2")), merge, delay=9) == first
    assert start(world, page(("Cookie", "session=2")), merge, delay=9, owner="bob") != first


@MERGES
@pytest.mark.parametrize(
    "other",
    [
        {"host": "other.example"},
        {"mount": "/de"},
        {"fields": {"Accept-Language": "de"}},
        {"fields": {"X-Tenant": "2"}},
        {"headers": {"X-A": "2"}},
        {"headers": {}},
        {"headers": {"X-A": "1", "X-B": "1"}},
        {"headers": {"X-A": "1", "Content-Type": "text/html"}},
        {"headers": {"X-A": "1", "Authorization": "Bearer b"}},
        {"headers": {"X-A": "1", "Cookie": "a=b"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("owner", ["ann", None])
def test_requests_that_differ_for_the_action_do_not_merge(merge: str, other: dict[str, Any], owner: str | None) -> None:
    world = bench(forward_headers=["X-Tenant"])

    def call(
        host: str = "shop.example",
        mount: str = "",
        fields: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> str:
        sent = {"Cookie": "session=1", "Accept-Language": "en", "X-Tenant": "1", **(fields or {})}
        given = {"X-A": "1"} if headers is None else headers
        here = page(*sent.items(), host=host, mount=mount)
        return start(world, here, merge, delay=9, owner=owner, headers=given)

    first = call()
    assert call() == first
    assert call(**other) != first


@MERGES
def test_explicit_credentials_are_compared_whole(world: Bench, merge: Any) -> None:
    first = world.start(merge=merge, delay=9, headers={"Authorization": "Bearer a"})
    assert world.start(merge=merge, delay=9, headers={"authorization": "Bearer a"}) == first
    assert world.start(merge=merge, delay=9, headers={"Authorization": "Bearer b"}) != first
    assert world.start(merge=merge, delay=9) != first
    assert b"Bearer" not in (world.job(first).merge_key or "").encode()


@MERGES
def test_the_case_and_order_of_names_do_not_matter_and_tracing_does_not(world: Bench, merge: Any) -> None:
    noise = ("traceparent", "tracestate", "baggage", "sentry-trace", "X-Request-ID", "User-Agent")
    first = start(
        world,
        page(("Cookie", ANN), *((name, "1") for name in noise)),
        merge,
        delay=9,
        headers={"X-A": "1", "X-B": "2", "traceparent": "3"},
    )
    again = page(("Cookie", ANN), *((name, "2") for name in noise))
    assert start(world, again, merge, delay=9, headers={"x-b": "2", "x-a": "1"}) == first
    twice = start(world, again, merge, delay=9, headers={"X-A": "1", "x-a": "2"})
    assert start(world, again, merge, delay=9, headers={"x-a": "1", "X-A": "2"}) == twice
    assert start(world, again, merge, delay=9, headers={"x-a": "2", "X-A": "1"}) != twice


def test_an_owner_of_an_empty_text_is_nobody() -> None:
    world = bench(owner=lambda request: "")
    with served():
        ids = [world.jobs.start("/a"), world.jobs.start("/b", owner="")]
    assert [world.job(job_id).owner for job_id in ids] == [None, None]
    assert world.jobs.find(owner="") == []
    assert serving.get() is None
