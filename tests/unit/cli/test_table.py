"""The table of `backjob list`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest

from backjob import BackJob
from backjob.cli.table import job_table
from backjob.jobs import engine_of
from backjob.lifecycle import cancelled, completed, failed
from backjob.model import Changes, Expect
from backjob.status.words import NO_SIGN, WAITING
from backjob.testing import FakeClock
from tests.unit.acting import Acting, quiet_jobs
from tests.unit.terminals import cells

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202e"


@pytest.fixture
def jobs() -> Iterator[BackJob]:
    with quiet_jobs() as jobs:
        yield jobs


@pytest.fixture
def clock(jobs: BackJob) -> FakeClock:
    clock = engine_of(jobs).clock
    assert isinstance(clock, FakeClock)
    return clock


def now(jobs: BackJob) -> datetime:
    return engine_of(jobs).clock.now()


def table(jobs: BackJob, columns: int | None = None) -> list[str]:
    return list(job_table(jobs.find(), now(jobs), columns))


def test_the_table_has_headings_and_a_line_for_each_job_newest_first(jobs: BackJob, clock: FakeClock) -> None:
    first = Acting(jobs, title="Invoices 2026").claim(lease=86_400)
    first.report(progress=40)
    clock.advance(65)
    second = Acting(jobs)
    clock.advance(3_600)
    headings, *lines = table(jobs)
    assert headings.split() == ["ID", "STATE", "%", "AGE", "DURATION", "TITLE", "TEXT"]
    assert lines[0].split()[:8] == [second.id, "Waiting", "to", "start", "0", "1h", "-", "/work"]
    assert lines[1].split() == [first.id, "Running", "40", "1h", "1:01:05", "Invoices", "2026"]


def test_a_duration_ends_with_the_job_and_a_job_that_never_began_has_none(jobs: BackJob, clock: FakeClock) -> None:
    done, never = Acting(jobs), Acting(jobs)
    clock.advance(10)
    done.claim()
    clock.advance(5)
    done.end(completed, "ready")
    never.end(cancelled)
    clock.advance(86_400 * 3)
    lines = {line.split()[0]: line.split()[1:5] for line in table(jobs)}
    assert lines[done.id] == ["Done", "100", "3d", "0:05"]
    assert lines[never.id] == ["Cancelled", "0", "3d", "-"]


def test_a_duration_counts_from_the_first_of_several_slices(jobs: BackJob, clock: FakeClock) -> None:
    acting = Acting(jobs).claim()
    clock.advance(20)
    acting.hand_over()
    acting.claim()
    clock.advance(20)
    acting.end(completed)
    assert "0:40" in table(jobs)[1]


@pytest.mark.parametrize("columns", [20, 40, 60, 79, 80, 81, 100, 132, 250])
def test_no_line_is_wider_than_the_terminal(jobs: BackJob, columns: int) -> None:
    for title in ("漢字の請求書 " * 20, "e\u0301" * 60, "short", None):
        acting = Acting(jobs, "scope " * 20, "ann", title=title, queue="exports").claim()
        acting.end(failed, "no such customer " * 10)
    lines = table(jobs, columns)
    assert len(lines) == 5
    assert max(cells(line) for line in lines) <= columns
    assert all(line.isprintable() for line in lines)


def test_eighty_columns_have_room_for_the_title(jobs: BackJob) -> None:
    Acting(jobs, "reports", "ann", title="Invoices of the year 2026").claim()
    headings, line = table(jobs, 80)
    assert headings.endswith("TITLE")
    assert "Invoices of the year" in line


def test_a_wide_terminal_and_a_pipe_show_queue_scope_owner_and_text(jobs: BackJob) -> None:
    acting = Acting(jobs, "reports", "ann", title="Invoices", queue="exports").claim()
    acting.end(failed, "no such customer")
    for columns in (None, 140):
        headings, line = table(jobs, columns)
        assert headings.split()[-5:] == ["TITLE", "QUEUE", "SCOPE", "OWNER", "TEXT"]
        assert line.split()[-7:] == ["Invoices", "exports", "reports", "ann", "no", "such", "customer"]


def test_a_narrow_terminal_leaves_out_duration_and_age_before_the_title(jobs: BackJob) -> None:
    Acting(jobs, title="Invoices").claim()
    assert table(jobs, 60)[0].split() == ["ID", "STATE", "%", "AGE", "TITLE"]
    assert table(jobs, 50)[0].split() == ["ID", "STATE", "%", "TITLE"]


def test_a_line_has_no_control_characters_and_the_last_line_of_the_text(jobs: BackJob) -> None:
    acting = Acting(jobs, "two\nlines", EVIL, title=f"one\ntwo{EVIL}").claim()
    acting.report(text="first\nsecond\t\x9b31m\u202e\n")
    lines = table(jobs)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert "econd" in lines[1]
    assert "first" not in lines[1]


def test_the_text_says_why_a_job_waits_and_which_attempt_it_is(jobs: BackJob, clock: FakeClock) -> None:
    later, stuck, again, dead = Acting(jobs, due=60), Acting(jobs), Acting(jobs, retries=3), Acting(jobs)
    jobs.store.change(stuck.id, Expect(unclaimed=True), Changes(waiting_for="proof"))
    again.claim().retry("boom")
    dead.claim(lease=-1)
    lines = {line.split()[0]: line for line in table(jobs)}
    assert lines[later.id].endswith(WAITING["due"])
    assert lines[stuck.id].endswith(WAITING["proof"])
    assert lines[again.id].endswith("; attempt 2 of 4")
    assert "Retrying" in lines[again.id]
    assert lines[dead.id].endswith(NO_SIGN)
    again.claim().report(text="row 1")
    assert table(jobs)[2].endswith("row 1; attempt 2 of 4")


def test_a_text_that_repeats_the_state_is_left_out(jobs: BackJob) -> None:
    Acting(jobs).end(cancelled)
    assert "TEXT" not in table(jobs)[0]
