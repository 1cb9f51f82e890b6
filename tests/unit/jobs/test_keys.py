"""`start(key=…)`: the same key and owner are the same job, also after its end."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from backjob.errors import InvalidRequest
from backjob.model import Request, Status
from backjob.signing import MessageSigner
from backjob.worker.outcomes import Outcome
from tests.unit.core import Bench, Here, bench, served

KEY = "nightly-2026-11-30"
ANN, BOB = "session=ann", "session=bob"


@pytest.fixture
def world() -> Bench:
    return bench()


def page(*fields: tuple[str, str]) -> Here:
    return Here(Request("GET", "/page", fields))


def start(world: Bench, here: Here, **options: Any) -> str:
    with served(here):
        return world.jobs.start("/work", **{"key": KEY, **options})


def finish(world: Bench) -> None:
    world.step()
    world.engine.worker.end(world.receive(), Outcome(200))


def test_the_same_key_is_the_same_job_until_it_is_purged(world: Bench) -> None:
    first = world.start(key=KEY)
    assert world.start(key=KEY) == first
    finish(world)
    assert world.start(key=KEY) == first
    assert world.jobs.status(first).status is Status.COMPLETED
    assert world.start(key="nightly-2026-12-01") != first
    world.clock.advance(31 * 86_400)
    assert world.jobs.cleanup() == 1
    assert world.start(key=KEY) != first


def test_a_key_joins_a_failed_or_cancelled_job_too(world: Bench) -> None:
    first = world.start(key=KEY)
    assert world.jobs.cancel(first)
    assert world.start(key=KEY) == first


def test_a_key_joins_jobs_with_another_query_or_body(world: Bench) -> None:
    first = world.start(key=KEY, method="POST", json={"page": 1})
    assert world.start(key=KEY, method="POST", json={"page": 2}, query={"a": 1}, title="Another") == first


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_key_of_another_route_is_refused(world: Bench, has_ended: bool) -> None:
    world.start("/work", key=KEY)
    if has_ended:
        finish(world)
    for path, method in (("/other", "GET"), ("/work", "POST")):
        with pytest.raises(InvalidRequest, match="key: belongs to a job of another route, GET /work"):
            world.start(path, key=KEY, method=method)
    assert len(world.jobs.find()) == 1


def test_another_owner_has_another_job() -> None:
    world = bench(owner=lambda request: request.header("x-owner"))
    anns = start(world, page(("X-Owner", "ann"), ("Cookie", ANN)))
    assert start(world, page(("X-Owner", "bob"), ("Cookie", BOB))) != anns
    assert start(world, page(("X-Owner", "ann"), ("Cookie", "session=2"))) == anns
    assert start(world, page(("Cookie", ANN)), owner="ann") == anns
    assert start(world, page(("Cookie", ANN)), owner="ann", as_current_user=False) == anns


@pytest.mark.parametrize("owner", ["", None])
def test_two_visitors_without_an_owner_do_not_share_a_job(owner: str | None) -> None:
    world = bench(owner=lambda request: owner)
    anns = start(world, page(("Cookie", ANN)))
    assert start(world, page(("Cookie", BOB))) != anns
    assert start(world, page(("Cookie", ANN))) == anns
    assert start(world, page(("Cookie", ANN)), as_current_user=False) not in {anns, start(world, page(("Cookie", BOB)))}


@pytest.mark.parametrize("fields", [(), (("Cookie", "theme=dark"),)], ids=str)
def test_a_key_is_refused_if_nothing_distinguishes_the_visitor(
    world: Bench, fields: tuple[tuple[str, str], ...]
) -> None:
    with pytest.raises(InvalidRequest, match="key: needs an owner"):
        start(world, page(*fields))
    assert world.jobs.find() == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"key": ""}, "1 to 1000 characters"),
        ({"key": "x" * 1001}, "1 to 1000 characters"),
        ({"key": "a\0b"}, "1 to 1000 characters"),
        ({"key": 7}, "1 to 1000 characters"),
        ({"key": KEY, "merge": "unfinished"}, "can't be combined with merge='unfinished'"),
    ],
)
def test_an_invalid_key_is_refused_and_nothing_is_stored(world: Bench, options: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        world.start(**options)
    assert caught.value.argument == "key"
    assert world.jobs.find() == []


def test_a_key_of_another_application_in_the_same_store_is_another_one(world: Bench) -> None:
    other = bench(clock=world.clock, store=world.store.store, signer=MessageSigner("r8-other-Key-Lq2Zx7Wv1Nn5Ty3Ub6Mk"))
    assert other.start(key=KEY) != world.start(key=KEY)


def test_a_job_whose_row_was_changed_is_not_joined(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    first = world.start(key=KEY, owner="ann", delay=9)
    store: Any = world.store.store
    store._jobs[first] = evolve(store._jobs[first], request=Request("GET", "/evil"))
    assert world.start(key=KEY, owner="ann", delay=9) != first
    assert "its stored row is not as this application wrote it" in caplog.text


@pytest.mark.parametrize("title", ["x" * 256, "a\0b", "a\nb", 7])
def test_an_invalid_title_is_refused(world: Bench, title: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        world.start(title=title)
    assert caught.value.argument == "title"
    assert world.jobs.find() == []


def test_a_title_stays_after_the_end_and_without_one_it_is_the_path(world: Bench) -> None:
    titled, plain = world.start(title="Invoices 2026"), world.start("/plain?a=1", title="")
    world.jobs.cancel(titled)
    world.jobs.cancel(plain)
    assert world.jobs.status(titled).title == "Invoices 2026"
    assert (world.jobs.status(plain).title, world.jobs.status(plain).path) == ("/plain", "/plain")


def test_a_title_may_be_a_lazy_translation(world: Bench) -> None:
    class Lazy(str):
        __slots__ = ()

    assert world.jobs.status(world.start(title=Lazy("Rechnungen"))).title == "Rechnungen"
