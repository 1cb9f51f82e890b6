"""The state machine, as tables of inputs and decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob.lifecycle import (
    CLAIM_REFUSED,
    REFUSAL_HEADER,
    End,
    Next,
    after_answer,
    after_silence,
    backoff,
    cancelled,
    claimed,
    completed,
    ended,
    failed,
    local_deadline,
    overdue,
    verdict,
    waits_until_sent,
)
from backjob.model import UNSET, Changes, Expect, Headers, Job, JsonValue, Response, Status

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


def a_job(status: Status = Status.STARTED, **changes: Any) -> Job:
    job = Job(
        id="job1",
        status=status,
        created_time=NOON,
        start_time=NOON,
        deliver_by=NOON + timedelta(seconds=600),
        updated_time=NOON,
        read_time=NOON,
    )
    return attrs.evolve(job, **changes)


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
        (None, None, (599, "Odd", None), End(Status.FAILED, "599 Odd")),
        (None, None, (404, "Not Found", None), End(Status.FAILED, "404 Not Found")),
        (None, None, (500, "Internal Server Error", None), End(Status.FAILED, "500 Internal Server Error")),
        (None, FINISHED, (200, "OK", None), FINISHED),
        (None, FINISHED, (500, "Internal Server Error", None), FINISHED),
        (None, failed("by id"), (200, "OK", None), failed("by id")),
        ("ValueError: no", None, (200, "OK", None), End(Status.FAILED, "ValueError: no")),
        ("ValueError: no", FINISHED, (200, "OK", None), End(Status.FAILED, "ValueError: no")),
        ("", None, (200, "OK", None), End(Status.FAILED, None)),
    ],
)
def test_an_error_wins_over_a_finish_and_a_finish_over_the_status_code(
    error: str | None, finish: End | None, response: tuple[int, str, str | None], end: End
) -> None:
    status, reason, location = response
    assert verdict(error=error, finish=finish, status=status, reason=reason, location=location) == end


@given(st.integers(100, 599))
def test_without_a_finish_only_2xx_is_success(status: int) -> None:
    end = verdict(error=None, finish=None, status=status)
    assert (end.status is Status.COMPLETED) == (status // 100 == 2)


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


def test_a_claim_takes_a_started_job_and_releases_its_lease() -> None:
    expect, changes = claimed("t0ken")
    assert expect == Expect(status=Status.STARTED)
    assert changes == Changes(
        status=Status.IN_PROGRESS,
        token="t0ken",
        lessee=None,
        lease=None,
        waiting_for=None,
        alive=True,
        erase_sealed=True,
    )
    assert changes.lessee is None
    assert changes.lease is None


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("early", "ends"), [(timedelta(0), True), (-MOMENT, True), (MOMENT, False)])
def test_a_silent_job_times_out_exactly_at_its_limit(early: timedelta, ends: bool) -> None:
    job = a_job(
        Status.IN_PROGRESS,
        error_timeout=1.5,
        updated_time=NOON + timedelta(seconds=5),
        read_time=NOON + timedelta(seconds=6.5) - early,
    )
    assert overdue(job) == (failed("job timeout: no sign of life for 1.5 s") if ends else None)


@pytest.mark.parametrize(("early", "ends"), [(timedelta(0), True), (-MOMENT, True), (MOMENT, False)])
def test_an_undelivered_job_times_out_exactly_at_its_limit(early: timedelta, ends: bool) -> None:
    start = NOON + timedelta(seconds=100)
    limit = start + timedelta(seconds=30)
    job = a_job(start_time=start, deliver_by=limit, read_time=limit - early)
    assert overdue(job) == (failed("job timeout: not delivered within 30 s") if ends else None)


def test_each_timeout_applies_to_its_own_status() -> None:
    late = NOON + timedelta(days=1)
    assert overdue(a_job(Status.STARTED, read_time=late, deliver_by=late + MOMENT)) is None
    assert overdue(a_job(Status.IN_PROGRESS, read_time=late, updated_time=late)) is None


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
def test_an_ended_job_never_times_out(status: Status) -> None:
    assert overdue(a_job(status, read_time=NOON + timedelta(days=400))) is None


@pytest.mark.parametrize("ahead", [timedelta(hours=3), timedelta(seconds=1), -timedelta(seconds=1)])
def test_a_deadline_of_the_store_is_converted_to_the_local_clock(ahead: timedelta) -> None:
    read = NOON + timedelta(seconds=100)
    assert local_deadline(a_job(read_time=read), read + ahead) == read + ahead + timedelta(seconds=500)


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(seconds=1) - MOMENT, MOMENT - timedelta(seconds=1)])
def test_clocks_that_differ_by_less_than_a_second_count_as_equal(ahead: timedelta) -> None:
    job = a_job(read_time=NOON + timedelta(seconds=100))
    assert local_deadline(job, job.read_time + ahead) == job.deliver_by


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
    (a_job(Status.IN_PROGRESS), Next.WATCH),
]


@pytest.mark.parametrize(("job", "follows"), SETTLED)
@pytest.mark.parametrize("status", [200, 302, 401, 408, 409, 500, 503, 504])
@pytest.mark.parametrize("refusal", [(), ((REFUSAL_HEADER, "signature"),)])
def test_a_response_is_ignored_once_the_job_is_claimed_or_ended(
    job: Job | None, follows: Next, status: int, refusal: Headers
) -> None:
    step = after_answer(job, Response(status, headers=refusal))
    assert (step.next, step.end) == (follows, None)


@pytest.mark.parametrize(("job", "follows"), [*SETTLED, (a_job(), Next.RETRY)])
def test_without_a_response_a_started_job_is_delivered_again(job: Job | None, follows: Next) -> None:
    step = after_silence(job)
    assert (step.next, step.end) == (follows, None)


@pytest.mark.parametrize(
    ("status", "refusal", "follows"),
    [
        *((status, None, Next.RETRY) for status in (408, 429, 502, 503, 504)),
        *((status, None, Next.END) for status in (200, 204, 301, 302, 400, 401, 403, 404, 405, 409, 413, 500, 501)),
        (403, "unknown-key", Next.RETRY),
        (503, "unavailable", Next.RETRY),
        (409, CLAIM_REFUSED, Next.RETRY),
        (403, "signature", Next.END),
        (403, "expired", Next.END),
        (413, "too-large", Next.END),
        (503, "something-else", Next.END),
    ],
)
def test_a_response_to_a_started_job(status: int, refusal: str | None, follows: Next) -> None:
    headers = () if refusal is None else ((REFUSAL_HEADER.upper(), refusal),)
    step = after_answer(a_job(), Response(status, headers=headers))
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
    end = after_answer(a_job(), response).end
    assert end is not None
    assert text in (end.text or "")


def test_the_body_of_a_refusal_is_shortened_and_decoded() -> None:
    response = Response(403, "Forbidden", ((REFUSAL_HEADER, "signature"),), b"\xff" + b"x" * 10_000)
    end = after_answer(a_job(), response).end
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
