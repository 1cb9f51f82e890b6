"""The state machine, as tables of inputs and decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob.lifecycle import (
    BUSY,
    CLAIM_REFUSED,
    DELIVERY_LEASE,
    REFUSAL_HEADER,
    TIMED_OUT,
    End,
    Late,
    Next,
    Requeue,
    after_answer,
    after_run,
    after_silence,
    backoff,
    cancelled,
    claimed,
    completed,
    concluded,
    continued,
    ended,
    failed,
    given_back,
    history_of,
    late,
    local_deadline,
    overdue,
    overdue_from,
    past_end,
    reaped,
    timed_out,
    verdict,
    waiting_for,
    waits_until_sent,
)
from backjob.model import UNSET, Changes, Expect, Headers, Job, JsonValue, Response, Status, Unset

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


def a_job(status: Status = Status.STARTED, **changes: Any) -> Job:
    job = Job(
        id="job1",
        status=status,
        created_time=NOON,
        start_time=NOON,
        updated_time=NOON,
        read_time=NOON,
    )
    return attrs.evolve(job, **changes)


def running_job(**changes: Any) -> Job:
    return a_job(Status.IN_PROGRESS, **{"token": "t0ken", "lease_until": NOON + timedelta(seconds=18), **changes})


# --- the end that an action gets ----------------------------------------------------------------------------------

FINISHED = completed("And done", {"href": "/export.csv"})


@pytest.mark.parametrize(
    ("error", "finish", "response", "end"),
    [
        (None, None, (200, "OK", None), End(Status.COMPLETED)),
        (None, None, (204, "", None), End(Status.COMPLETED)),
        (None, None, (299, "", "/elsewhere"), End(Status.COMPLETED)),
        (None, None, (199, "", None), End(Status.FAILED, "199")),
        (None, None, (300, "Multiple Choices", None), End(Status.FAILED, "300 Multiple Choices")),
        (None, None, (302, "Found", "/login"), End(Status.FAILED, "302 Found → /login")),
        (None, None, (302, "FOUND", "/login"), End(Status.FAILED, "302 Found → /login")),
        (None, None, (599, "Odd", None), End(Status.FAILED, "599 Odd", may_retry=True)),
        (None, None, (408, "", None), End(Status.FAILED, "408 Request Timeout", may_retry=True)),
        (None, None, (425, "", None), End(Status.FAILED, "425 Too Early", may_retry=True)),
        (None, None, (429, "", None), End(Status.FAILED, "429 Too Many Requests", may_retry=True)),
        (None, None, (404, "Not Found", None), End(Status.FAILED, "404 Not Found")),
        (
            None,
            None,
            (500, "Internal Server Error", None),
            End(Status.FAILED, "500 Internal Server Error", may_retry=True),
        ),
        (None, FINISHED, (200, "OK", None), FINISHED),
        (None, FINISHED, (500, "Internal Server Error", None), FINISHED),
        (None, failed("by id"), (200, "OK", None), failed("by id")),
        (failed("ValueError: no"), None, (200, "OK", None), End(Status.FAILED, "ValueError: no")),
        (failed("ValueError: no"), FINISHED, (200, "OK", None), End(Status.FAILED, "ValueError: no")),
        (failed("no", may_retry=True), None, (404, "", None), failed("no", may_retry=True)),
        (failed(None), None, (200, "OK", None), End(Status.FAILED, None)),
    ],
)
def test_an_error_wins_over_a_finish_and_a_finish_over_the_status_code(
    error: End | None, finish: End | None, response: tuple[int, str, str | None], end: End
) -> None:
    status, reason, location = response
    assert verdict(error=error, finish=finish, status=status, reason=reason, location=location) == end


@given(st.integers(100, 599))
def test_without_a_finish_only_2xx_is_success(status: int) -> None:
    end = verdict(error=None, finish=None, status=status)
    assert (end.status is Status.COMPLETED) == (status // 100 == 2)
    assert end.may_retry == (status in (408, 425, 429) or status >= 500)


@pytest.mark.parametrize(
    ("status", "location", "lost", "text"),
    [
        (401, None, True, "401 Unauthorized: the login has expired; see as_owner"),
        (302, "/login", True, "302 Found → /login: the login has expired; see as_owner"),
        (302, None, True, "302 Found"),
        (403, None, True, "403 Forbidden"),
        (401, None, False, "401 Unauthorized"),
        (302, "/login", False, "302 Found → /login"),
    ],
)
def test_a_later_run_says_that_the_login_has_expired(status: int, location: str | None, lost: bool, text: str) -> None:
    end = verdict(error=None, finish=None, status=status, location=location, lost_login=lost)
    assert end == failed(text)


def test_the_response_says_when_to_try_again() -> None:
    assert verdict(error=None, finish=None, status=503, retry_after=7.0).retry_after == 7.0


# --- changes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "progress", "text", "result"),
    [
        (completed(), 100, UNSET, None),
        (completed("done", {"rows": 3}), 100, "done", {"rows": 3}),
        (completed(""), 100, "", None),
        (failed("no"), UNSET, "no", UNSET),
        (failed(None), UNSET, UNSET, UNSET),
        (failed(""), UNSET, "", UNSET),
        (cancelled(), UNSET, "cancelled", UNSET),
        (cancelled("by ann"), UNSET, "by ann", UNSET),
    ],
)
def test_completion_sets_the_progress_to_100_and_other_ends_keep_it(
    end: End, progress: object, text: object, result: JsonValue
) -> None:
    changes = ended(end)
    assert changes.status is end.status
    assert (changes.progress, changes.status_text, changes.result) == (progress, text, result)
    assert changes.end
    assert changes.alive


def test_an_end_changes_nothing_else() -> None:
    assert ended(failed("no")) == Changes(status=Status.FAILED, status_text="no", alive=True, end=True)


def test_a_claim_takes_one_run_of_a_waiting_job_for_one_lease() -> None:
    assert claimed("t0ken", 3, 18.0) == (
        Expect(run=3, unclaimed=True),
        Changes(
            status=Status.IN_PROGRESS,
            token="t0ken",
            lease=18.0,
            waiting_for=None,
            expires=None,
            claimed=True,
            alive=True,
        ),
    )


# --- runs -----------------------------------------------------------------------------------------------------------

RETRIED = failed("503 Service Unavailable", may_retry=True)


@pytest.mark.parametrize(
    ("end", "attempt", "retries", "is_retried"),
    [
        (RETRIED, 1, 0, False),
        (RETRIED, 1, 1, True),
        (RETRIED, 2, 1, False),
        (RETRIED, 3, 3, True),
        (RETRIED, 4, 3, False),
        (failed("no"), 1, 3, False),
        (completed(), 1, 3, False),
        (cancelled(), 1, 3, False),
    ],
)
def test_a_run_is_retried_while_retries_are_left(end: End, attempt: int, retries: int, is_retried: bool) -> None:
    conclusion = after_run(running_job(attempt=attempt, retries=retries), end, 0.0)
    if is_retried:
        assert isinstance(conclusion, Requeue)
        assert (conclusion.reason, conclusion.is_retry) == (end.text, True)
    else:
        assert conclusion is end


@pytest.mark.parametrize(
    ("attempt", "spread", "retry_after", "delay"),
    [
        (1, 0.0, None, 10.0),
        (2, 0.0, None, 20.0),
        (5, 0.0, None, 160.0),
        (1, -1.0, None, 8.0),
        (1, 1.0, None, 12.0),
        (60, 0.0, None, 3600.0),
        (60, 1.0, None, 3600.0),
        (60, -1.0, None, 2880.0),
        (5, 1.0, 3.5, 3.5),
        (1, 0.0, -5.0, 0.0),
        (1, 0.0, 60 * 86400.0, 60 * 86400.0),
    ],
)
def test_the_pause_before_a_retry_doubles_up_to_an_hour(
    attempt: int, spread: float, retry_after: float | None, delay: float
) -> None:
    job = running_job(attempt=attempt, retries=1000)
    conclusion = after_run(job, failed("x", may_retry=True, retry_after=retry_after), spread)
    assert isinstance(conclusion, Requeue)
    assert conclusion.delay == pytest.approx(delay)


@given(st.integers(1, 10**6), st.floats(0, 10**9), st.floats(-1, 1))
def test_the_pause_is_bounded_whatever_the_delay(attempt: int, retry_delay: float, spread: float) -> None:
    job = running_job(attempt=attempt, retries=10**6, retry_delay=retry_delay)
    conclusion = after_run(job, RETRIED, spread)
    assert isinstance(conclusion, Requeue)
    assert 0 <= conclusion.delay <= 3600


def test_a_retry_begins_again_in_a_new_run_without_token_slot_and_lease() -> None:
    job = running_job(run=2, attempt=2, retries=3, progress=40, claimed_time=NOON, slot="exports/0", delivery=4)
    changes = concluded(job, Requeue("503 Service Unavailable", 20.0), NOON + timedelta(seconds=5))
    entry: dict[str, JsonValue] = {
        "run": 2,
        "begin": "2026-03-01T12:00:00+00:00",
        "end": "2026-03-01T12:00:05+00:00",
        "reason": "503 Service Unavailable",
    }
    assert changes == Changes(
        status=Status.STARTED,
        run=3,
        attempt=3,
        delivery=1,
        token=None,
        progress=0,
        lessee=None,
        lease=None,
        due=20.0,
        deliver_by=None,
        slot=None,
        history=[entry],
        alive=True,
    )


def test_a_slice_stays_in_progress_and_resets_the_attempts() -> None:
    job = running_job(run=7, attempt=3, retries=3, progress=40)
    changes = concluded(job, attrs.evolve(continued(), cursor={"row": 5}), NOON)
    assert (changes.status, changes.progress) == (UNSET, UNSET)
    assert (changes.run, changes.attempt, changes.cursor, changes.due) == (8, 1, {"row": 5}, 0.0)


@pytest.mark.parametrize(
    ("stored", "cursor", "progress"),
    [(None, UNSET, 0), (5, UNSET, UNSET), (None, 5, UNSET), (5, None, 0), (0, UNSET, UNSET)],
)
def test_progress_restarts_only_without_a_checkpoint(stored: JsonValue, cursor: Any, progress: object) -> None:
    changes = concluded(running_job(progress=40, cursor=stored), Requeue("died", cursor=cursor), NOON)
    assert changes.progress == progress


def test_a_job_whose_credentials_only_one_process_has_stays_leased_to_it() -> None:
    changes = concluded(running_job(held=True, lessee="me"), Requeue("died", 10.0), NOON)
    assert (changes.lessee, changes.lease) == (UNSET, 10.0 + DELIVERY_LEASE)


def test_the_history_keeps_the_first_and_the_latest_runs() -> None:
    job = running_job()
    for run in range(1, 151):
        changes = concluded(attrs.evolve(job, run=run), Requeue("x" * 1000), NOON)
        assert not isinstance(changes.history, Unset)
        job = attrs.evolve(job, history=changes.history)
    runs = [entry["run"] for entry in history_of(job)]
    assert runs == [*range(1, 51), *range(101, 151)]
    assert {len(str(entry["reason"])) for entry in history_of(job)} == {500}


def test_a_run_without_a_known_begin_has_none_in_the_history() -> None:
    changes = concluded(running_job(claimed_time=None), Requeue("died"), NOON)
    assert changes.history == [{"run": 1, "begin": None, "end": "2026-03-01T12:00:00+00:00", "reason": "died"}]


# --- time -----------------------------------------------------------------------------------------------------------

BOUNDARY = pytest.mark.parametrize(("early", "is_late"), [(timedelta(0), True), (-MOMENT, True), (MOMENT, False)])


@BOUNDARY
def test_a_run_is_dead_exactly_when_its_lease_is_over(early: timedelta, is_late: bool) -> None:
    job = running_job(read_time=NOON + timedelta(seconds=18) - early)
    assert late(job) == (Late.DEAD if is_late else None)
    assert overdue(job) == (failed("the process that ran it ended", may_retry=True) if is_late else None)


@BOUNDARY
def test_a_silent_job_times_out_exactly_at_its_limit(early: timedelta, is_late: bool) -> None:
    job = running_job(
        error_timeout=1.5,
        updated_time=NOON + timedelta(seconds=5),
        read_time=NOON + timedelta(seconds=6.5) - early,
    )
    assert late(job) == (Late.SILENT if is_late else None)
    assert overdue(job) == (failed("job timeout: no sign of life for 1.5 s", may_retry=True) if is_late else None)


def test_a_job_without_a_time_limit_is_never_silent() -> None:
    assert late(running_job(error_timeout=0, lease_until=None, read_time=NOON + timedelta(days=400))) is None


def test_a_job_claimed_by_an_older_version_has_no_run_lease() -> None:
    job = running_job(lease_until=None, error_timeout=3600, read_time=NOON + timedelta(seconds=3599))
    assert late(job) is None
    assert late(attrs.evolve(job, read_time=NOON + timedelta(seconds=3600))) is Late.SILENT


@BOUNDARY
def test_an_undelivered_job_times_out_exactly_at_its_limit(early: timedelta, is_late: bool) -> None:
    limit = NOON + timedelta(seconds=130)
    job = a_job(start_time=NOON + timedelta(seconds=100), deliver_by=limit, read_time=limit - early)
    assert late(job) == (Late.UNDELIVERED if is_late else None)
    end = overdue(job)
    assert (end is not None and end.text is not None and end.text.startswith("job timeout")) == is_late


@BOUNDARY
@pytest.mark.parametrize("status", [Status.STARTED, Status.IN_PROGRESS])
def test_a_waiting_job_expires_exactly_at_its_limit(status: Status, early: timedelta, is_late: bool) -> None:
    job = a_job(status, expires=NOON + timedelta(seconds=5), read_time=NOON + timedelta(seconds=5) - early)
    assert late(job) == (Late.EXPIRED if is_late else None)
    assert overdue(job) == (failed("expired: not started in time") if is_late else None)


def test_a_job_that_was_not_sent_yet_waits_for_ever() -> None:
    assert late(a_job(read_time=NOON + timedelta(days=400))) is None


def test_each_limit_applies_to_its_own_phase() -> None:
    later = NOON + timedelta(days=1)
    past = NOON + timedelta(seconds=1)
    assert late(a_job(read_time=later, updated_time=NOON, lease_until=past, error_timeout=1)) is None
    assert late(running_job(read_time=NOON + timedelta(seconds=2), deliver_by=past, expires=past)) is None


_SOMETIMES = st.none() | st.integers(0, 9).map(lambda seconds: NOON + timedelta(seconds=seconds))


@given(
    job=st.builds(
        a_job,
        status=st.sampled_from(Status),
        token=st.sampled_from((None, "t0ken", TIMED_OUT)),
        error_timeout=st.integers(0, 9),
        **dict.fromkeys(("lease_until", "deliver_by", "expires"), _SOMETIMES),
    )
)
def test_a_job_is_overdue_from_its_first_limit_on(job: Job) -> None:
    limit = overdue_from(job)
    if limit is None:
        assert late(attrs.evolve(job, read_time=NOON + timedelta(days=400))) is None
    else:
        assert late(attrs.evolve(job, read_time=limit)) is not None
        assert late(attrs.evolve(job, read_time=limit - MOMENT)) is None


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
def test_an_ended_job_never_times_out(status: Status) -> None:
    past = {"token": "t0ken", "lease_until": NOON, "deliver_by": NOON, "expires": NOON}
    assert late(a_job(status, read_time=NOON + timedelta(days=400), **past)) is None


@pytest.mark.parametrize(
    ("reasons", "status"),
    [
        ((), Status.STARTED),
        (("500",), Status.STARTED),
        (("500", "continued"), UNSET),
        (("continued", "500"), Status.STARTED),
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_a_run_that_is_given_back_is_neither_an_attempt_nor_a_slice(
    reasons: tuple[str, ...], status: Status | Unset, held: bool
) -> None:
    history = [{"run": run, "reason": reason} for run, reason in enumerate(reasons, 1)]
    changes = given_back(running_job(run=4, attempt=3, progress=50, history=history, held=held))
    assert changes == Changes(
        status=status,
        run=5,
        delivery=1,
        token=None,
        lessee=UNSET if held else None,
        lease=DELIVERY_LEASE if held else None,
        deliver_by=None,
        slot=None,
    )


def test_a_run_that_timed_out_is_retried_once_its_lease_is_over() -> None:
    silent = running_job(error_timeout=5, retries=1, read_time=NOON + timedelta(seconds=6), version=9)
    expect, changes = timed_out(silent)
    assert expect == Expect(status=Status.IN_PROGRESS, run=1, token="t0ken", version=9)
    assert changes == Changes(token=TIMED_OUT)
    fenced = attrs.evolve(silent, token=TIMED_OUT)
    assert late(fenced) is None
    over = attrs.evolve(fenced, read_time=NOON + timedelta(seconds=18))
    assert late(over) is Late.DEAD
    assert past_end(over, Late.DEAD) == failed("job timeout: no sign of life for 5 s", may_retry=True)


@pytest.mark.parametrize(
    ("job", "limit", "expect"),
    [
        (running_job(run=2, version=7), Late.DEAD, Expect(run=2, token="t0ken", lease_over=True)),
        (running_job(run=2, version=7), Late.SILENT, Expect(run=2, token="t0ken", version=7)),
        (a_job(run=2, version=7), Late.UNDELIVERED, Expect(run=2, version=7, unclaimed=True)),
        (a_job(run=2, version=7), Late.EXPIRED, Expect(run=2, version=7, unclaimed=True)),
    ],
)
def test_a_dead_run_is_reaped_by_the_store_s_clock_and_others_as_they_were_read(
    job: Job, limit: Late, expect: Expect
) -> None:
    assert reaped(job, limit) == expect


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (a_job(start_time=NOON + MOMENT), "due"),
        (a_job(start_time=NOON + MOMENT, waiting_for="proof"), "due"),
        (a_job(waiting_for="proof"), "proof"),
        (a_job(read_time=NOON + timedelta(seconds=1)), None),
        (a_job(read_time=NOON + timedelta(seconds=1) + MOMENT), "place"),
        (a_job(read_time=NOON + timedelta(seconds=9), deliver_by=NOON + timedelta(seconds=600)), None),
        (a_job(Status.IN_PROGRESS, read_time=NOON + timedelta(seconds=9)), None),
        (running_job(waiting_for="proof"), None),
        (a_job(Status.FAILED, waiting_for="proof"), None),
    ],
)
def test_a_waiting_job_says_why_it_waits(job: Job, reason: str | None) -> None:
    assert waiting_for(job) == reason


def sent_job(**changes: Any) -> Job:
    return a_job(deliver_by=NOON + timedelta(seconds=600), **changes)


@pytest.mark.parametrize("ahead", [timedelta(hours=3), timedelta(seconds=1), -timedelta(seconds=1)])
def test_a_deadline_of_the_store_is_converted_to_the_local_clock(ahead: timedelta) -> None:
    read = NOON + timedelta(seconds=100)
    assert local_deadline(sent_job(read_time=read), read + ahead, 7.0) == read + ahead + timedelta(seconds=500)


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(seconds=1) - MOMENT, MOMENT - timedelta(seconds=1)])
def test_clocks_that_differ_by_less_than_a_second_count_as_equal(ahead: timedelta) -> None:
    job = sent_job(read_time=NOON + timedelta(seconds=100))
    assert local_deadline(job, job.read_time + ahead, 7.0) == job.deliver_by


def test_the_first_delivery_of_a_run_has_the_whole_time() -> None:
    assert local_deadline(a_job(), NOON + timedelta(hours=3), 7.0) == NOON + timedelta(hours=3, seconds=7)


@pytest.mark.parametrize(
    ("key", "waits"), [(None, False), ("", False), ("pending:x", True), ("unfinished:x", False), ("x pending:", False)]
)
def test_a_pending_merge_key_is_freed_before_sending(key: str | None, waits: bool) -> None:
    assert waits_until_sent(key) is waits


# --- after a delivery -----------------------------------------------------------------------------------------------

SETTLED = [
    (None, Next.DONE),
    (a_job(Status.COMPLETED), Next.DONE),
    (a_job(Status.FAILED), Next.DONE),
    (a_job(Status.CANCELLED), Next.DONE),
    (running_job(run=3), Next.WATCH),
    (a_job(run=4), Next.WATCH),
    (a_job(Status.IN_PROGRESS, run=4), Next.WATCH),
    (running_job(run=4), Next.WATCH),
]


@pytest.mark.parametrize(("job", "follows"), SETTLED)
@pytest.mark.parametrize("status", [200, 302, 401, 408, 409, 500, 503, 504])
@pytest.mark.parametrize("refusal", [(), ((REFUSAL_HEADER, "signature"),)])
def test_a_response_is_ignored_once_the_job_is_claimed_or_ended(
    job: Job | None, follows: Next, status: int, refusal: Headers
) -> None:
    step = after_answer(job, 3, Response(status, headers=refusal))
    assert (step.next, step.end) == (follows, None)


@pytest.mark.parametrize(
    ("job", "follows"), [*SETTLED, (a_job(run=3), Next.RETRY), (a_job(Status.IN_PROGRESS, run=3), Next.RETRY)]
)
def test_without_a_response_a_waiting_job_is_delivered_again(job: Job | None, follows: Next) -> None:
    step = after_silence(job, 3)
    assert (step.next, step.end) == (follows, None)


@pytest.mark.parametrize(
    ("status", "refusal", "follows"),
    [
        *((status, None, Next.RETRY) for status in (408, 429, 502, 503, 504)),
        *((status, None, Next.END) for status in (200, 204, 301, 302, 400, 401, 403, 404, 405, 409, 413, 500, 501)),
        (403, "unknown-key", Next.RETRY),
        (503, "unavailable", Next.RETRY),
        (409, CLAIM_REFUSED, Next.RETRY),
        (503, BUSY, Next.RETRY),
        (403, "signature", Next.END),
        (403, "expired", Next.END),
        (413, "too-large", Next.END),
        (503, "something-else", Next.END),
    ],
)
def test_a_response_to_a_started_job(status: int, refusal: str | None, follows: Next) -> None:
    headers = () if refusal is None else ((REFUSAL_HEADER.upper(), refusal),)
    step = after_answer(a_job(), 1, Response(status, headers=headers))
    assert step.next is follows
    if follows is Next.END:
        assert step.end is not None
        assert step.end.status is Status.FAILED
        assert str(status) in (step.end.text or "")
    else:
        assert step.end is None


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (
            Response(302, "Found", (("Location", "/login"),)),
            "302 Found → /login: answered, but the middleware did not claim the job: is it installed, or does a login page",
        ),
        (Response(200, "OK"), "200 OK: answered, but the middleware did not claim the job"),
        (Response(400), "httptools"),
        (Response(405, "Method Not Allowed"), "does not allow this method"),
        (
            Response(403, "Forbidden", ((REFUSAL_HEADER, "signature"),), b" the query was changed\n"),
            "403 Forbidden: the middleware refused the worker request (signature). the query was changed",
        ),
        (
            Response(403, "Forbidden", ((REFUSAL_HEADER, "signature"),)),
            "403 Forbidden: the middleware refused the worker request (signature).",
        ),
    ],
)
def test_the_end_of_an_undeliverable_job_names_the_cause(response: Response, text: str) -> None:
    end = after_answer(a_job(), 1, response).end
    assert end is not None
    assert text in (end.text or "")


def test_the_body_of_a_refusal_is_shortened_and_decoded() -> None:
    response = Response(403, "Forbidden", ((REFUSAL_HEADER, "signature"),), b"\xff" + b"x" * 10_000)
    end = after_answer(a_job(), 1, response).end
    assert end is not None
    assert len(end.text or "") < 500
    assert "\ufffdx" in (end.text or "")


# --- back-off -------------------------------------------------------------------------------------------------------


def test_the_backoff_doubles_up_to_ten_seconds() -> None:
    waits = [backoff(failures) for failures in range(1, 10)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


@given(st.integers(-5, 10**9))
def test_the_backoff_is_bounded_and_never_shrinks(failures: int) -> None:
    assert 0.1 <= backoff(failures) <= backoff(failures + 1) <= 10.0
