"""``flask backjob …`` passes its arguments to `backjob.cli`; tests/unit/cli tests the commands themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import Result
from flask import Flask

from backjob.cli.program import COMMANDS
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
    """A job that is not delivered."""
    with recorded(jobs):
        return jobs.start("work", as_current_user=False)


def test_list_prints_the_jobs_of_the_application(command: Command, done: str, waiting: str) -> None:
    lines = command("list").output.splitlines()
    assert [line.split()[:2] for line in lines] == [["ID", "STATE"], [waiting, "Waiting"], [done, "Done"]]
    assert "reports" in lines[2]
    assert "Bo" in lines[2]


@pytest.mark.parametrize(
    "filters",
    [["--scope", "reports"], ["--owner", "Bo"], ["--status", "completed"], ["--before=last"]],
    ids=lambda filters: filters[0],
)
def test_list_has_the_options_of_backjob_list(command: Command, done: str, waiting: str, filters: list[str]) -> None:
    filters = [option.replace("last", waiting) for option in filters]
    found = [json.loads(line)["id"] for line in command("list", *filters, "--json").output.splitlines()]
    assert found == [done]


def test_show_prints_state_and_output(command: Command, done: str) -> None:
    shown = command("show", done).output
    assert "Done" in shown
    assert "printed" in shown
    assert json.loads(command("show", "--json", done).output)["output"] == "\x1b[2Jprinted\n"


def test_the_exit_code_of_watch_is_the_jobs_end(command: Command, done: str, waiting: str) -> None:
    watched = command("watch", done)
    assert watched.exit_code == 0
    assert watched.output.splitlines()[-1] == "COMPLETED   100 %  Done"
    command("cancel", waiting)
    assert command("watch", waiting).exit_code == 2


@pytest.mark.parametrize("name", ["show", "watch", "cancel"])
def test_an_unknown_job_exits_with_3(command: Command, name: str) -> None:
    result = command(name, "unknown")
    assert result.exit_code == 3
    assert result.output.startswith("flask backjob: no job has the id 'unknown'")


def test_cancel_ends_a_job_once(command: Command, jobs: BackJob, waiting: str) -> None:
    assert command("cancel", waiting).output == f"cancelled {waiting}\n"
    assert jobs.status(waiting).status.name == "CANCELLED"
    again = command("cancel", waiting)
    assert (again.exit_code, again.output) == (4, f"flask backjob: {waiting} had already ended: Cancelled\n")


def test_cleanup_removes_jobs_past_their_retention_age(
    command: Command, jobs: BackJob, clock: FakeClock, done: str
) -> None:
    assert command("cleanup").output == "removed 0 jobs\n"
    clock.advance(31 * 86400)
    assert command("cleanup").output == "removed 1 job\n"
    assert not jobs.exists(done)


def test_a_refused_setting_exits_with_64(make_app: Callable[..., Flask]) -> None:
    app = make_app(SECRET_KEY=None)
    BackJob(app)
    result = app.test_cli_runner().invoke(args=["backjob", "list"])
    assert result.exit_code == 64
    assert result.output.startswith("flask backjob: SECRET_KEY: is not set, nor is BACKJOB_KEY")


@pytest.mark.parametrize(("name", "code"), [("monitor", 78), ("doctor", 64)])
def test_without_a_base_url_the_error_names_the_setting(command: Command, name: str, code: int) -> None:
    result = command(name)
    assert result.exit_code == code
    assert "BACKJOB_BASE_URL" in result.output


@pytest.mark.parametrize("arguments", [(), ("unknown",), ("list", "--unknown"), ("demo",), ("list", "--app", "a:b")])
def test_wrong_usage_exits_with_64(command: Command, arguments: tuple[str, ...]) -> None:
    result = command(*arguments)
    assert result.exit_code == 64
    assert "usage: flask backjob" in result.output


def test_help_lists_the_commands_and_their_options(command: Command) -> None:
    top = command("--help")
    assert top.exit_code == 0
    assert all(f"    {name} " in top.output for name in COMMANDS)
    assert "usage: flask backjob list" in command("list", "--help").output


def test_the_shell_completes_commands_options_and_ids(app: Flask, jobs: BackJob, done: str, waiting: str) -> None:
    def completed(*words: str) -> list[str]:
        complete = ShellComplete(app.cli, {}, "flask", "_FLASK_COMPLETE")
        return [item.value for item in complete.get_completions(["backjob", *words[:-1]], words[-1])]

    assert completed("c") == ["cancel", "cleanup"]
    assert completed("show", "") == [waiting, done]
    assert completed("show", done[:8]) == [done]
    assert completed("list", "--status", "f") == ["failed"]
    assert completed("list", "--q") == ["--queue", "--quiet"]
    assert completed("list", "--before", waiting[:8]) == [waiting]
    assert completed("list", "") == []
    assert completed("unknown", "") == []


@pytest.mark.slow
def test_a_monitor_runs_until_sigterm(tmp_path: Path) -> None:
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
        overdue = threading.Timer(100, process.kill)
        overdue.start()
        try:
            assert process.stderr is not None
            assert "running" in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        finally:
            overdue.cancel()
            process.kill()
