"""The command line: which jobs a command works on, what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from cachelib import FileSystemCache

from backjob import BackJob, Status, __version__
from backjob.cli import main
from backjob.cli.demo.server import demo
from backjob.cli.exits import Exit
from backjob.cli.program import COMMANDS
from backjob.jobs import engine_of
from backjob.lifecycle import End, cancelled, claimed, completed, ended, failed
from backjob.model import Changes, Draft, Expect, Query, Report, Request
from backjob.protocols import Store
from backjob.signing import MessageSigner
from backjob.status.words import NO_SIGN
from backjob.stores import open_store
from backjob.stores.cached import CachedStore
from backjob.stores.memory import MemoryStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.unit.terminals import Terminal

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

TIMEOUT = 60.0  # s
DAY = 86400.0  # s
ROOT = Path(__file__).parents[3]

Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BACKJOB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = open_store(url)
    yield store
    store.close()


def a_job(
    store: Store, job_id: str = "job1", *, end: End | None = None, output: str = "", owner: str = "", **draft: Any
) -> str:
    """Create a job that is due; with an end or an output it is also claimed."""
    store.create(Draft(id=job_id, request=Request("GET", "/work"), owner=owner or None, **draft))
    if end is not None or output:
        assert store.change(job_id, *claimed("token", 1, 86_400.0))
        assert store.report(job_id, "token", Report(output=output))
    if end is not None:
        assert store.change(job_id, Expect(), ended(end))
    return job_id


def run(*arguments: str) -> int:
    """Run a command; return its exit code, also if argparse exits."""
    try:
        return main(arguments)
    except SystemExit as exited:
        return exited.code if isinstance(exited.code, int) else -1


def status_of(store: Store, job_id: str) -> Status:
    job = store.get(job_id)
    assert job is not None
    return job.status


# --- list and show --------------------------------------------------------------------------------------------------


def test_list_prints_a_line_for_each_job_newest_first(url: str, store: Store, capsys: Out) -> None:
    for job_id in ("job1", "job2", "job3"):
        a_job(store, job_id)
    assert run("list", "--store", url) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["ID", "job3", "job2", "job1"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--status", "failed"), ["job2"]),
        (("--status", "STARTED"), ["job1"]),
        (("--status", "waiting"), ["job1"]),
        (("--status", "Done"), ["job3"]),
        (("--scope", "reports"), ["job3"]),
        (("--owner", "ann"), ["job1"]),
        (("--queue", "exports"), ["job2"]),
        (("--search", "INVOICES"), ["job3"]),
        (("--search", "work"), ["job3", "job2", "job1"]),
        (("--search", "work", "--queue", "exports"), ["job2"]),
        (("--limit", "2"), ["job3", "job2"]),
        (("--before", "job2"), ["job1"]),
    ],
)
def test_list_filters_jobs(url: str, store: Store, capsys: Out, options: tuple[str, ...], expected: list[str]) -> None:
    a_job(store, "job1", owner="ann")
    a_job(store, "job2", end=failed("too bad"), queue="exports")
    a_job(store, "job3", end=completed(), scope="reports", title="Invoices 2026")
    assert run("list", "--store", url, *options) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["ID", *expected]


def test_a_store_alone_shows_no_sign_of_a_dead_process_and_writes_nothing(
    url: str, store: Store, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_job(store)
    assert store.change("job1", *claimed("token", 1, -1.0))  # its lease was over a second ago
    before = store.get("job1")

    class Ends:
        def wait(self, _seconds: float) -> None:
            """End the job after the first look."""
            assert before is not None
            assert store.change("job1", Expect(version=before.version), ended(failed("at last")))

    monkeypatch.setattr("backjob.jobs.outside.threading", SimpleNamespace(Event=Ends))
    for command in (("list",), ("show", "job1"), ("show", "job1", "--json"), ("watch", "job1")):
        run(*command, "--store", url)
        out = capsys.readouterr().out
        assert NO_SIGN in out
        assert re.search("Running|IN_PROGRESS", out)
    assert out.endswith("at last\n")


def test_a_store_alone_ends_no_job_that_is_late(url: str, store: Store, capsys: Out) -> None:
    store.create(Draft(id="job1", request=Request("GET", "/work"), expires=-1.0))
    assert run("show", "job1", "--store", url) == 0
    assert "Waiting to start" in capsys.readouterr().out
    assert status_of(store, "job1") is Status.STARTED


def test_an_empty_list_says_so_beside_the_standard_output(url: str, store: Store, capsys: Out) -> None:
    assert run("list", "--store", url) == 0
    assert capsys.readouterr() == ("", "There are no jobs yet.\n")
    a_job(store)
    assert run("list", "--store", url, "--owner", "ann") == 0
    assert capsys.readouterr() == ("", "No job matches.\n")
    assert run("list", "--store", url, "--owner", "ann", "--json") == 0
    assert capsys.readouterr() == ("", "")


def test_list_quiet_prints_only_the_ids(url: str, store: Store, capsys: Out) -> None:
    for job_id in ("job1", "job2"):
        a_job(store, job_id)
    assert run("list", "--store", url, "--quiet") == 0
    assert capsys.readouterr().out == "job2\njob1\n"
    assert run("list", "--store", url, "--quiet", "--json") == 64


def test_on_a_terminal_a_full_list_says_how_to_get_the_next_page(
    url: str, store: Store, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job_id in ("job1", "job2", "job3"):
        a_job(store, job_id)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run("list", "--store", url, "--limit", "2") == 0
    monkeypatch.undo()
    hint = capsys.readouterr().err
    assert hint.startswith("These are the newest 2. For older ones, add --before job2.")
    assert store.delete("job2")
    assert run("list", "--store", url, "-q", *hint.split()[-2:]) == 0
    assert capsys.readouterr().out == "job1\n"


def test_list_json_prints_one_object_per_line(url: str, store: Store, capsys: Out) -> None:
    a_job(store, "job1", end=completed("two\nlines", {"href": "/x"}))
    a_job(store, "job2")
    assert run("list", "--store", url, "--json") == 0
    second, first = map(json.loads, capsys.readouterr().out.splitlines())
    assert second["id"] == "job2"
    assert (first["status"], first["status_name"], first["result"]) == (2, "COMPLETED", {"href": "/x"})
    assert first["status_text"] == "two\nlines"


def test_show_prints_state_and_output(url: str, store: Store, capsys: Out) -> None:
    a_job(store, end=failed("disk full"), output="line one\n")
    assert run("show", "--store", url, "job1") == 0
    out = capsys.readouterr().out
    assert "Failed" in out
    assert "disk full" in out
    assert out.endswith("line one\n")


def test_show_json_has_the_complete_output(url: str, store: Store, capsys: Out) -> None:
    output = "0123456789abcde\n" * 10_000
    a_job(store, output=output)
    assert run("show", "--store", url, "--json", "job1") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["id"] == "job1"
    assert shown["output"] == output
    assert shown["truncated"] is False


def test_commands_other_than_monitor_deliver_and_lease_nothing(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKJOB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("BACKJOB_KEY", secrets.token_urlsafe(32))
    a_job(store)
    a_job(store, "ended", end=completed())
    threads = set(threading.enumerate())
    for command in (("list",), ("show", "job1"), ("watch", "ended"), ("cancel", "ended"), ("cleanup",)):
        run(command[0], "--store", url, *command[1:])
    job = store.get("job1")
    assert job is not None
    assert (job.lessee, job.attempt, job.status) == (None, 1, Status.STARTED)
    assert set(threading.enumerate()) <= threads


def test_a_command_creates_no_database(tmp_path: Path, capsys: Out) -> None:
    assert run("list", "--store", f"sqlite:///{tmp_path / 'typo.db'}") == 78
    assert "no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- watch, wait, cancel, cleanup -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "code"), [(completed("done"), 0), (failed("bad"), 1), (cancelled(), 2)])
def test_the_exit_code_of_watch_is_the_jobs_end(url: str, store: Store, capsys: Out, end: End, code: int) -> None:
    a_job(store, end=end, output="said\n")
    assert run("watch", "--store", url, "job1") == code
    assert "said\n" in capsys.readouterr().out


@pytest.mark.parametrize(("end", "code"), [(completed("done"), 0), (failed("bad"), 1), (cancelled(), 2)])
def test_the_exit_code_of_wait_is_the_jobs_end(url: str, store: Store, capsys: Out, end: End, code: int) -> None:
    a_job(store, end=end, output="said\n")
    assert run("wait", "--store", url, "job1") == code
    assert capsys.readouterr() == ("", "")


def test_wait_gives_up_after_its_timeout(url: str, store: Store, capsys: Out) -> None:
    a_job(store)
    assert run("wait", "--store", url, "job1", "--timeout", "0.01") == 124
    assert "job1 has not ended within 0.01 s" in capsys.readouterr().err


def test_wait_may_wait_for_longer_than_an_hour(url: str, store: Store) -> None:
    a_job(store, end=completed("done"))
    assert run("wait", "--store", url, "job1", "--timeout", "86400") == 0


@pytest.mark.parametrize("command", ["show", "watch", "wait", "cancel", "delete"])
def test_an_unknown_job_exits_with_3(url: str, store: Store, capsys: Out, command: str) -> None:
    assert run(command, "--store", url, "unknown") == 3
    assert "unknown" in capsys.readouterr().err


def test_cancel_ends_a_job_once(url: str, store: Store, capsys: Out) -> None:
    a_job(store)
    assert run("cancel", "--store", url, "job1") == 0
    assert status_of(store, "job1") is Status.CANCELLED
    assert run("cancel", "--store", url, "job1") == 4
    assert "Cancelled" in capsys.readouterr().err


def test_cancel_json_has_the_state_and_whether_this_cancelled_it(url: str, store: Store, capsys: Out) -> None:
    a_job(store)
    assert run("cancel", "--store", url, "--json", "job1") == 0
    assert run("cancel", "--store", url, "--json", "job1") == 4
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["id"], first["status_name"], first["cancelled"]) == ("job1", "CANCELLED", True)
    assert (second["id"], second["status_name"], second["cancelled"]) == ("job1", "CANCELLED", False)


def test_delete_removes_a_job_with_its_output_whatever_its_state(url: str, store: Store, capsys: Out) -> None:
    for number, job in enumerate(
        (a_job(store), a_job(store, "job2", output="said\n"), a_job(store, "job3", end=failed("bad")))
    ):
        assert run("delete", "--store", url, job, *(["--json"] if number else [])) == 0
        assert store.get(job) is None
    assert capsys.readouterr().out == 'deleted 1 job\n{"deleted": 1}\n{"deleted": 1}\n'


def test_delete_removes_all_jobs_of_an_owner(url: str, store: Store, capsys: Out) -> None:
    for job_id, owner in (("job1", "ann"), ("job2", "bo"), ("job3", "ann")):
        a_job(store, job_id, owner=owner)
    assert run("delete", "--store", url, "--owner", "ann") == 0
    assert capsys.readouterr().out == "deleted 2 jobs\n"
    assert [job.id for job in store.find(Query())] == ["job2"]


@pytest.mark.parametrize("arguments", [(), ("job1", "--owner", "ann"), ("--owner", "")])
def test_delete_wants_either_a_job_or_an_owner(url: str, store: Store, arguments: tuple[str, ...]) -> None:
    a_job(store, owner="ann")
    assert run("delete", "--store", url, *arguments) == 64
    assert store.get("job1") is not None


def test_cleanup_removes_jobs_past_the_retention_age(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    a_job(store, end=completed())
    assert run("cleanup", "--store", url) == 0
    assert capsys.readouterr().out == "removed 0 jobs\n"
    monkeypatch.setenv("BACKJOB_COMPLETED_RETENTION_DAYS", str(0.000_001 / DAY))
    assert run("cleanup", "--store", url) == 0
    assert capsys.readouterr().out == "removed 1 job\n"
    assert store.get("job1") is None
    assert run("cleanup", "--store", url, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"removed": 0}


# --- the source of the jobs -----------------------------------------------------------------------------------------


def test_the_store_can_come_from_the_environment(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    a_job(store)
    monkeypatch.setenv("BACKJOB_STORE", url)
    assert run("list", "-q") == 0
    assert capsys.readouterr().out == "job1\n"


def test_a_misspelled_setting_is_refused_with_a_suggestion(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.setenv("BACKJOB_STROE", "sqlite:///jobs.db")
    assert run("list") == 64
    assert "did you mean BACKJOB_STORE?" in capsys.readouterr().err


def test_a_command_creates_no_tables(tmp_path: Path, capsys: Out) -> None:
    path = tmp_path / "mistyped.db"
    assert run("list", "--store", f"sqlite:///{path}") == 78
    assert "mistyped.db" in capsys.readouterr().err
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


@pytest.mark.parametrize("command", ["list", "monitor"])
@pytest.mark.parametrize("url", ["memory:", "cache:"])
def test_a_store_in_the_memory_of_one_process_is_refused(
    command: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    (tmp_path / "a_module_with_a_cache.py").write_text(
        "from cachelib import SimpleCache\n\ncache = SimpleCache(20_000)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    if url == "cache:":
        monkeypatch.setenv("BACKJOB_CACHE", "a_module_with_a_cache:cache")
    monkeypatch.setenv("BACKJOB_BASE_URL", "http://127.0.0.1:8000")
    monkeypatch.setenv("BACKJOB_KEY", secrets.token_urlsafe(32))
    assert run(command, "--store", url) == 64
    assert "in the memory of one process" in capsys.readouterr().err


def test_cancelling_a_job_removes_it_from_the_cache(
    url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    (tmp_path / "a_module_with_a_shared_cache.py").write_text(
        f"from cachelib import FileSystemCache\n\ncache = FileSystemCache({str(folder)!r})\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "a_module_with_a_shared_cache", raising=False)  # from a previous run
    monkeypatch.setenv("BACKJOB_CACHE", "a_module_with_a_shared_cache:cache")
    cached = CachedStore(store, FileSystemCache(str(folder)))
    a_job(cached, output="working")
    running = cached.get("job1")
    assert running is not None
    assert running.status is Status.IN_PROGRESS
    assert run("cancel", "job1", "--store", url) == 0
    job = cached.get("job1")
    assert job is not None
    assert job.status is Status.CANCELLED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage"),
        (("list",), "--store URL"),
        (("show", "--store", "sqlite:///jobs.db"), "ID"),
        (("list", "--store", "memory:"), "memory"),
        (("list", "--store", "nonsense"), "URL"),
        (("list", "--store", "sqlite:///x.db", "--app", "a:b"), "not allowed with"),
        (("list", "--store", "sqlite:///x.db", "--status", "sleeping"), "waiting, running, done, failed, cancelled"),
        (("list", "--app", "noname"), "module:name"),
        (("list", "--app", "no_such_module_anywhere:jobs"), "no_such_module_anywhere"),
        (("list", "--app", "json:jobs"), "jobs"),
        (("list", "--app", "json:dumps"), "not a BackJob"),
        (("monitor", "--store", "sqlite:///x.db"), "BACKJOB_BASE_URL and BACKJOB_KEY"),
        (("doctor",), "BACKJOB_BASE_URL"),
        (("doctor", "ftp://example"), "http"),
        (("doctor", "http://example", "--timeout", "0"), "more than 0"),
        (("doctor", "http://example", "--timeout", "nan"), "more than 0"),
        (("wait", "--store", "sqlite:///x.db", "job1", "--timeout", "nan"), "more than 0"),
        (("wait", "job1", "--timeout", "5m"), "at most 1000000000 s, not '5m'"),
        (("worker", "--threads", "1e3"), "must be 1 to 1000, not '1e3'"),
        (("doctor", "http://127.0.0.1:1", "--path", "work"), "slash"),
        (("demo", "--port", "65536"), "65535"),
    ],
)
def test_wrong_usage_exits_with_64_and_an_explanation(arguments: tuple[str, ...], message: str, capsys: Out) -> None:
    assert run(*arguments) == 64
    assert message in capsys.readouterr().err


def test_list_refuses_more_than_1000_jobs(url: str, store: Store, capsys: Out) -> None:
    assert run("list", "--store", url, "--limit", "1001") == 64
    assert "limit" in capsys.readouterr().err


def test_a_file_that_is_not_a_database_exits_with_78(tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "text.db").write_text("hello " * 1000)
    assert run("list", "--store", f"sqlite:///{tmp_path / 'text.db'}") == 78
    assert "not an SQLite database" in capsys.readouterr().err


def application_of(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("an_application")
    module.__dict__["site"] = SimpleNamespace(jobs=jobs)
    monkeypatch.setitem(sys.modules, "an_application", module)
    return "an_application:site.jobs"


def test_app_names_the_applications_backjob(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    store = MemoryStore()
    jobs = BackJob(store, SocketTransport, MessageSigner(secrets.token_bytes(32)))
    a_job(engine_of(jobs).store)
    monkeypatch.setenv("BACKJOB_NOT_READ", "the application has its own settings")
    name = application_of(jobs, monkeypatch)
    assert run("cancel", "--app", name, "job1") == 0
    assert run("list", "--app", name) == 0
    assert "Cancelled" in capsys.readouterr().out


@pytest.mark.slow
def test_app_imports_from_the_current_directory_and_shows_import_errors(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(
        "from backjob import BackJob\n"
        "from backjob.signing import MessageSigner\n"
        "from backjob.stores.sqlite import SQLiteStore\n"
        "from backjob.transports.sockets import SocketTransport\n"
        f"jobs = BackJob(SQLiteStore('jobs.db'), SocketTransport, MessageSigner({secrets.token_hex(32)!r}))\n"
    )
    (tmp_path / "bad.py").write_text("import a_dependency_that_is_missing\n")
    done = command("list", "--app", "good:jobs", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "There are no jobs yet.\n")
    done = command("list", "--app", "bad:jobs", cwd=tmp_path)
    assert done.returncode == 70
    assert "a_dependency_that_is_missing" in done.stderr
    assert "bad.py" in done.stderr


# --- the doctor -----------------------------------------------------------------------------------------------------


def test_the_doctor_exits_with_the_first_problem(capsys: Out) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("404 Not Found", [("Content-Length", "0")])
        return [b""]

    with served(app) as address:
        assert run("doctor", address) == 15
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"ok: {address} answers"
    assert out.splitlines()[1].startswith("problem: 404 Not Found")
    assert run("doctor", address) == 10


def test_the_doctor_uses_address_key_and_store_of_the_application(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    with demo("127.0.0.1", 0) as running:
        name = application_of(running.jobs, monkeypatch)
        assert run("doctor", "--app", name, "--method", "CHICKEN") == 0
    out = capsys.readouterr().out
    assert f"ok: {running.url} answers" in out
    assert "same key" in out
    assert "store" in out
    assert "CHICKEN" in out


def test_the_doctor_can_connect_to_another_address(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    with demo("127.0.0.1", 0) as running:
        name = application_of(running.jobs, monkeypatch)
        assert run("doctor", "http://app.example", "--connect-to", running.url, "--app", name) == 0
        assert run("doctor", "--connect-to", "127.0.0.1:1", "--app", name) == 10
    assert "ok: http://app.example answers" in capsys.readouterr().out


def test_the_doctor_can_print_json(capsys: Out) -> None:
    assert run("doctor", "http://127.0.0.1:1", "--json") == 10
    finding = json.loads(capsys.readouterr().out)
    assert (finding["verdict"], finding["code"]) == ("problem", 10)
    assert "CONNECT_TO" in finding["remedy"]


def test_the_doctor_uses_address_and_key_from_the_environment(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    with demo("127.0.0.1", 0) as running:
        monkeypatch.setenv("BACKJOB_BASE_URL", "http://app.example")
        monkeypatch.setenv("BACKJOB_CONNECT_TO", running.url)
        monkeypatch.setenv("BACKJOB_STORE", url)
        monkeypatch.setenv("BACKJOB_KEY", secrets.token_hex(32))
        assert run("doctor") == 17
    out = capsys.readouterr().out
    assert "ok: http://app.example answers" in out
    assert "ok: the store can be read" in out


# --- the program ----------------------------------------------------------------------------------------------------


def command(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backjob", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_python_m_backjob_is_the_command() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"backjob {__version__}\n", "")


@pytest.mark.parametrize("name", [*COMMANDS, "demo", "completion"])
def test_each_command_has_help(name: str, capsys: Out) -> None:
    assert run(name, "--help") == 0
    assert f"usage: backjob {name}" in capsys.readouterr().out


def test_the_help_lists_the_commands_that_every_front_end_has(capsys: Out) -> None:
    run("--help")
    listed = re.findall(r"^    ([\w-]+)\s", capsys.readouterr().out, re.MULTILINE)
    assert listed == ["demo", *COMMANDS, "completion"]


def test_a_framework_has_the_same_commands_without_demo_and_source(capsys: Out) -> None:
    jobs = BackJob(MemoryStore(), SocketTransport, MessageSigner(secrets.token_bytes(32)))
    a_job(engine_of(jobs).store)
    assert main(["list", "-q"], jobs=jobs, prog="flask backjob") == 0
    assert capsys.readouterr().out == "job1\n"
    for arguments in (["demo"], ["completion", "bash"], ["list", "--store", "sqlite:///jobs.db"]):
        with pytest.raises(SystemExit) as exited:
            main(arguments, jobs=jobs, prog="flask backjob")
        assert exited.value.code == 64
        assert "flask backjob" in capsys.readouterr().err
    assert jobs.find() != []  # the application's jobs stay open
    jobs.close()


def test_the_help_lists_the_exit_codes(capsys: Out) -> None:
    run("--help")
    top = capsys.readouterr().out
    assert all(re.search(rf"^  {code:d}  +\S", top, re.MULTILINE) for code in Exit)
    run("doctor", "--help")
    assert "  16  the server handles one request at a time" in capsys.readouterr().out


@pytest.mark.slow
def test_the_program_exits_silently_if_the_pipe_is_closed(url: str, store: Store) -> None:
    a_job(store, output="more than a pipe holds\n" * 40_000)
    program = subprocess.Popen(
        [sys.executable, "-m", "backjob", "show", "--store", url, "job1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.read(10)
    program.stdout.close()
    assert program.stderr.read() == b""
    program.stderr.close()
    assert program.wait(TIMEOUT) == 141


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("--help",), ("list", "--help")])
def test_a_reader_that_wants_one_line_gets_one_and_no_error(url: str, store: Store, arguments: tuple[str, ...]) -> None:
    for number in range(30):
        a_job(store, f"job{number}", end=failed("a long text " * 500))
    done = subprocess.run(
        [
            "bash",
            "-c",
            '"$@" | head -1; echo "${PIPESTATUS[0]}" >&2',
            "bash",
            sys.executable,
            "-m",
            "backjob",
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, "BACKJOB_STORE": url},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr in ("0\n", "141\n")  # 0 if everything fitted into the pipe


@pytest.mark.slow
def test_an_error_that_nobody_reads_keeps_its_exit_code(url: str, store: Store) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "backjob", "show", "--store", url, "unknown"], cwd=ROOT, stderr=writing, check=False
        )
    finally:
        os.close(writing)
    assert done.returncode == 3


@pytest.mark.slow
def test_ctrl_c_ends_a_command_without_a_traceback(url: str, store: Store) -> None:
    a_job(store)
    program = subprocess.Popen(
        [sys.executable, "-c", WAITING_PROGRAM, "wait", "--store", url, "job1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "waiting\n"
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=TIMEOUT) == ("", "")
    assert program.returncode == 130


WAITING_PROGRAM = """
import sys
from backjob.cli import main
from backjob.jobs.outside import Outside

class Announcing(Outside):
    def status(self, job_id):
        print("waiting", flush=True)
        return status(self, job_id)

status, Outside.status = Outside.status, Announcing.status
sys.exit(main())
"""


@pytest.mark.slow
def test_characters_missing_from_the_encoding_become_escapes(url: str, store: Store) -> None:
    a_job(store, output="smörgåsbord 漢\n")
    done = command("show", "--store", url, "job1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "sm\\xf6rg\\xe5sbord \\u6f22" in done.stdout


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def served(app: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]) -> Iterator[str]:
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(TIMEOUT)


def test_run_again_starts_the_kept_request_and_waits_until_the_site_runs_it(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    key = secrets.token_hex(32)
    bodies: list[bytes] = []

    def work(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        bodies.append(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    with (
        BackJob(open_store(url), SocketTransport, MessageSigner(key)) as jobs,
        served(BackJobMiddleware(work, jobs)) as address,
    ):
        monkeypatch.setenv("BACKJOB_BASE_URL", address)
        monkeypatch.setenv("BACKJOB_KEY", key)
        monkeypatch.setenv("BACKJOB_STORE", url)
        with BackJob(open_store(url), SocketTransport(address), MessageSigner(key)) as other:
            first = other.start("/work", method="POST", body=b"rows", as_current_user=False, keep_request=True)
            assert other.join(first, TIMEOUT).status is Status.COMPLETED
        assert run("run-again", first) == 0
        again = capsys.readouterr().out.strip()
        assert again != first
        assert jobs.join(again, TIMEOUT).status is Status.COMPLETED
        assert bodies == [b"rows", b"rows"]
        assert run("run-again", "--json", again) == 0
        assert json.loads(capsys.readouterr().out)["title"] == "/work"
        assert run("run-again", "unknown") == 3


def test_deliver_sends_a_job_to_the_site_and_exits_with_its_end(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    key = secrets.token_hex(32)

    def work(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK" if environ["PATH_INFO"] == "/work" else "404 Not Found", [("Content-Length", "0")])
        return [b""]

    with (
        BackJob(open_store(url), SocketTransport, MessageSigner(key), deliver=[]) as jobs,
        served(BackJobMiddleware(work, jobs)) as address,
    ):
        monkeypatch.setenv("BACKJOB_BASE_URL", address)
        monkeypatch.setenv("BACKJOB_KEY", key)
        monkeypatch.setenv("BACKJOB_STORE", url)
        done, failed, other = (jobs.start(path, as_current_user=False) for path in ("/work", "/other", "/work"))
        assert [run("deliver", done, "--json"), run("deliver", failed), run("deliver", done)] == [0, 1, 4]
        assert store.change(other, Expect(), Changes(lessee="another", lease=60.0))
        assert run("deliver", other) == 5
        assert run("deliver", "unknown") == 3
        assert run("deliver", other, "--in-process") == 64
    said = capsys.readouterr()
    assert json.loads(said.out)["status_name"] == "COMPLETED"
    for words in ("it has ended COMPLETED already", "another process delivers it (another)", "pass --app module:jobs"):
        assert words in said.err


def test_run_again_says_why_a_job_cannot_run_again(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    a_job(store, end=completed())
    assert run("run-again", "--store", url, "job1") == 64
    assert "BACKJOB_BASE_URL and BACKJOB_KEY" in capsys.readouterr().err
    key = secrets.token_hex(32)
    monkeypatch.setenv("BACKJOB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("BACKJOB_KEY", key)
    with BackJob(open_store(url), SocketTransport, MessageSigner(key)) as jobs:
        own = engine_of(jobs).store
        a_job(own, "job2", end=completed())
    assert run("run-again", "--store", url, "job2") == 64
    assert "keep_request=True" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_separate_monitor_delivers_jobs_until_a_signal_stops_it(url: str, stop: signal.Signals) -> None:
    key = secrets.token_hex(32)

    def work(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        print("worked")
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    # The server gets no request before the worker request, so only the separate monitor can have delivered the job.
    with (
        BackJob(open_store(url), SocketTransport, MessageSigner(key)) as jobs,
        served(BackJobMiddleware(work, jobs)) as address,
    ):
        a_job(engine_of(jobs).store)
        environment = {**os.environ, "BACKJOB_BASE_URL": address, "BACKJOB_KEY": key, "BACKJOB_STORE": url}
        program = subprocess.Popen(
            [sys.executable, "-m", "backjob", "monitor"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with BackJob(open_store(url), SocketTransport, MessageSigner(key)) as watching:
                assert watching.join("job1", TIMEOUT).status is Status.COMPLETED
                assert watching.output("job1").text == "worked\n"
            assert program.poll() is None
        finally:
            program.send_signal(stop)
            out, err = program.communicate(timeout=TIMEOUT)
    assert program.returncode == 0
    assert out == ""
    assert "running" in err
    assert "Traceback" not in err
