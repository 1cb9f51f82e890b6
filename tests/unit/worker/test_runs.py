"""Runs: the claim of the signed run, what follows a run, cursors, attempts, and the log of failures."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from backjob.errors import BackgroundOnly, JobContinued, JobEnded, JobFailed, JobRetried
from backjob.lifecycle import REFUSAL_HEADER, TIMED_OUT, history_of
from backjob.model import Changes, Expect, Grant, Job, Request, Status
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome, seconds_of
from backjob.worker.replies import Refusal
from backjob.worker.running import Running
from tests.unit.core import Bench, Sent, bench


@pytest.fixture
def world() -> Bench:
    return bench()


def retried(world: Bench, **options: Any) -> Running:
    """A job's second run."""
    running = world.run(**{"retries": 3, "retry_delay": 0, **options})
    world.engine.worker.end(running, Outcome(500))
    world.step()
    return world.receive()


def reasons(job: Job) -> list[Any]:
    return [entry["reason"] for entry in history_of(job)]


# --- the claim ------------------------------------------------------------------------------------------------------


def test_the_signature_of_an_earlier_run_claims_nothing(world: Bench) -> None:
    running = world.run(retries=1, retry_delay=0)
    world.engine.worker.end(running, Outcome(500))
    world.step()
    before = world.job(running.job.id)
    with pytest.raises(Refusal) as caught:
        claim_again(world, running)
    assert (caught.value.status, caught.value.kind) == (409, "claimed")
    assert world.job(running.job.id) == before
    assert world.receive().job.run == 2


def claim_again(world: Bench, running: Running) -> Running:
    """Claim with the signature of this run, as if it had been copied from an access log."""
    now = int(world.clock.now().timestamp())
    signed = world.engine.signer.sign(
        Request("GET", "/work"), Grant(running.job.id, running.job.run, 1, now, now + 600)
    )
    opened = world.engine.worker.open(signed)
    assert opened is not None
    return world.engine.worker.claim(opened, b"")


def test_a_token_of_an_earlier_run_writes_nothing(world: Bench) -> None:
    running = world.run(retries=1, retry_delay=0)
    world.store.down = {"change"}
    world.engine.worker.end(running, Outcome(200, "OK"))
    world.store.down = set()
    lost = Expect(run=1, token=running.token)
    world.engine.store.change(running.job.id, lost, Changes(token=None, run=2, status=Status.STARTED))
    world.step(5)
    job = world.job(running.job.id)
    assert (job.run, job.status) == (2, Status.STARTED)
    assert world.ended == []


@pytest.mark.parametrize("outcome", ["fails", "times out"])
def test_the_history_has_the_stores_times_whatever_this_computers_clock_says(outcome: str) -> None:
    wrong, right = FakeClock(), FakeClock()
    wrong.jump(3600)
    world = bench(clock=wrong, store=MemoryStore(clock=right), error_timeout=60)
    running = world.run(retries=1)
    began = right.now()
    for clock in (wrong, right):
        clock.advance(5)
    if outcome == "times out":
        world.store.store.change(running.job.id, Expect(token=running.token), Changes(token=TIMED_OUT))
    world.engine.worker.end(running, Outcome(500))
    (entry,) = history_of(world.job(running.job.id))
    assert (entry["begin"], entry["end"]) == (began.isoformat(), right.now().isoformat())


def test_a_claim_and_an_end_take_one_write_each(world: Bench) -> None:
    world.start(retries=1)
    world.step()
    world.store.calls.clear()
    running = world.receive()
    assert world.store.calls == ["change"]
    world.engine.worker.end(running, Outcome(500))
    assert world.store.calls == ["change", "change"]


# --- what follows ---------------------------------------------------------------------------------------------------

DIED = ValueError("no")


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome(500), "500 Internal Server Error"),
        (Outcome(429), "429 Too Many Requests"),
        (Outcome(error=DIED), "ValueError: no"),
        (Outcome(200, "OK", error=DIED), "ValueError: no"),
        (Outcome(error=SystemExit(1)), "SystemExit: 1"),
        (Outcome(), "the action ended without a response"),
        (Outcome(error=JobRetried("the bank is closed", 0)), "the bank is closed"),
        (Outcome(error=JobRetried("", None)), "failed"),
    ],
    ids=repr,
)
def test_a_run_that_failed_is_followed_by_another(world: Bench, outcome: Outcome, reason: str) -> None:
    running = world.run(retries=1, retry_delay=0)
    world.engine.worker.end(running, outcome)
    job = world.job(running.job.id)
    assert (job.status, job.run, job.attempt, job.token) == (Status.STARTED, 2, 2, None)
    assert reasons(job) == [reason]
    assert job.end_time is None
    assert world.ended == []
    with pytest.raises(JobEnded):
        running.set_text("late")


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(404),
        Outcome(302, "Found", "/elsewhere"),
        Outcome(200, "OK"),
        Outcome(error=JobFailed("why")),
        Outcome(500, error=JobFailed("")),
        Outcome(error=BackgroundOnly("only as a job")),
        Outcome(error=BaseExceptionGroup("g", [JobFailed("why"), JobRetried("x", 0)])),
    ],
    ids=repr,
)
def test_other_ends_are_final(world: Bench, outcome: Outcome) -> None:
    running = world.run(retries=1)
    world.engine.worker.end(running, outcome)
    assert world.job(running.job.id).status.is_final
    assert len(world.ended) == 1


def test_fail_is_final_even_if_the_framework_made_a_response_of_it(world: Bench) -> None:
    running = world.run(retries=1)
    with running.active(), pytest.raises(JobFailed):
        world.jobs.fail("wrong file")
    world.engine.worker.end(running, Outcome(500))
    job = world.job(running.job.id)
    assert (job.status, job.status_text) == (Status.FAILED, "wrong file")


def test_an_error_that_the_framework_turned_into_a_response_is_retried(world: Bench) -> None:
    running = world.run(retries=1)
    with running.active():
        world.jobs.note_error(ValueError("no"))
    world.engine.worker.end(running, Outcome(404))
    assert reasons(world.job(running.job.id)) == ["ValueError: no"]


def test_the_last_failed_run_ends_the_job(world: Bench) -> None:
    job_id = world.start(retries=2, retry_delay=0)
    for _ in range(3):
        world.step()
        world.engine.worker.end(world.receive(), Outcome(503))
    job = world.job(job_id)
    assert (job.status, job.status_text, job.attempt, job.run) == (Status.FAILED, "503 Service Unavailable", 3, 3)
    assert [state.id for state in world.ended] == [job_id]


def test_a_job_exit_that_an_adapter_made_a_response_of_counts(world: Bench) -> None:
    running = world.run()
    running.left_by = JobContinued()
    world.engine.worker.end(running, Outcome(202))
    job = world.job(running.job.id)
    assert (job.status, job.run, job.token) == (Status.IN_PROGRESS, 2, None)


def test_a_retry_waits_as_long_as_the_response_says(world: Bench) -> None:
    running = world.run(retries=1, retry_delay=10)
    world.engine.worker.end(running, Outcome(503, retry_after=90.0))
    job = world.job(running.job.id)
    assert job.start_time - job.read_time == timedelta(seconds=90)


def test_the_delays_of_jobs_that_failed_together_differ(world: Bench) -> None:
    delays = set()
    for _ in range(20):
        running = world.run(retries=1, retry_delay=10)
        world.engine.worker.end(running, Outcome(500))
        job = world.job(running.job.id)
        delays.add((job.start_time - job.read_time).total_seconds())
    assert len(delays) > 10
    assert all(8 <= delay <= 12 for delay in delays)


def test_a_job_without_credentials_has_no_login_to_expire(world: Bench) -> None:
    running = retried(world)
    world.engine.worker.end(running, Outcome(401))
    assert world.job(running.job.id).status_text == "401 Unauthorized"


def test_an_expired_login_in_a_later_run_is_named(world: Bench) -> None:
    running = retried(world)
    running.job = evolve(running.job, sealed=b"sealed")
    world.engine.worker.end(running, Outcome(302, "Found", "/login"))
    text = world.job(running.job.id).status_text
    assert text == "302 Found → /login: the login has expired; see as_owner"


# --- cursors and attempts -------------------------------------------------------------------------------------------


def test_a_cursor_goes_out_with_the_next_report(world: Bench) -> None:
    running = world.run()
    running.set_cursor({"row": 1})
    running.set_cursor({"row": 2})
    assert running.cursor == {"row": 2}
    assert world.job(running.job.id).cursor is None
    world.store.calls.clear()
    world.step(0.1)
    assert world.job(running.job.id).cursor == {"row": 2}
    assert world.store.count("report") == 1


def test_a_cursor_that_has_moved_resets_the_attempts(world: Bench) -> None:
    running = retried(world)
    assert running.attempt == 2
    running.set_cursor(5)
    assert running.attempt == 1
    world.engine.worker.end(running, Outcome(500))
    job = world.job(running.job.id)
    assert (job.attempt, job.cursor, job.run) == (2, 5, 3)


@pytest.mark.parametrize("cursor", [None, 5, {"row": [1, 2]}])
def test_a_cursor_that_has_not_moved_resets_nothing(world: Bench, cursor: Any) -> None:
    running = world.run(retries=3, retry_delay=0)
    running.set_cursor(cursor)
    world.engine.worker.end(running, Outcome(500))
    world.step()
    second = world.receive()
    second.set_cursor(cursor)
    world.store.calls.clear()
    world.step(1)
    assert world.store.count("report") == 0
    world.engine.worker.end(second, Outcome(500))
    assert world.job(running.job.id).attempt == 3


@pytest.mark.parametrize(("before", "after"), [(1, True), (True, 1), (1, 1.0), (0, False)])
def test_json_values_that_python_takes_for_equal_are_different_cursors(world: Bench, before: Any, after: Any) -> None:
    running = world.run()
    running.set_cursor(before)
    world.step(1)
    running.set_cursor(after)
    world.step(1)
    assert repr(world.job(running.job.id).cursor) == repr(after)


def test_the_next_slice_has_the_cursor_with_the_same_write(world: Bench) -> None:
    running = world.run()
    running.set_progress(40)
    running.set_cursor("m")
    world.step(1)
    running.set_cursor("n")
    world.store.calls.clear()
    world.engine.worker.end(running, Outcome(202, error=JobContinued()))
    assert world.store.calls == ["change"]
    job = world.job(running.job.id)
    assert (job.cursor, job.status, job.progress, job.run, job.attempt) == ("n", Status.IN_PROGRESS, 40, 2, 1)
    assert reasons(job) == ["continued"]


def test_a_cursor_of_an_ended_run_raises(world: Bench) -> None:
    running = world.run()
    world.engine.worker.end(running, Outcome(202, error=JobContinued()))
    with pytest.raises(JobEnded):
        running.set_cursor(5)


def test_a_cursor_survives_an_outage_of_the_store(world: Bench) -> None:
    running = world.run()
    world.store.down = {"report"}
    running.set_cursor(7)
    running.write("seven")
    world.step(3)
    assert world.job(running.job.id).cursor is None
    world.store.down = set()
    world.step(1)
    assert world.job(running.job.id).cursor == 7


@pytest.mark.parametrize("fate", ["down", "lost"])
def test_a_slice_that_was_not_written_is_written_later(world: Bench, fate: str) -> None:
    running = world.run()
    running.set_cursor(7)
    setattr(world.store, fate, {"change"})
    world.engine.worker.end(running, Outcome(202, error=JobContinued()))
    setattr(world.store, fate, set())
    world.step(1)
    job = world.job(running.job.id)
    assert (job.run, job.cursor, len(history_of(job))) == (2, 7, 1)
    world.step(5)
    assert world.receive().cursor == 7


def test_a_retry_whose_answer_was_lost_is_logged_once(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    running = world.run(retries=1)
    world.store.lost = {"change"}
    world.engine.worker.end(running, Outcome(500))
    world.store.lost = set()
    world.step(1)
    assert world.job(running.job.id).run == 2
    assert [record.levelname for record in caplog.records if hasattr(record, "cause")] == ["WARNING"]


def test_output_goes_on_in_the_next_run_up_to_the_same_limit() -> None:
    world = bench(max_output=10)
    running = world.run(retries=1, retry_delay=0)
    running.write("seven..")
    world.engine.worker.end(running, Outcome(500))
    world.step()
    second = world.receive()
    second.write("four")
    world.engine.worker.end(second, Outcome(200, "OK"))
    output = world.jobs.output(running.job.id)
    assert (output.text, output.truncated) == ("seven..fou", True)


def test_progress_restarts_with_a_retry_and_is_written_although_it_is_the_same(world: Bench) -> None:
    running = world.run(retries=1, retry_delay=0)
    running.set_progress(40)
    world.engine.worker.end(running, Outcome(500))
    assert world.job(running.job.id).progress == 0
    world.step()
    second = world.receive()
    second.set_progress(40)
    assert world.job(running.job.id).progress == 40


def test_began_is_the_time_of_the_claim(world: Bench) -> None:
    world.step(7)
    running = world.run()
    world.step(3)
    assert world.clock.monotonic() - running.began == pytest.approx(3)


# --- a run that timed out -------------------------------------------------------------------------------------------


def timed_out(world: Bench, **options: Any) -> Running:
    running = world.run(error_timeout=30, **options)
    world.step(31)
    world.step(6)
    return running


def test_a_run_that_timed_out_is_requeued_when_its_action_returns(
    world: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    running = timed_out(world, retries=1)
    assert world.job(running.job.id).token == TIMED_OUT
    assert running.ended
    world.engine.worker.end(running, Outcome(200, "OK"))
    job = world.job(running.job.id)
    assert (job.status, job.run, job.attempt) == (Status.STARTED, 2, 2)
    assert reasons(job) == ["job timeout: no sign of life for 30 s"]
    assert [record.levelname for record in caplog.records if hasattr(record, "cause")] == ["WARNING"]


def test_a_run_that_timed_out_is_requeued_by_another_process_once_its_lease_is_over(world: Bench) -> None:
    running = timed_out(world, retries=1)
    world.step(20)
    job = world.job(running.job.id)
    assert (job.run, reasons(job)) == (2, ["job timeout: no sign of life for 30 s"])
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).run == 2


def test_a_requeue_after_a_time_out_is_retried_until_the_store_takes_it(world: Bench) -> None:
    running = timed_out(world, retries=1)
    world.store.down = {"change"}
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).token == TIMED_OUT
    world.store.down = set()
    world.step(1)
    assert world.job(running.job.id).run == 2


def test_a_time_out_without_a_retry_ends_the_job(world: Bench) -> None:
    running = timed_out(world)
    assert world.job(running.job.id).status_text == "job timeout: no sign of life for 30 s"
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).status is Status.FAILED
    assert len(world.ended) == 1


def test_a_job_that_was_cancelled_after_its_run_timed_out_stays_cancelled(world: Bench) -> None:
    running = timed_out(world, retries=1)
    world.store.before["change"] = lambda: bench(clock=world.clock, store=world.store.store).jobs.cancel(running.job.id)
    world.engine.worker.end(running, Outcome(200, "OK"))
    job = world.job(running.job.id)
    assert (job.status, job.run) == (Status.CANCELLED, 1)


# --- the log --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retries", "level"), [(0, "ERROR"), (1, "WARNING")])
def test_a_failure_is_logged_with_its_job_path_run_and_cause(
    world: Bench, caplog: pytest.LogCaptureFixture, retries: int, level: str
) -> None:
    job_id = world.start("/work", query={"secret": "5ecret"}, retries=retries)
    world.step()
    world.engine.worker.end(world.receive(), Outcome(error=ValueError("one\ntwo\udcff")))
    records: list[Any] = [record for record in caplog.records if hasattr(record, "cause")]
    assert [(record.name, record.levelname) for record in records] == [("backjob", level)]
    record = records[0]
    assert (record.job_id, record.path, record.run) == (job_id, "/work", 1)
    assert record.cause == "ValueError: one two\ufffd"
    assert record.cause in record.getMessage()
    assert (record.route, record.attempt) == ("GET /work", 1)
    assert "5ecret" not in caplog.text


def test_a_run_that_was_over_already_is_logged_with_the_same_fields_and_why(
    world: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backjob")
    for stop in (world.jobs.cancel, world.jobs.delete):
        running = world.run()
        stop(running.job.id)
        world.engine.worker.end(running, Outcome(200))
    records: list[Any] = [record for record in caplog.records if "over already" in record.message]
    assert [(record.path, record.run, record.cause) for record in records] == [
        ("/work", 1, "cancelled"),
        ("/work", 1, "deleted"),
    ]


def test_success_cancelling_and_slices_are_no_failures(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for outcome in (Outcome(200, "OK"), Outcome(error=JobContinued())):
        world.engine.worker.end(world.run(), outcome)
    world.jobs.cancel(world.start())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_traceback_of_an_exit_is_logged(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    world.engine.worker.end(world.run(), Outcome(error=SystemExit(3)))
    records = [record for record in caplog.records if hasattr(record, "cause")]
    assert [record.exc_info is not None for record in records] == [True]


# --- Retry-After ----------------------------------------------------------------------------------------------------

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("9" * 30, 31 * 86400.0),
        ("Sun, 02 Mar 2036 11:00:00 GMT", 31 * 86400.0),
        ("Sun, 01 Mar 2026 13:01:30 +0100", 90.0),
        ("Sun, 01 Mar 2026 12:01:30 -0000", 90.0),
        (None, None),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Sun, 99 Foo 2026", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert seconds_of(value, NOON) == seconds


@given(st.text())
def test_any_other_retry_after_is_ignored(value: str) -> None:
    assert (seconds_of(value, NOON) or 0) >= 0


# --- places ---------------------------------------------------------------------------------------------------------


def send_another(world: Bench) -> Sent:
    world.start()
    world.step()
    return world.transport.sent[-1]


def busy(world: Bench, sent: Sent) -> Refusal:
    before = world.job(sent.delivery.job_id)
    with pytest.raises(Refusal) as caught:
        world.receive(sent)
    assert (caught.value.status, caught.value.kind) == (503, "busy")
    assert (REFUSAL_HEADER, "busy") in caught.value.headers
    assert world.job(sent.delivery.job_id) == before
    return caught.value


def test_a_process_runs_at_most_max_running_jobs(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    sent = [send_another(world) for _ in range(3)]
    world.engine.worker._max_running = lambda: 2
    first, _ = world.receive(sent[0]), world.receive(sent[1])
    busy(world, sent[2])
    assert caplog.records == []
    assert world.engine.worker.count == 2
    world.engine.worker.end(first, Outcome(200, "OK"))
    third = send_another(world)
    world.receive(third)
    busy(world, send_another(world))


def test_a_claim_that_failed_takes_no_place(world: Bench) -> None:
    world.engine.worker._max_running = lambda: 1
    sent = send_another(world)
    world.store.down = {"change", "get"}
    with pytest.raises(Refusal):
        world.receive(sent)
    world.store.down = set()
    assert world.engine.worker.count == 0
    world.receive(send_another(world))


def test_a_process_that_drains_claims_nothing(world: Bench) -> None:
    sent = send_another(world)
    world.engine.worker._is_draining = lambda: True
    assert "shutting down" in str(busy(world, sent))


def test_a_forged_request_is_forbidden_even_if_all_places_are_taken(world: Bench) -> None:
    world.start(method="POST", body=b"yes")
    world.step()
    world.engine.worker._max_running = lambda: 0
    request = world.transport.sent[-1].delivery.sign()
    opened = world.engine.worker.open(request)
    assert opened is not None
    with pytest.raises(Refusal) as caught:
        world.engine.worker.claim(opened, b"no!")
    assert caught.value.status == 403


def test_a_job_that_ended_in_the_meantime_does_not_keep_its_place(world: Bench) -> None:
    running = world.run()
    world.jobs.cancel(running.job.id)
    assert world.engine.worker.is_busy
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert not world.engine.worker.is_busy
