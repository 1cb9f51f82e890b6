"""The receiving side: who is refused and how, how an action's end is judged, and an end that can't be written."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from backjob.errors import BackgroundOnly, JobEnded, JobFailed, StoreUnusable
from backjob.lifecycle import REFUSAL_HEADER, completed
from backjob.model import Request, Status
from backjob.worker.claiming import Outcome, Refusal, describe, exit_of
from tests.unit.core import Bench, bench


@pytest.fixture
def world() -> Bench:
    return bench()


def arrival(world: Bench, **options: Any) -> Request:
    """A worker request as it arrives."""
    world.start(**options)
    world.step()
    return world.transport.sent[-1].delivery.sign()


def refusal(world: Bench, request: Request, body: bytes | None = None) -> Refusal:
    def receive() -> None:
        verified = world.engine.worker.open(request)
        assert verified is not None
        world.engine.worker.claim(verified, request.body if body is None else body)

    with pytest.raises(Refusal) as caught:
        receive()
    assert (REFUSAL_HEADER, caught.value.kind) in caught.value.headers
    assert ("Cache-Control", "no-store") in caught.value.headers
    return caught.value


# --- who is refused -------------------------------------------------------------------------------------------------


def test_an_ordinary_request_is_not_ours(world: Bench) -> None:
    assert world.engine.worker.open(Request("GET", "/work?id=5")) is None


@pytest.mark.parametrize(
    "tamper",
    [
        lambda request: evolve(request, method="POST"),
        lambda request: evolve(request, target=request.target.replace("/work", "/other")),
        lambda request: evolve(request, target=request.target.replace("id=5", "id=6")),
        lambda request: evolve(request, target=request.target + "&id=6"),
        lambda request: evolve(request, target=request.target[:-12]),
    ],
    ids=["method", "path", "query", "more", "less"],
)
def test_a_tampered_request_is_403_and_touches_nothing(world: Bench, tamper: Any) -> None:
    request = arrival(world, query={"id": 5})
    world.store.calls.clear()
    refused = refusal(world, tamper(request))
    assert (refused.status, refused.kind) == (403, "signature")
    assert not world.store.calls


def test_another_body_is_403_and_touches_nothing(world: Bench) -> None:
    request = arrival(world, method="POST", body=b"yes")
    world.store.calls.clear()
    assert refusal(world, request, b"no").status == 403
    assert not world.store.calls


def test_a_request_by_another_key_is_refused_by_a_word_of_its_own(world: Bench) -> None:
    from backjob.signing import MessageSigner

    request = arrival(world)
    world.engine.worker._signer = MessageSigner("another-Kq83hZ0pLw6vXy2Rt9uBn4mEs7Dj1fGa5c")
    assert refusal(world, request).kind == "unknown-key"


def test_a_late_request_is_403(world: Bench) -> None:
    request = arrival(world)
    world.clock.advance(600)
    assert refusal(world, request).status == 403


def test_a_second_claim_is_409_and_touches_nothing(world: Bench) -> None:
    request = arrival(world)
    running = world.engine.worker.claim(world.engine.worker.open(request), b"")  # type: ignore[arg-type]
    before = world.job(running.job.id)
    refused = refusal(world, request)
    assert (refused.status, refused.kind) == (409, "claimed")
    assert world.job(running.job.id).version == before.version


def test_an_ended_job_can_not_be_claimed(world: Bench) -> None:
    request = arrival(world)
    world.jobs.cancel(world.transport.sent[0].delivery.job_id)
    assert refusal(world, request).status == 409


def test_a_claim_whose_answer_was_lost_is_ours_all_the_same(world: Bench) -> None:
    world.start()
    world.step()
    world.store.lost = {"change"}
    running = world.receive()
    job = world.job(running.job.id)
    assert (job.status, job.token) == (Status.IN_PROGRESS, running.token)


def test_a_claim_that_somebody_else_made_is_not_ours_when_the_store_goes_away(world: Bench) -> None:
    world.start()
    world.step()
    request = world.transport.sent[-1].delivery.sign()
    first, second = world.engine.worker.open(request), world.engine.worker.open(request)
    assert first is not None
    assert second is not None
    world.engine.worker.claim(first, b"")
    world.store.down = {"change"}
    with pytest.raises(Refusal) as caught:
        world.engine.worker.claim(second, b"")
    assert caught.value.status == 503


def test_a_store_that_is_away_is_503_for_the_monitor_to_try_again(world: Bench) -> None:
    request = arrival(world)
    world.store.down = {"change"}
    refused = refusal(world, request)
    assert (refused.status, refused.kind) == (503, "unavailable")


@pytest.mark.parametrize(
    ("length", "status"), [("-1", 400), ("abc", 400), ("1e3", 400), ("١", 400), ("101", 413), ("9" * 5000, 413)]
)
def test_a_body_of_no_or_too_much_length_is_refused_unread(length: str, status: int) -> None:
    world = bench(max_body=100)
    with pytest.raises(Refusal) as caught:
        world.engine.worker.body_length(length)
    assert caught.value.status == status


@pytest.mark.parametrize(("length", "size"), [(None, 0), ("", 0), ("0", 0), ("100", 100)])
def test_a_body_that_fits_is_read(length: str | None, size: int) -> None:
    assert bench(max_body=100).engine.worker.body_length(length) == size


# --- how an end is judged -------------------------------------------------------------------------------------------


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("outcome", "status", "text"),
    [
        (Outcome(200, "OK"), Status.COMPLETED, None),
        (Outcome(204), Status.COMPLETED, None),
        (Outcome(302, "Found", "/login"), Status.FAILED, "302 Found → /login"),
        (Outcome(500, "Oops"), Status.FAILED, "500 Internal Server Error"),
        (Outcome(599, "Oops"), Status.FAILED, "599 Oops"),
        (Outcome(), Status.FAILED, "the action ended without a response"),
        (Outcome(200, "OK", error=ValueError("no")), Status.FAILED, "ValueError: no"),
        (Outcome(error=SystemExit(1)), Status.FAILED, "SystemExit: 1"),
        (Outcome(error=KeyboardInterrupt()), Status.FAILED, "KeyboardInterrupt"),
        (Outcome(error=JobFailed("why")), Status.FAILED, "why"),
        (Outcome(error=JobFailed("")), Status.FAILED, None),
        (Outcome(error=BaseExceptionGroup("g", [JobFailed("why")])), Status.FAILED, "why"),
        (Outcome(error=BackgroundOnly("only as a job")), Status.FAILED, "only as a job"),
        (Outcome(error=OSError("caf\udce9\0")), Status.FAILED, "OSError: caf\ufffd\ufffd"),
        (Outcome(error=Unprintable()), Status.FAILED, "Unprintable: (its text can't be had)"),
    ],
    ids=repr,
)
def test_the_verdict_follows_from_the_outcome(world: Bench, outcome: Outcome, status: Status, text: str | None) -> None:
    running = world.run()
    world.engine.worker.end(running, outcome)
    job = world.job(running.job.id)
    assert (job.status, job.status_text) == (status, text)
    assert [state.id for state in world.ended] == [job.id]


def test_a_recorded_finish_counts_before_the_status_and_an_error_before_both(world: Bench) -> None:
    one, two = world.run(), world.run()
    one.finish = two.finish = completed("done")
    world.engine.worker.end(one, Outcome(302, "Found", "/"))
    world.engine.worker.end(two, Outcome(200, "OK", error=ValueError("late")))
    assert world.job(one.job.id).status_text == "done"
    assert world.job(two.job.id).status_text == "ValueError: late"


def test_an_error_text_is_bounded() -> None:
    assert len(describe(ValueError("x" * 10**6))) < 2100
    assert describe(ValueError()) == "ValueError"


def test_an_exit_is_found_alone_and_in_groups_of_nothing_else() -> None:
    left = JobFailed("why")
    assert exit_of(left) is left
    assert exit_of(BaseExceptionGroup("g", [BaseExceptionGroup("h", [left])])) is left
    assert exit_of(BaseExceptionGroup("g", [left, JobEnded("x")])) is left
    assert exit_of(BaseExceptionGroup("g", [left, ValueError()])) is None
    assert exit_of(ExceptionGroup("g", [ValueError()])) is None
    assert exit_of(ValueError()) is None


# --- writing the end ------------------------------------------------------------------------------------------------


def test_an_end_that_comes_second_changes_nothing(world: Bench) -> None:
    running = world.run()
    world.jobs.cancel(running.job.id)
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).status is Status.CANCELLED
    assert len(world.ended) == 1


@pytest.mark.parametrize("down", [{"change"}, {"change", "report"}, {"report"}])
def test_an_end_that_can_not_be_written_is_settled_by_the_monitor(world: Bench, down: set[str]) -> None:
    running = world.run()
    running.set_progress(1)
    running.write("last words")
    world.store.down = down
    world.engine.worker.end(running, Outcome(200, "OK"))
    world.step(2)
    assert world.job(running.job.id).status is Status.IN_PROGRESS
    world.store.down = set()
    world.step(1)
    assert world.job(running.job.id).status is Status.COMPLETED
    assert world.jobs.output(running.job.id).text == "last words"
    world.step(10)
    assert len(world.ended) == 1


def test_an_end_that_never_can_be_written_becomes_a_timeout(world: Bench) -> None:
    running = world.run()
    world.store.down = {"change"}
    world.engine.worker.end(running, Outcome(200, "OK"))
    for _ in range(70):
        world.step(1)
    world.store.down = set()
    world.step(60)  # for so long after the store was away silence proves nothing
    world.step(10)
    job = world.job(running.job.id)
    assert job.status is Status.FAILED
    assert job.status_text is not None
    assert job.status_text.startswith("job timeout")
    assert not world.monitor._writeback._ends


@pytest.mark.parametrize("error", [StoreUnusable("no table"), ZeroDivisionError()])
def test_a_broken_store_does_not_break_the_response(world: Bench, error: Exception) -> None:
    running = world.run()
    world.store.broken = {"change": error}
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).status is Status.IN_PROGRESS
