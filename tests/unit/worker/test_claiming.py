"""The four steps of a worker: which requests it refuses, how an action's outcome becomes an end, and retried ends."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from backjob.errors import BackgroundOnly, JobEnded, JobFailed, StoreUnusable
from backjob.lifecycle import REFUSAL_HEADER, completed, late
from backjob.model import Changes, Expect, Job, Request, Status
from backjob.worker.outcomes import Outcome, describe, exit_of
from backjob.worker.replies import Refusal
from tests.unit.core import Bench, bench


@pytest.fixture
def world() -> Bench:
    return bench()


def worker_request(world: Bench, **options: Any) -> Request:
    """Start a job and return its signed worker request."""
    world.start(**options)
    world.step()
    return world.transport.sent[-1].delivery.sign()


def refusal(world: Bench, request: Request, body: bytes | None = None) -> Refusal:
    def receive() -> None:
        opened = world.engine.worker.open(request)
        assert opened is not None
        world.engine.worker.claim(opened, request.body if body is None else body)

    with pytest.raises(Refusal) as caught:
        receive()
    assert (REFUSAL_HEADER, caught.value.kind) in caught.value.headers
    assert ("Cache-Control", "no-store") in caught.value.headers
    return caught.value


# --- refusals -------------------------------------------------------------------------------------------------


def test_an_ordinary_request_is_passed_on(world: Bench) -> None:
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
def test_a_tampered_request_gets_403_without_a_call_to_the_store(world: Bench, tamper: Any) -> None:
    request = worker_request(world, query={"id": 5})
    world.store.calls.clear()
    refused = refusal(world, tamper(request))
    assert (refused.status, refused.kind) == (403, "signature")
    assert not world.store.calls


def test_a_tampered_body_gets_403_without_a_call_to_the_store(world: Bench) -> None:
    request = worker_request(world, method="POST", body=b"yes")
    world.store.calls.clear()
    assert refusal(world, request, b"no").status == 403
    assert not world.store.calls


def test_a_request_signed_with_another_key_is_refused_as_unknown_key(world: Bench) -> None:
    from backjob.signing import MessageSigner

    request = worker_request(world)
    world.engine.worker._signer = MessageSigner("another-Kq83hZ0pLw6vXy2Rt9uBn4mEs7Dj1fGa5c")
    assert refusal(world, request).kind == "unknown-key"


def test_forged_requests_are_logged_once_a_minute_with_their_number(
    world: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    forged = worker_request(world)
    forged = evolve(forged, target=forged.target.replace("/work", "/other"))
    for _ in range(313):
        assert refusal(world, forged).status == 403
    world.clock.advance(60)
    refusal(world, forged)
    world.clock.advance(60)
    refusal(world, forged)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 3
    assert ["more" in line for line in lines] == [False, True, False]
    assert "(and 312 more" in lines[1]


def test_an_expired_signature_gets_403(world: Bench) -> None:
    request = worker_request(world)
    world.clock.advance(600)
    assert refusal(world, request).status == 403


def test_a_second_claim_gets_409_and_changes_nothing(world: Bench) -> None:
    request = worker_request(world)
    running = world.engine.worker.claim(world.engine.worker.open(request), b"")  # type: ignore[arg-type]
    before = world.job(running.job.id)
    refused = refusal(world, request)
    assert (refused.status, refused.kind) == (409, "claimed")
    assert world.job(running.job.id).version == before.version


def test_an_ended_job_cannot_be_claimed(world: Bench) -> None:
    request = worker_request(world)
    world.jobs.cancel(world.transport.sent[0].delivery.job_id)
    assert refusal(world, request).status == 409


def test_a_claim_succeeds_although_the_stores_answer_was_lost(world: Bench) -> None:
    world.start()
    world.step()
    world.store.lost = {"change"}
    running = world.receive()
    job = world.job(running.job.id)
    assert (job.status, job.token) == (Status.IN_PROGRESS, running.token)


def test_a_claim_by_another_request_does_not_count_while_the_store_is_unavailable(world: Bench) -> None:
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


def test_an_unavailable_store_gives_503_so_that_the_monitor_retries(world: Bench) -> None:
    request = worker_request(world)
    world.store.down = {"change"}
    refused = refusal(world, request)
    assert (refused.status, refused.kind) == (503, "unavailable")


def with_length(world: Bench, length: str | None) -> Request:
    """Return a worker request with this Content-Length, or without one."""
    request = worker_request(world)
    others = tuple((name, value) for name, value in request.headers if name != "Content-Length")
    return evolve(request, headers=others if length is None else (*others, ("Content-Length", length)))


@pytest.mark.parametrize(
    ("length", "status"), [("-1", 400), ("abc", 400), ("1e3", 400), ("١", 400), ("101", 413), ("9" * 5000, 413)]
)
def test_an_invalid_or_too_large_content_length_is_refused_before_the_claim(length: str, status: int) -> None:
    world = bench(max_body=100)
    request = with_length(world, length)
    world.store.calls.clear()
    assert refusal(world, request).status == status
    assert not world.store.calls


@pytest.mark.parametrize(("length", "size"), [(None, 0), ("", 0), ("0", 0), ("100", 100)])
def test_a_content_length_up_to_the_limit_says_how_much_to_read(length: str | None, size: int) -> None:
    world = bench(max_body=100)
    opened = world.engine.worker.open(with_length(world, length))
    assert opened is not None
    assert opened.length == size


def test_the_signature_is_verified_before_the_length(world: Bench) -> None:
    assert refusal(world, evolve(with_length(world, "abc"), method="POST")).status == 403


# --- from outcome to end -------------------------------------------------------------------------------------------


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
        (Outcome(error=Unprintable()), Status.FAILED, "Unprintable: (no message: its __str__ failed)"),
    ],
    ids=repr,
)
def test_the_outcome_decides_how_the_job_ends(world: Bench, outcome: Outcome, status: Status, text: str | None) -> None:
    running = world.run()
    world.engine.worker.end(running, outcome)
    job = world.job(running.job.id)
    assert (job.status, job.status_text) == (status, text)
    assert [state.id for state in world.ended] == [job.id]


def test_finish_wins_over_the_status_and_an_error_wins_over_both(world: Bench) -> None:
    one, two = world.run(), world.run()
    one.finish = two.finish = completed("done")
    world.engine.worker.end(one, Outcome(302, "Found", "/"))
    world.engine.worker.end(two, Outcome(200, "OK", error=ValueError("late")))
    assert world.job(one.job.id).status_text == "done"
    assert world.job(two.job.id).status_text == "ValueError: late"


def test_an_error_text_is_cut_off() -> None:
    assert len(describe(ValueError("x" * 10**6))) < 2100
    assert describe(ValueError()) == "ValueError"


def test_a_job_exit_is_found_alone_and_in_a_group_with_nothing_else() -> None:
    error = JobFailed("why")
    assert exit_of(error) is error
    assert exit_of(BaseExceptionGroup("g", [BaseExceptionGroup("h", [error])])) is error
    assert exit_of(BaseExceptionGroup("g", [error, JobEnded("x")])) is error
    assert exit_of(BaseExceptionGroup("g", [error, ValueError()])) is None
    assert exit_of(ExceptionGroup("g", [ValueError()])) is None
    assert exit_of(ValueError()) is None


# --- writing the end ------------------------------------------------------------------------------------------------


def test_a_second_end_changes_nothing(world: Bench) -> None:
    running = world.run()
    world.jobs.cancel(running.job.id)
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).status is Status.CANCELLED
    assert len(world.ended) == 1


@pytest.mark.parametrize("down", [{"change"}, {"change", "report"}, {"report"}])
def test_the_monitor_writes_an_end_that_could_not_be_written(world: Bench, down: set[str]) -> None:
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


def test_an_end_is_retried_and_its_lease_renewed_for_as_long_as_the_process_lives() -> None:
    world = bench(error_timeout=60)
    running = world.run()
    world.store.down = {"change"}
    world.engine.worker.end(running, Outcome(200, "OK"))
    for _ in range(40):
        world.step(100)
        assert late(world.job(running.job.id)) is None
    assert world.job(running.job.id).status is Status.IN_PROGRESS
    world.store.down = set()
    world.step(1)
    assert world.job(running.job.id).status is Status.COMPLETED
    world.store.calls.clear()
    world.step(10)
    assert world.store.count("beat") == 0
    assert not world.monitor._writeback._ends


@pytest.mark.parametrize("error", [StoreUnusable("no table"), ZeroDivisionError()])
def test_an_error_of_the_store_does_not_break_the_response(world: Bench, error: Exception) -> None:
    running = world.run()
    world.store.broken = {"change": error}
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).status is Status.IN_PROGRESS


def test_a_job_that_was_cancelled_after_its_claim_stays_cancelled_although_its_row_was_changed(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.store.store.change(job_id, Expect(), Changes(proof="f" * 43))

    def cancel_before_the_end() -> None:
        world.store.before["change"] = lambda: world.store.store.change(
            job_id, Expect(), Changes(status=Status.CANCELLED, end=True)
        )

    world.store.before["change"] = lambda: None
    opened = world.engine.worker.open(world.transport.sent[-1].delivery.sign())
    assert opened is not None
    is_authentic = world.engine.worker._is_authentic

    def changed(job: Job, body: bytes) -> bool:
        cancel_before_the_end()
        return is_authentic(job, body)

    world.engine.worker._is_authentic = changed
    with pytest.raises(Refusal):
        world.engine.worker.claim(opened, b"")
    assert world.job(job_id).status is Status.CANCELLED


def test_a_claim_that_waited_long_for_the_store_has_a_whole_lease(
    world: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite counts a lease from when the write began to wait for its lock."""
    job_id = world.start()
    world.step()
    change = world.store.store.change

    def slow(*arguments: Any) -> Any:
        changed = change(*arguments)
        world.clock.advance(5)
        return changed

    monkeypatch.setattr(world.store.store, "change", slow)
    world.receive()
    lease = world.job(job_id).lease_until
    assert lease is not None
    assert (lease - world.clock.now()).total_seconds() == pytest.approx(18)
