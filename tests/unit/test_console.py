"""Jobs on a terminal: lines, details, the bar that follows one, and the monitor in the foreground."""

from __future__ import annotations

import io
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from backjob import AddressUnknown, BackJob, JobNotFound, JobState, Status
from backjob.console import follow, harmless, job_details, job_line, run_monitor
from backjob.errors import StoreUnusable
from backjob.lifecycle import cancelled, claimed, completed, ended, failed
from backjob.model import Draft, Expect, Job, Report, Request, Response
from backjob.protocols import Delivery
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.transports.sockets import SocketTransport

PATIENCE = 10.0  # s
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202e"


@pytest.fixture
def jobs() -> Iterator[BackJob]:
    with BackJob(MemoryStore(), SocketTransport, MessageSigner(secrets.token_bytes(32))) as jobs:
        yield jobs


class Acting:
    """A job as its worker writes it."""

    def __init__(self, jobs: BackJob, scope: str = "", owner: str | None = None) -> None:
        self.jobs = jobs
        self.id = f"job-{secrets.token_hex(8)}"
        jobs.store.create(Draft(id=self.id, request=Request("GET", "/work"), scope=scope, owner=owner))

    def claim(self) -> Acting:
        assert self.jobs.store.change(self.id, *claimed("token"))
        return self

    def report(self, **values: object) -> None:
        assert self.jobs.store.report(self.id, "token", Report(**values))  # type: ignore[arg-type]

    def end(self, end: Callable[..., object] = completed, *values: str) -> Acting:
        assert self.jobs.store.change(self.id, Expect(), ended(end(*values)))  # type: ignore[arg-type]
        return self


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def scripted(jobs: BackJob, monkeypatch: pytest.MonkeyPatch, acting: Acting, *steps: Callable[[], object]) -> None:
    """Have ``watch`` see the job after each of the steps."""

    def watch(_job_id: str) -> Iterator[JobState]:
        yield jobs.status(acting.id)
        for step in steps:
            step()
            yield jobs.status(acting.id)

    monkeypatch.setattr(jobs, "watch", watch)


# --- text -----------------------------------------------------------------------------------------------------------


def test_control_characters_are_spelled_out_and_other_text_stays() -> None:
    assert harmless("a\x1b[31m\x9b\x07b") == "a\\x1b[31m\\x9b\\x07b"
    assert harmless("\u202e") == "\\u202e"
    assert harmless("tab\tand\nline, ä 漢 👩\u200d🚀") == "tab\tand\nline, ä 漢 👩\u200d🚀"
    assert harmless("one\r\ntwo\rthree") == "one\ntwo\\x0dthree"


# --- a line, and the details ----------------------------------------------------------------------------------------


def test_a_line_tells_what_a_job_is_and_says(jobs: BackJob) -> None:
    acting = Acting(jobs, "reports", "ann").claim()
    acting.report(progress=40, text="Chugging along")
    line = job_line(jobs.status(acting.id))
    assert line.startswith(acting.id)
    assert "IN_PROGRESS" in line
    assert " 40 %" in line
    assert line.endswith("reports  ann  Chugging along")


def test_a_line_is_one_line_whatever_the_job_says(jobs: BackJob) -> None:
    acting = Acting(jobs, "two\nlines", EVIL).claim()
    acting.report(text=f"first\nsecond\t{EVIL}\n")
    line = job_line(jobs.status(acting.id))
    assert line.isprintable()
    assert "second" in line
    assert "first" not in line


def test_a_long_text_is_cut_in_a_line(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    acting.report(text="long " * 1000)
    assert len(job_line(jobs.status(acting.id))) < 250


def test_details_show_state_and_all_of_the_output(jobs: BackJob) -> None:
    acting = Acting(jobs, "reports", "ann").claim()
    acting.report(progress=7, text="Reading", output="".join(f"line {number}\n" for number in range(20_000)))
    acting.end(failed, "disk full")
    details = job_details(jobs, acting.id)
    for part in (acting.id, "FAILED", "7 %", "disk full", "reports", "ann", "line 0\n", "line 19999"):
        assert part in details
    assert details.count("line 9999\n") == 1


def test_details_say_an_output_once_when_it_stands_for_the_text(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    acting.report(output="only once\n")
    assert job_details(jobs, acting.id).count("only once") == 1


def test_details_say_that_output_was_truncated(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    acting.report(output="beginning", truncated=True)
    assert "the rest is missing" in job_details(jobs, acting.id)


def test_details_escape_the_output_unless_told_not_to(jobs: BackJob) -> None:
    acting = Acting(jobs, EVIL).claim()
    acting.report(output=EVIL, text=EVIL)
    assert job_details(jobs, acting.id).replace("\n", "").isprintable()
    assert EVIL in job_details(jobs, acting.id, escape=False)


def test_details_of_an_unknown_job_are_not_found(jobs: BackJob) -> None:
    with pytest.raises(JobNotFound):
        job_details(jobs, "nobody")


# --- following ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "code"), [(completed, 0), (failed, 1), (cancelled, 2)])
def test_following_tells_the_end_by_the_code_and_the_last_line(
    jobs: BackJob, end: Callable[[str], object], code: int
) -> None:
    acting = Acting(jobs).claim().end(end, "so it ends")
    stream = io.StringIO()
    assert follow(jobs, acting.id, stream) == code
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith(Status(code + 2).name)
    assert last.endswith("so it ends")


def test_plain_lines_tell_progress_and_output_in_order_each_once(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting = Acting(jobs)
    scripted(
        jobs,
        monkeypatch,
        acting,
        acting.claim,
        lambda: acting.report(progress=10, output="one\ntw"),
        lambda: acting.report(output="o\n"),
        lambda: acting.report(progress=50, text="halfway"),
        lambda: acting.report(output="unfinished"),
        lambda: acting.end(completed, "done"),
    )
    stream = io.StringIO()
    assert follow(jobs, acting.id, stream) == 0
    assert stream.getvalue().splitlines() == [
        "STARTED       0 %",
        "IN_PROGRESS   0 %",
        "one",
        "IN_PROGRESS  10 %",
        "two",
        "IN_PROGRESS  50 %  halfway",
        "unfinished",
        "COMPLETED   100 %  done",
    ]


def test_output_of_many_pieces_is_complete_and_unchanged_in_a_file(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    text = "".join(f"{number} ä\n" for number in range(30_000)) + EVIL
    acting.report(output=text)
    acting.end()
    stream = io.StringIO()
    follow(jobs, acting.id, stream)
    assert text in stream.getvalue()


def test_a_truncated_output_is_said_to_be(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    acting.report(output="beginning\n", truncated=True)
    acting.end()
    stream = io.StringIO()
    follow(jobs, acting.id, stream)
    assert "the rest is missing" in stream.getvalue()


def test_a_job_that_ends_meanwhile_is_followed_to_its_end(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    first_line = threading.Event()

    class Stream(io.StringIO):
        def flush(self) -> None:
            first_line.set()

    def end() -> None:
        first_line.wait(PATIENCE)
        acting.report(output="late\n")
        acting.end(failed, "too bad")

    thread = threading.Thread(target=end)
    thread.start()
    stream = Stream()
    assert follow(jobs, acting.id, stream) == 1
    thread.join(PATIENCE)
    assert stream.getvalue().splitlines()[-2:] == ["late", "FAILED        0 %  too bad"]


def test_a_terminal_gets_a_bar_that_grows_on_one_line(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    acting = Acting(jobs).claim()
    scripted(
        jobs,
        monkeypatch,
        acting,
        lambda: acting.report(progress=50, text="halfway"),
        lambda: acting.report(output="said\n"),
        lambda: acting.end(completed, "done"),
    )
    terminal = Terminal()
    follow(jobs, acting.id, terminal)
    drawn = terminal.getvalue().split("\r\x1b[K")
    assert f"IN_PROGRESS [{'#' * 12}{'.' * 12}]  50 %  halfway" in drawn
    assert "said\n" in drawn
    assert "COMPLETED   100 %  done\n" in drawn
    assert drawn[-1] == ""


def test_nothing_that_a_job_says_commands_the_terminal(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    acting = Acting(jobs).claim()
    scripted(
        jobs,
        monkeypatch,
        acting,
        lambda: acting.report(output=f"output {EVIL}\n", text=f"text {EVIL}"),
        lambda: acting.end(failed, f"end {EVIL}"),
    )
    terminal = Terminal()
    follow(jobs, acting.id, terminal)
    shown = terminal.getvalue().replace("\r\x1b[K", "").replace("\n", "")
    assert "output \\x1b" in shown
    assert "text \\x1b" in shown
    assert "end \\x1b" in shown
    assert shown.isprintable()


def test_the_bar_keeps_to_the_terminals_width(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 24)))
    acting = Acting(jobs).claim()
    scripted(jobs, monkeypatch, acting, lambda: acting.report(text="漢" * 80), acting.end)
    terminal = Terminal()
    follow(jobs, acting.id, terminal)
    bars = [part for part in terminal.getvalue().split("\r\x1b[K") if part.startswith("IN_PROGRESS")]
    widths = {sum(2 if character == "漢" else 1 for character in bar) for bar in bars}
    assert max(widths) in (58, 59)


def test_following_an_unknown_job_is_not_found(jobs: BackJob) -> None:
    with pytest.raises(JobNotFound):
        follow(jobs, "nobody", io.StringIO())


# --- the monitor ----------------------------------------------------------------------------------------------------


class Recording:
    """A transport that notes what it is to send; nothing is answered."""

    capacity = None

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.some = threading.Event()
        self.closed = False

    def send(self, delivery: Delivery) -> Future[Response]:
        self.sent.append(delivery.job_id)
        self.some.set()
        return Future()

    def close(self) -> None:
        self.closed = True


def test_a_monitor_delivers_what_is_due_until_it_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    transport, stop = Recording(), threading.Event()
    jobs = BackJob(MemoryStore(), transport, MessageSigner(secrets.token_bytes(32)))
    waiting = Acting(jobs)
    thread = threading.Thread(target=run_monitor, args=(jobs,), kwargs={"stop": stop})
    thread.start()
    try:
        assert transport.some.wait(PATIENCE)
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert transport.sent == [waiting.id]
    assert transport.closed
    assert "running" in capsys.readouterr().err


def test_a_monitor_without_an_address_refuses_and_leases_nothing(jobs: BackJob) -> None:
    waiting = Acting(jobs)
    with pytest.raises(AddressUnknown, match="base URL"):
        run_monitor(jobs, stop=threading.Event())
    job = jobs.store.get(waiting.id)
    assert job is not None
    assert job.lessee is None


def test_a_monitor_whose_store_can_not_be_read_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MemoryStore):
        def find(self, query: object) -> list[Job]:
            raise StoreUnusable("no table")

    jobs = BackJob(Broken(), Recording(), MessageSigner(secrets.token_bytes(32)))
    with pytest.raises(StoreUnusable):
        run_monitor(jobs, stop=threading.Event())
    jobs.close()
