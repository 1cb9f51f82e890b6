"""``flask backjob …``"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from backjob.flask import BackJob
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock, immediate, recorded

REPOSITORY = Path(__file__).parents[3]
SECRET = "Hq7vX2mZ9tB4kW8rN1cJ6yL3pD5sF0gA"

Command = Callable[..., Result]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def jobs(app: Flask, clock: FakeClock) -> BackJob:
    jobs = BackJob(app, store=MemoryStore(clock=clock), clock=clock)

    @app.get("/work")
    def work() -> str:
        print("\x1b[2Jprinted")
        return jobs.finish("Done", result=[1])

    return jobs


@pytest.fixture
def command(app: Flask, jobs: BackJob) -> Command:
    def command(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(args=["backjob", *arguments])

    return command


@pytest.fixture
def done(app: Flask, jobs: BackJob) -> str:
    """A job that has ended."""
    with immediate(jobs, app):
        return jobs.start("work", as_current_user=False, scope="reports", owner="Bo")


@pytest.fixture
def waiting(app: Flask, jobs: BackJob) -> str:
    """A job that nobody delivers."""
    with recorded(jobs):
        return jobs.start("work", as_current_user=False)


def test_list_has_a_line_a_job_the_newest_first(command: Command, done: str, waiting: str) -> None:
    lines = command("list").output.splitlines()
    assert [line.split()[:2] for line in lines] == [[waiting, "STARTED"], [done, "COMPLETED"]]
    assert "reports" in lines[1]
    assert "Bo" in lines[1]


@pytest.mark.parametrize(
    "filters", [["--scope", "reports"], ["--owner", "Bo"], ["--status", "completed"]], ids=lambda filters: filters[0]
)
def test_list_filters(command: Command, done: str, waiting: str, filters: list[str]) -> None:
    assert [line.split()[0] for line in command("list", *filters).output.splitlines()] == [done]


def test_list_keeps_to_its_limit_and_refuses_a_wild_one(command: Command, done: str, waiting: str) -> None:
    assert len(command("list", "--limit", "1").output.splitlines()) == 1
    assert "limit: must be a whole number from 1" in command("list", "--limit", "0").output


def test_show_has_the_state_and_the_output_made_harmless(command: Command, done: str) -> None:
    shown = command("show", done).output
    assert "COMPLETED" in shown
    assert "Done" in shown
    assert "\\x1b[2Jprinted" in shown


def test_watch_follows_a_job_and_exits_with_its_end(command: Command, done: str) -> None:
    watched = command("watch", done)
    assert watched.exit_code == 0
    assert watched.output.splitlines()[-1] == "COMPLETED   100 %  Done"


def test_watch_has_codes_for_a_cancelled_job_and_for_none(command: Command, waiting: str) -> None:
    command("cancel", waiting)
    assert command("watch", waiting).exit_code == 2
    missing = command("watch", "nothing")
    assert missing.exit_code == 3
    assert missing.output.startswith("Error: no job has the id 'nothing'")


@pytest.mark.parametrize("name", ["show", "cancel"])
def test_an_unknown_job_is_an_error_for_a_person(command: Command, name: str) -> None:
    result = command(name, "nothing")
    assert result.exit_code == 1
    assert result.output.startswith("Error: no job has the id 'nothing'")


def test_cancel_ends_a_job_once(command: Command, jobs: BackJob, waiting: str) -> None:
    assert command("cancel", waiting).output == f"{waiting} is cancelled\n"
    assert jobs.status(waiting).status.name == "CANCELLED"
    again = command("cancel", waiting)
    assert (again.exit_code, again.output) == (1, "Error: not cancelled: the job is CANCELLED\n")


def test_cleanup_removes_what_is_past_its_time(command: Command, jobs: BackJob, clock: FakeClock, done: str) -> None:
    assert command("cleanup").output == "0 removed\n"
    clock.advance(31 * 86400)
    assert command("cleanup").output == "1 removed\n"
    assert not jobs.exists(done)


def test_a_refused_setting_is_an_error_for_a_person(make_app: Callable[..., Flask]) -> None:
    app = make_app(SECRET_KEY=None)
    BackJob(app)
    result = app.test_cli_runner().invoke(args=["backjob", "list"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: SECRET_KEY: set it or BACKJOB_KEY")


def test_a_monitor_without_a_base_url_says_what_to_set(command: Command) -> None:
    result = command("monitor")
    assert result.exit_code == 1
    assert "BACKJOB_BASE_URL" in result.output


def test_a_monitor_runs_until_it_is_told_to_end(tmp_path: Path) -> None:
    (tmp_path / "my_shop.py").write_text("""
from flask import Flask
from backjob.flask import BackJob
app = Flask("my_shop")
app.config.from_prefixed_env()
BackJob(app)
""")
    environment: dict[str, Any] = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "FLASK_SECRET_KEY": SECRET,
        "FLASK_BACKJOB_BASE_URL": "http://127.0.0.1:9",
        "FLASK_BACKJOB_STORE": f"sqlite:///{tmp_path / 'jobs.db'}",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "my_shop.py", "backjob", "monitor"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        overdue = threading.Timer(30, process.kill)
        overdue.start()
        try:
            assert process.stderr is not None
            assert "running" in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        finally:
            overdue.cancel()
            process.kill()
