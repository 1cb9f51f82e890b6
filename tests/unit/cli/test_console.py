"""Jobs as text, and the monitor in the foreground."""

from __future__ import annotations

import re
import secrets
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress

import pytest

from backjob import AddressUnknown, BackJob, JobNotFound
from backjob.cli.console import job_details, run_monitor
from backjob.errors import StoreUnusable
from backjob.jobs import engine_of
from backjob.lifecycle import completed, failed
from backjob.model import Changes, Expect, Job, JsonValue, Response
from backjob.output import escaped
from backjob.protocols import Delivery
from backjob.signing import MessageSigner
from backjob.status.words import WAITING
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from tests.unit.acting import Acting, quiet_jobs

TIMEOUT = 60.0  # s
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202e"


@pytest.fixture
def jobs() -> Iterator[BackJob]:
    with quiet_jobs() as jobs:
        yield jobs


# --- text -----------------------------------------------------------------------------------------------------------


def test_control_characters_become_escapes_and_other_text_stays() -> None:
    assert escaped("a\x1b[31m\x9b\x07b") == "a\\x1b[31m\\x9b\\x07b"
    assert escaped("\u202e") == "\\u202e"
    assert escaped("tab\tand\nline, ä 漢 👩\u200d🚀") == "tab\tand\nline, ä 漢 👩\u200d🚀"
    assert escaped("one\r\ntwo\rthree") == "one\ntwo\\x0dthree"


# --- the details --------------------------------------------------------------------------------------------


def test_details_have_the_state_and_the_complete_output(jobs: BackJob) -> None:
    acting = Acting(jobs, "reports", "ann").claim()
    acting.report(progress=7, text="Reading", output="".join(f"line {number}\n" for number in range(20_000)))
    acting.end(failed, "disk full")
    details = job_details(jobs, acting.id)
    for part in (acting.id, "Failed", "7 %", "disk full", "reports", "ann", "line 0\n", "line 19999"):
        assert part in details
    assert details.count("line 9999\n") == 1


def test_details_show_the_output_once_if_it_is_also_the_text(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    acting.report(output="only once\n")
    assert job_details(jobs, acting.id).count("only once") == 1


def test_details_report_a_truncated_output(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    acting.report(output="beginning", truncated=True)
    assert "a part is missing here" in job_details(jobs, acting.id)


def test_details_escape_the_output_by_default(jobs: BackJob) -> None:
    acting = Acting(jobs, EVIL).claim()
    acting.report(output=EVIL, text=EVIL)
    assert job_details(jobs, acting.id).replace("\n", "").isprintable()
    assert "\u202e" in job_details(jobs, acting.id, escape=False)


def test_details_show_the_output_as_a_terminal_would(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    acting.report(output="10 %\r\x1b[32m20 %\x1b[0m\n", truncated=True, tail="half\nthe end\n")
    end = "\n(the output exceeded the limit; a part is missing here)\nthe end"
    assert job_details(jobs, acting.id).endswith(f"\n\n20 %{end}")
    assert job_details(jobs, acting.id, colours=True).endswith(f"\n\n\x1b[32m20 %\x1b[0m{end}")


# --- waiting, attempts and earlier runs -----------------------------------------------------------------------------


def test_the_details_say_why_a_job_waits(jobs: BackJob) -> None:
    later, stuck = Acting(jobs, due=60), Acting(jobs)
    jobs.store.change(stuck.id, Expect(unclaimed=True), Changes(waiting_for="proof"))
    assert f"waits     {WAITING['due']}" in job_details(jobs, later.id)
    assert job_details(jobs, stuck.id).count(WAITING["proof"]) >= 1


def test_the_details_show_the_attempt_and_the_earlier_runs(jobs: BackJob) -> None:
    acting = Acting(jobs, retries=3).claim().retry(f"boom{EVIL}")
    acting.claim().report(text="row 1")
    details = job_details(jobs, acting.id)
    assert "attempt   2 of 4\n" in details
    assert re.search(r"^Earlier runs:\n\S+ \S+ – \S+ UTC: boom\\x1b", details, re.MULTILINE)
    assert details.replace("\n", "").isprintable()


def test_the_details_show_title_route_queue_and_times(jobs: BackJob) -> None:
    acting = Acting(jobs, title="Invoices 2026", queue="exports")
    assert "duration" not in job_details(jobs, acting.id)
    acting.claim()
    clock = engine_of(jobs).clock
    assert isinstance(clock, FakeClock)
    clock.advance(75)
    acting.end(completed)
    rows = dict(line.split(maxsplit=1) for line in job_details(jobs, acting.id).splitlines())
    assert rows["title"] == "Invoices 2026"
    assert rows["route"] == "GET /work"
    assert rows["state"] == "Done"
    assert rows["queue"] == "exports"
    assert rows["duration"] == "1:15"
    assert {"created", "began", "ended"} <= set(rows)


def test_the_details_name_the_file_of_a_job(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    file: JsonValue = {"name": f"re\nport{EVIL}.csv", "type": "text/csv", "size": 12}
    assert jobs.store.change(acting.id, Expect(), Changes(file=file))
    acting.end(completed)
    [line] = [line for line in job_details(jobs, acting.id).splitlines() if line.startswith("file ")]
    assert line.endswith(".csv (text/csv, 12 bytes)")
    assert line.isprintable()


def test_a_job_without_retries_shows_no_attempt(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    assert "attempt" not in job_details(jobs, acting.id)


def test_between_two_slices_nothing_says_that_the_job_waits(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    acting.report(progress=40, text="row 40")
    acting.hand_over()
    details = job_details(jobs, acting.id)
    assert "Running" in details
    assert "row 40" in details
    assert "wait" not in details


def test_details_of_an_unknown_job_raise_job_not_found(jobs: BackJob) -> None:
    with pytest.raises(JobNotFound):
        job_details(jobs, "unknown")


# --- the monitor ----------------------------------------------------------------------------------------------------


class Recording:
    """A transport that records deliveries and never answers."""

    capacity = None
    in_process = True

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.has_sent = threading.Event()
        self.closed = False

    def send(self, delivery: Delivery) -> Future[Response]:
        self.sent.append(delivery.job_id)
        self.has_sent.set()
        return Future()

    def close(self) -> None:
        self.closed = True


def test_the_monitor_delivers_due_jobs_until_it_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    transport, stop = Recording(), threading.Event()
    jobs = BackJob(MemoryStore(), transport, MessageSigner(secrets.token_bytes(32)))
    waiting = Acting(jobs)
    thread = threading.Thread(target=run_monitor, args=(jobs,), kwargs={"stop": stop})
    thread.start()
    try:
        assert transport.has_sent.wait(TIMEOUT)
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert transport.sent == [waiting.id]
    assert transport.closed
    assert "running" in capsys.readouterr().err


def test_the_monitor_ends_even_if_the_exception_of_its_signal_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    class Losing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            with suppress(KeyboardInterrupt):  # as a destructor that is running does
                signal.raise_signal(signal.SIGTERM)
            return False

    jobs = BackJob(MemoryStore(), Recording(), MessageSigner(secrets.token_bytes(32)))
    run_monitor(jobs, stop=Losing())
    assert "stopping" in capsys.readouterr().err


def test_the_monitor_refuses_to_start_without_an_address(jobs: BackJob) -> None:
    waiting = Acting(jobs)
    with pytest.raises(AddressUnknown, match="BASE_URL"):
        run_monitor(jobs, stop=threading.Event())
    job = jobs.store.get(waiting.id)
    assert job is not None
    assert job.lessee is None


def test_the_monitor_refuses_to_start_if_the_store_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MemoryStore):
        def find(self, query: object) -> list[Job]:
            raise StoreUnusable("no table")

    jobs = BackJob(Broken(), Recording(), MessageSigner(secrets.token_bytes(32)))
    with pytest.raises(StoreUnusable):
        run_monitor(jobs, stop=threading.Event())
    jobs.close()
