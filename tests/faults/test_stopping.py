"""Servers that are told to stop while they run jobs: a job in slices continues in the next process, a plain one ends first.

A plain one that lasts longer than the server waits ends FAILED, and the other continues all the same.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from attrs import frozen

from backjob import Status
from backjob.lifecycle import history_of
from backjob.model import Job
from backjob.protocols import Store
from backjob.stores import open_store
from tests.faults.killing import Herd, HerdKind, herd
from tests.scenarios.servers import gunicorn, hypercorn, python_server, uvicorn
from tests.scenarios.sites import KEY, store_url

ITEMS = 80  # of 0.05 s each; a plain job has half as many
MORE_ITEMS = 320  # half of them take longer than a server waits that is impatient
PATIENCE = 60.0  # s
DEAD = "the process that ran it ended"

pytestmark = pytest.mark.timeout(240)


def uwsgi(*options: str) -> Callable[[str, socket.socket, Path], list[str]]:
    """A command for uWSGI with these options."""

    def command(app: str, listening: socket.socket, _directory: Path) -> list[str]:
        program = str(Path(sys.executable).with_name("uwsgi"))
        base = ["--http-socket", f"fd://{listening.fileno()}", "--master", "--processes=1", "--threads=4"]
        return [program, *base, "--lazy-apps", "--need-app", "--module", app, *options]

    return command


@frozen
class Stop:
    """A server, and how it is told to stop.

    - ``is_noticed``: backjob learns of the signal; else a job in slices hands over when ``SLICE_TIME`` is over
    - ``stays``: the server replaces its workers and goes on
    - ``to_all``: all its processes get the signal, as systemd sends it
    - ``is_configured``: it does not show its socket
    - ``kills``: the server ends running requests at once
    - ``drain``: when the process is set up to drain; see `stopped_app`
    """

    name: str
    command: Callable[[str, socket.socket, Path], list[str]]
    app: str = "app"
    number: signal.Signals = signal.SIGTERM
    is_noticed: bool = True
    stays: bool = False
    to_all: bool = False
    is_configured: bool = False
    kills: bool = False
    drain: str = ""
    is_usual: bool = False

    def __str__(self) -> str:
        return self.name


_HOOK = ("--graceful-timeout=30", "-c", "tests/faults/draining_gunicorn.py")
_SYNC = gunicorn("--workers=2", *_HOOK)
_GTHREAD = gunicorn("--workers=1", "--threads=4", *_HOOK)
_UVICORN = ("--timeout-graceful-shutdown", "60")
_HYPERCORN = ("--graceful-timeout", "60")
# At TERM it waits for as long as a request takes, whatever its mercy at a reload.
_GRACEFUL_UWSGI = uwsgi("--worker-reload-mercy=1", "--hook-master-start", "unix_signal:15 gracefully_kill_them_all")
_WAITRESS = python_server("waitress")

STOPS = (
    Stop("gunicorn sync, TERM", _SYNC, is_usual=True),
    Stop("gunicorn sync, HUP", _SYNC, number=signal.SIGHUP, stays=True),
    Stop("gunicorn gthread, TERM", _GTHREAD),
    Stop("gunicorn gthread, HUP", _GTHREAD, number=signal.SIGHUP, stays=True),
    Stop("uvicorn, TERM", uvicorn(*_UVICORN), app="asgi_app"),
    Stop("uvicorn x2, TERM", uvicorn("--workers=2", *_UVICORN), app="asgi_app"),
    Stop("uvicorn x2, HUP", uvicorn("--workers=2", *_UVICORN), app="asgi_app", number=signal.SIGHUP, stays=True),
    Stop("hypercorn, TERM", hypercorn(*_HYPERCORN), app="asgi_app", is_noticed=False),
    Stop("hypercorn, TERM to all", hypercorn(*_HYPERCORN), app="asgi_app", to_all=True),
    Stop("hypercorn -w 0, TERM", hypercorn("--workers=0", *_HYPERCORN), app="asgi_app"),
    Stop("granian ASGI, TERM", python_server("granian-asgi"), app="asgi_app"),
    Stop("granian WSGI, TERM", python_server("granian-wsgi"), is_noticed=False, is_configured=True),
    Stop("waitress, TERM", _WAITRESS, drain="import", is_usual=True),
    Stop("waitress, INT", _WAITRESS, number=signal.SIGINT, drain="import"),
    Stop("uwsgi, HUP", uwsgi(), number=signal.SIGHUP, stays=True, is_noticed=False, is_configured=True),
    Stop("uwsgi, TERM gracefully", _GRACEFUL_UWSGI, is_noticed=False, is_configured=True),
    Stop("uwsgi --die-on-term, TERM", uwsgi("--die-on-term"), kills=True, is_noticed=False, is_configured=True),
)

_SHORT_HOOK = ("--graceful-timeout=1", "-c", "tests/faults/draining_gunicorn.py")
IMPATIENT = (
    Stop("gunicorn sync", gunicorn("--workers=2", *_SHORT_HOOK)),
    Stop("gunicorn gthread", gunicorn("--workers=1", "--threads=4", *_SHORT_HOOK)),
    Stop("uvicorn", uvicorn(), app="asgi_app"),
    Stop("hypercorn", hypercorn(), app="asgi_app", to_all=True),
    Stop("granian ASGI", python_server("granian-asgi", "1"), app="asgi_app"),
    Stop("waitress", _WAITRESS, drain="import"),
    Stop(
        "uwsgi, HUP",
        uwsgi("--worker-reload-mercy=1"),
        number=signal.SIGHUP,
        stays=True,
        is_noticed=False,
        is_configured=True,
    ),
)
"""Servers that wait for a second at most. So does waitress, by ``DRAIN_TIME``."""


def done(directory: Path, action: str) -> list[tuple[int, int]]:
    """The items that an action has finished, each with the process that did it."""
    path = directory / "done"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(int(item), int(pid)) for word, item, pid in map(str.split, lines) if word == action]


def ended(store: Store, job_id: str, server: Herd) -> Job:
    """Wait for the end of a job, at a site that people visit."""
    deadline = time.monotonic() + PATIENCE
    while (job := store.get(job_id)) is None or not job.status.is_final:
        assert time.monotonic() < deadline, f"{job}\n{server.tail()}"
        with suppress(OSError):
            server.client.get("/ready")
        time.sleep(0.05)
    return job


def stopped_and_started_again(stop: Stop, directory: Path, count: int, **settings: str) -> tuple[Job, Job]:
    """Stop a server while a job in slices and a plain one run, and start it again. Returns both when they have ended."""
    kind = HerdKind(stop.name, stop.command, stop.app, is_configured=stop.is_configured)
    environment = {
        "BACKJOB_STORE": store_url(directory),
        "BACKJOB_KEY": KEY,
        # Only what is killed must wait for the end of its lease; the others may live on a machine that stalls.
        "BACKJOB_RUN_LEASE": "3" if stop.kills else "18",
        # Only a signal can end a slice, or only the time.
        "BACKJOB_SLICE_TIME": "3600" if stop.is_noticed else "1",
        "ITEMS": str(count),
        "DONE": str(directory / "done"),
        "DRAIN": stop.drain,
        "SITE": "tests.faults.stopped_app",
        # uWSGI reloads itself with the interpreter that the virtual environment was made from.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **settings,
    }
    with herd(kind, "tests.faults.stopped_app", directory, environment) as server:
        sliced, plain = (server.client.get(f"/start/{action}").text for action in ("sliced", "plain"))
        deadline = time.monotonic() + PATIENCE
        while not all(len(done(directory, action)) >= 5 for action in ("sliced", "plain")):
            assert time.monotonic() < deadline, server.tail()
            with suppress(OSError):  # the last free worker may have begun the second job
                server.client.get("/ready", timeout=0.2)  # a process delivers jobs from its first request on
        assert server.process is not None
        (os.killpg if stop.to_all else os.kill)(server.process.pid, stop.number)
        told = time.monotonic()
        before = len(done(directory, "sliced"))
        assert before < count
        assert len(done(directory, "plain")) < count // 2
        if not stop.stays:
            server.process.wait(PATIENCE)
        seconds = time.monotonic() - told
        handed_over = len(done(directory, "sliced"))
        server.start()
        with closing(open_store(store_url(directory))) as store:
            rows, report = ended(store, sliced, server), ended(store, plain, server)
        total = time.monotonic() - told
    print(
        f"{stop}: {'stays up' if stop.stays else f'ended after {seconds:.1f} s'}, {before} of {count} items at the signal, "
        f"{handed_over} at its end, {rows.run} runs, all over after {total:.1f} s"
    )
    return rows, report


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(stop, id=stop.name, marks=pytest.mark.slow if stop.is_usual else pytest.mark.nightly)
        for stop in STOPS
    ],
)
def test_a_job_in_slices_continues_in_the_next_process_and_a_plain_one_ends_first(stop: Stop, tmp_path: Path) -> None:
    rows, report = stopped_and_started_again(stop, tmp_path, ITEMS)
    items, plain_items = done(tmp_path, "sliced"), done(tmp_path, "plain")
    if stop.kills:
        assert {job.status for job in (rows, report)} == {Status.FAILED}
        assert {job.status_text for job in (rows, report)} == {DEAD}
        return
    assert (rows.status, report.status) == (Status.COMPLETED, Status.COMPLETED), (rows, report)
    assert [item for item, _ in items] == list(range(ITEMS))
    assert [item for item, _ in plain_items] == list(range(ITEMS // 2))
    assert len({pid for _, pid in items}) == 2
    assert len({pid for _, pid in plain_items}) == 1
    assert {str(entry["reason"]) for entry in history_of(rows)} == {"continued"}
    assert (rows.run >= 2, report.run) == (True, 1)
    if stop.is_noticed:
        assert rows.run == 2


@pytest.mark.nightly
@pytest.mark.parametrize("stop", IMPATIENT, ids=str)
def test_a_plain_job_that_outlasts_the_stop_ends_failed_and_one_in_slices_continues(stop: Stop, tmp_path: Path) -> None:
    rows, report = stopped_and_started_again(stop, tmp_path, MORE_ITEMS, BACKJOB_DRAIN_TIME="1", BACKJOB_RUN_LEASE="3")
    assert (report.status, report.status_text, report.run) == (Status.FAILED, DEAD, 1)
    assert rows.status is Status.COMPLETED, rows
    assert [item for item, _ in done(tmp_path, "sliced")] == list(range(MORE_ITEMS))
    assert len({pid for _, pid in done(tmp_path, "plain")}) == 1
