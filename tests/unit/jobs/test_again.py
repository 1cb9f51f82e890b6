"""`run_again()`: the kept request of an ended job starts once more, with no more rights than the first time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attrs import evolve

from backjob.errors import InvalidRequest, JobNotFound
from backjob.http.serving import serving
from backjob.lifecycle import ROW_CHANGED
from backjob.model import Caller, Request, Status
from backjob.signing import MessageSigner
from backjob.worker.outcomes import Outcome
from tests.unit.core import KEY, Bench, Here, bench, served

ANN, BOB = "session=ann", "session=bob"
OTHER_KEY = "Xo5TgHq1_iWn8-eRkUz3McVb6YsLa0Pd"


def page(
    cookie: str | None = ANN, owner: str | None = "ann", *fields: tuple[str, str], address: str = "192.0.2.7"
) -> Here:
    given = [("Cookie", cookie)] if cookie else []
    given += [("X-Owner", owner)] if owner else []
    return Here(Request("GET", "/page", (*given, *fields)), Caller("https", "shop.example", address))


@pytest.fixture
def world() -> Bench:
    return bench(owner=lambda request: request.header("x-owner"))


def ended(world: Bench, here: Here | None = None, path: str = "/work?a=1", **options: Any) -> str:
    """Start a job with a kept request, and let it fail."""
    given = {"keep_request": True, "method": "POST", "json": {"year": 2026}, **options}
    with served(here or page()):
        job_id = world.jobs.start(path, **given)
    world.step()
    world.engine.worker.end(world.receive(), Outcome(404))
    assert world.jobs.status(job_id).status is Status.FAILED
    return job_id


def again(world: Bench, job_id: str, here: Here | None = None) -> str:
    if here is None:
        return world.jobs.run_again(job_id)
    with served(here):
        return world.jobs.run_again(job_id)


def sent(world: Bench) -> Request:
    """Send what is due, and return the last request as its action gets it."""
    world.step()
    return world.transport.sent[-1].delivery.sign()


def test_a_kept_request_starts_again_as_a_new_job(world: Bench) -> None:
    old = ended(
        world,
        as_owner=True,
        title="Invoices",
        scope="reports",
        queue="exports",
        retries=2,
        retry_delay=7,
        error_timeout=99,
        headers={"X-Tenant": "7"},
    )
    new = again(world, old)
    assert new != old
    job = world.job(new)
    assert (job.title, job.scope, job.queue, job.owner, job.as_owner) == ("Invoices", "reports", "exports", "ann", True)
    assert (job.retries, job.retry_delay, job.error_timeout, job.keep_request) == (2, 7.0, 99.0, True)
    request = sent(world)
    assert (request.method, request.path, request.body) == ("POST", "/work", b'{"year": 2026}')
    assert (request.header("x-tenant"), request.header("content-type")) == ("7", "application/json")
    world.jobs.cancel(new)
    assert again(world, new) not in {old, new}


def test_an_anonymous_job_stays_anonymous_whoever_runs_it_again(world: Bench) -> None:
    old = ended(world, as_current_user=False, owner="ann")
    for here in (None, page(), page(BOB, "bob")):
        new = again(world, old, here)
        assert sent(world).header("cookie") is None
        assert (world.job(new).owner, world.job(new).held, world.job(new).as_owner) == ("ann", False, False)
        world.jobs.cancel(new)


def test_a_job_that_ran_as_its_owner_does_so_again_without_credentials(world: Bench) -> None:
    old = ended(world, as_owner=True)
    for here in (None, page(BOB, "bob")):
        new = again(world, old, here)
        assert sent(world).header("cookie") is None
        assert (world.job(new).owner, world.job(new).as_owner) == ("ann", True)
        world.jobs.cancel(new)


def test_the_owner_runs_a_job_again_with_the_present_login_browser_and_address(world: Bench) -> None:
    old = ended(world, page(ANN, "ann", ("User-Agent", "Old/1"), ("Accept-Language", "de")))
    new = again(world, old, page("session=new", "ann", ("User-Agent", "New/2"), address="192.0.2.9"))
    request = sent(world)
    assert (request.header("cookie"), request.header("user-agent")) == ("session=new", "New/2")
    assert request.header("accept-language") == "de"
    caller = world.job(new).caller
    assert caller is not None
    assert caller.address == "192.0.2.9"


@pytest.mark.parametrize("here", [None, page(BOB, "bob"), page(ANN, None), page(None, None)], ids=str)
def test_nobody_else_runs_a_job_again_that_had_its_users_login(world: Bench, here: Here | None) -> None:
    old = ended(world)
    with pytest.raises(InvalidRequest, match=r"only its owner can run it again.*as_owner=True"):
        again(world, old, here)
    assert len(world.jobs.find()) == 1


def test_a_job_without_an_owner_that_had_a_login_does_not_run_again(world: Bench) -> None:
    old = ended(world, page(ANN, None))
    with pytest.raises(InvalidRequest, match="only its owner"):
        again(world, old, page(ANN, None))


def test_a_sealed_job_counts_as_one_with_its_users_login() -> None:
    world = bench(owner=lambda request: request.header("x-owner"), seal=True)
    old = ended(world)
    assert world.job(old).sealed is None
    with pytest.raises(InvalidRequest, match="only its owner"):
        again(world, old, page(BOB, "bob"))
    again(world, old, page("session=new"))
    assert sent(world).header("cookie") == "session=new"


@pytest.mark.parametrize(
    ("options", "seal", "expected"),
    [({}, False, False), ({}, True, False), ({"as_owner": True}, True, True), ({"as_current_user": False}, True, True)],
)
def test_the_engine_knows_which_jobs_others_can_run_again(options: dict[str, Any], seal: bool, expected: bool) -> None:
    world = bench(owner=lambda request: request.header("x-owner"), seal=seal)
    assert world.engine.runs_without_owner(ended(world, **options)) is expected


def test_a_job_of_the_current_user_without_any_credentials_is_anonymous(world: Bench) -> None:
    old = ended(world, page(None, "ann"))
    again(world, old, page(BOB, "bob"))
    assert sent(world).header("cookie") is None


def test_a_second_press_of_the_button_leads_to_the_same_new_job(world: Bench) -> None:
    old = ended(world)
    first = again(world, old, page())
    assert again(world, old, page("session=other", "ann", ("traceparent", "00-1"))) == first
    world.step()
    world.engine.worker.end(world.receive(), Outcome(404))
    assert again(world, old, page()) != first


@pytest.mark.parametrize("mode", [{}, {"as_owner": True}, {"as_current_user": False}], ids=str)
def test_run_again_and_the_button_that_merges_join_each_others_job(world: Bench, mode: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "merge": "unfinished",
        "keep_request": True,
        "method": "POST",
        "json": {"year": 2026},
        **mode,
    }
    old = ended(world, page(ANN, "ann", ("Accept-Language", "de")), **options)
    german = page("session=new", "ann", ("Accept-Language", "de"))
    new = again(world, old, page("session=new", "ann", ("Accept-Language", "fr")))
    with served(german):
        assert world.jobs.start("/work?a=1", **options) == new
        assert world.jobs.start("/work?a=2", **options) != new
    world.jobs.cancel(new)
    with served(german):
        pressed = world.jobs.start("/work?a=1", **options)
    assert again(world, old, german) == pressed
    assert again(world, new, german) == pressed


def test_run_again_does_not_join_a_job_that_was_started_without_merge(world: Bench) -> None:
    old, other = ended(world, as_current_user=False), ended(world, as_current_user=False)
    alone = world.start("/work?a=1", method="POST", json={"year": 2026})
    first = again(world, old)
    assert first not in {old, other, alone}
    assert again(world, other) == first


def test_a_request_without_a_language_stays_without_one_whoever_runs_it_again(world: Bench) -> None:
    old = ended(world, as_current_user=False, owner="ann")
    german, french = (page(ANN, "ann", ("Accept-Language", tag)) for tag in ("de", "fr"))
    assert again(world, old, german) == again(world, old, french)
    assert sent(world).header("accept-language") is None


def test_the_trace_of_the_new_job_is_that_of_the_new_request(world: Bench) -> None:
    old = ended(world, page(ANN, "ann", ("traceparent", "00-old")), as_owner=True)
    again(world, old, page(ANN, "ann", ("traceparent", "00-new")))
    assert sent(world).header("traceparent") == "00-new"


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"keep_request": False}, "was not kept: start such jobs with keep_request=True")],
)
def test_a_job_whose_request_was_not_kept_does_not_run_again(world: Bench, options: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        again(world, ended(world, **options), page())


def test_a_job_that_has_not_ended_does_not_run_again(world: Bench) -> None:
    with pytest.raises(InvalidRequest, match="has not ended"):
        again(world, world.start(keep_request=True))


@pytest.mark.parametrize("job_id", ["unknown", "a\0b"])
def test_an_unknown_job_does_not_run_again(world: Bench, job_id: str) -> None:
    with pytest.raises(JobNotFound):
        again(world, job_id)


def test_another_applications_job_does_not_run_again(world: Bench) -> None:
    old = ended(world, as_current_user=False)
    other = bench(clock=world.clock, store=world.store.store, signer=MessageSigner(OTHER_KEY))
    with pytest.raises(JobNotFound):
        again(other, old)


CHANGED: dict[str, dict[str, Any]] = {
    "request": {"request": Request("POST", "/admin/delete-all", (("Content-Type", "application/json"),), b"{}")},
    "owner": {"owner": "bob"},
    "mode": {"as_owner": True},
    "held": {"held": False},
    "proof": {"proof": "forged"},
    "no proof": {"proof": None},
    "caller": {"caller": Caller("https", "evil.example", "192.0.2.7")},
}


@pytest.mark.parametrize("changes", CHANGED.values(), ids=CHANGED)
def test_a_row_that_was_changed_does_not_run_again(
    world: Bench, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    old = ended(world)
    store: Any = world.store.store
    store._jobs[old] = evolve(store._jobs[old], **changes)
    with pytest.raises(InvalidRequest) as caught:
        again(world, old, page())
    # Without a trace of its credentials the row claims to be anonymous, which its proof contradicts.
    assert caught.value.reason == ROW_CHANGED
    assert "is not run again" in caplog.text
    assert len(world.jobs.find()) == 1


def test_a_kept_request_runs_again_after_the_key_was_rotated(world: Bench) -> None:
    old = ended(world, as_owner=True)
    rotated = bench(
        clock=world.clock,
        store=world.store.store,
        signer=MessageSigner(OTHER_KEY, fallbacks=[KEY]),
        owner=world.engine.options.owner,
    )
    assert rotated.engine.own_jobs.relabel(lambda: None) == 1
    only_new = bench(clock=world.clock, store=world.store.store, signer=MessageSigner(OTHER_KEY))
    assert again(only_new, old)


@pytest.mark.parametrize("header", ["Authorization", "X-User"])
def test_a_request_with_credentials_of_its_own_can_not_be_kept(header: str) -> None:
    world = bench(credential_headers=["X-User"])
    with pytest.raises(InvalidRequest, match=f"keep_request: .* without {header}"):
        world.start(keep_request=True, headers={header: "secret"})
    assert world.jobs.find() == []


def test_a_kept_row_has_no_credentials(world: Bench) -> None:
    old = ended(world)
    job = world.job(old)
    assert job.request is not None
    assert job.request.header("cookie") is None
    assert ANN not in str([job.request.headers, job.sealed, job.caller])


def test_the_async_twin_does_the_same(world: Bench) -> None:
    old = ended(world, as_owner=True)
    token = serving.set(page())
    try:
        new = asyncio.run(world.jobs.arun_again(old))
    finally:
        serving.reset(token)
    assert world.job(new).as_owner


def test_a_state_says_whether_its_job_keeps_its_request(world: Bench) -> None:
    assert world.jobs.status(ended(world)).keeps_request
    assert not world.jobs.status(ended(world, keep_request=False)).keeps_request


def test_credentials_of_the_new_job_are_only_in_memory(world: Bench) -> None:
    new = again(world, ended(world), page("session=new"))
    assert world.job(new).held
    assert "session=new" not in str(world.job(new))
