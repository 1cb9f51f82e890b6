"""Killed, reloaded and forked processes: no job is lost, and none runs twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest

from backjob import BackJob, JobState, Status
from backjob.jobs import engine_of
from backjob.process import PerProcess
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.testing import FakeClock
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.scenarios.apps.plain import site_of
from tests.scenarios.client import WAIT, Gate
from tests.scenarios.servers import KINDS, Kind, gunicorn
from tests.scenarios.sites import KEY, Site, result_of, serving, settings, store_url
from tests.unit.core import ManualMonitor

ANN = {"Cookie": "user=ann"}


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


# --- the accepting process ------------------------------------------------------------------------------------------


class Survivor:
    """Another process of the site, simulated in this one with a fake clock and a manual monitor."""

    def __init__(self, directory: Path, port: int, now: FakeClock, *, seal: bool) -> None:
        self.clock = now
        self.jobs = BackJob(
            open_store(store_url(directory), clock=now),
            SocketTransport(f"http://127.0.0.1:{port}", clock=now),
            MessageSigner(KEY),
            clock=now,
            seal=seal,
        )
        engine = engine_of(self.jobs)
        engine.monitors = PerProcess(lambda: ManualMonitor(engine.delivery_parts))

    def poll(self) -> None:
        """Run a pass of the monitor that polls the store."""
        self.clock.advance(2)
        engine_of(self.jobs).monitor.step()

    def has_lease(self, job_id: str) -> bool:
        """Whether this process has the lease of a job."""
        job = self.jobs.store.get(job_id)
        return job is not None and job.lessee == engine_of(self.jobs).monitor.lessee

    def end(self, job_id: str) -> JobState:
        """Run the monitor until a job has ended."""
        deadline = time.monotonic() + WAIT
        while True:
            engine_of(self.jobs).monitor.step()
            state = self.jobs.status(job_id)
            if state.status.is_final:
                return state
            assert time.monotonic() < deadline, state
            time.sleep(0.01)


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = False


class Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Tests print nothing."""


@contextmanager
def survivor_of(directory: Path, job_id: str, *, seal: bool = False) -> Iterator[Survivor]:
    """A process that starts just before the dead process's lease of a job expires."""
    with closing(open_store(store_url(directory))) as store:
        job = store.get(job_id)
    assert job is not None
    assert job.lease_until is not None
    server = Server(("127.0.0.1", 0), Silent)
    survivor = Survivor(directory, server.server_port, FakeClock(job.lease_until - timedelta(seconds=3)), seal=seal)
    server.set_app(BackJobMiddleware(site_of(survivor.jobs), survivor.jobs))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield survivor
    finally:
        survivor.jobs.close()
        server.shutdown()
        thread.join(WAIT)
        server.server_close()


@contextmanager
def nowhere() -> Iterator[dict[str, str]]:
    """Settings with which an application connects to a socket that never responds, instead of itself."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        yield {"BACKJOB_BASE_URL": "http://shop.example", "BACKJOB_CONNECT_TO": f"127.0.0.1:{port}"}


def start_and_die(directory: Path, *, seal: bool = False, **options: Any) -> str:
    """Have a process accept a job, and kill it before it can deliver."""
    sealed = {"BACKJOB_SEAL": "yes"} if seal else {}
    with nowhere() as address, serving(KINDS["waitress"], "plain_app:app", directory, **address, **sealed) as site:
        job_id = site.start("/work/see", {"a": 1}, visitor=ANN, **options)
        site.server.kill()
    return job_id


def test_another_process_delivers_an_anonymous_job_when_the_killed_ones_lease_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCENARIO_RUNS", str(tmp_path / "runs"))
    job_id = start_and_die(tmp_path, as_current_user=False)
    with survivor_of(tmp_path, job_id) as survivor:
        survivor.poll()
        assert survivor.jobs.status(job_id).status is Status.STARTED
        assert not survivor.has_lease(job_id)
        survivor.poll()
        state = survivor.end(job_id)
    assert state.status is Status.COMPLETED
    assert (tmp_path / "runs").read_text() == f"{job_id} see\n"


@pytest.mark.slow
def test_a_killed_process_fails_its_jobs_as_the_current_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENARIO_RUNS", str(tmp_path / "runs"))
    job_id = start_and_die(tmp_path)
    with survivor_of(tmp_path, job_id) as survivor:
        survivor.poll()
        assert survivor.jobs.status(job_id).status is Status.STARTED
        assert not survivor.has_lease(job_id)
        survivor.poll()
        assert survivor.has_lease(job_id)
        for _ in range(8):  # the grace period: the accepting process might still have the credentials
            survivor.poll()
        state = survivor.end(job_id)
    assert state.status is Status.FAILED
    assert "credentials" in state.status_text
    assert "seal=True" in state.status_text
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_another_process_delivers_a_job_with_sealed_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCENARIO_RUNS", str(tmp_path / "runs"))
    job_id = start_and_die(tmp_path, seal=True)
    assert not any(b"user=ann" in file.read_bytes() for file in tmp_path.glob("jobs.db*"))
    with survivor_of(tmp_path, job_id, seal=True) as survivor:
        survivor.poll()
        survivor.poll()
        state = survivor.end(job_id)
    assert state.status is Status.COMPLETED
    assert result_of(state)["headers"]["cookie"] == "user=ann"


@pytest.mark.slow
@pytest.mark.parametrize("survives", [True, False])
def test_the_process_that_joined_a_waiting_job_can_deliver_it(tmp_path: Path, survives: bool) -> None:
    (tmp_path / "second").mkdir()
    arguments: Any = {"visitor": ANN, "merge": "pending"}
    with (
        serving(KINDS["waitress"], "plain_app:app", tmp_path) as first,
        serving(KINDS["waitress"], "plain_app:app", tmp_path / "second", **settings(tmp_path)) as second,
    ):
        job_id = first.start("/work/see", **arguments, delay=600)
        if not survives:
            first.server.kill()
        assert second.start("/work/see", **arguments) == job_id
        # Within 10 s, although the first process notices the new time only when it renews its lease.
        state = first.jobs.join(job_id, 10)
        assert (state.status, first.runs(job_id)) == (Status.COMPLETED, 1)
        assert result_of(state)["headers"]["cookie"] == ANN["Cookie"]


# --- workers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gunicorn-sync", "gunicorn-sync-2"])
@pytest.mark.slow
def test_a_job_whose_worker_is_killed_fails_and_the_site_goes_on(tmp_path: Path, gate: Gate, kind: str) -> None:
    with serving(KINDS[kind], "plain_app:app", tmp_path, BACKJOB_RUN_LEASE="2") as site:
        job_id = site.start("/work/hold", {"gate": gate.port})
        action = gate.reached()
        os.kill(action.pid, signal.SIGKILL)
        assert action.left() == ""
        # Each process looks after the jobs of others from its first request on.
        state = site.until(job_id, lambda state: state.status.is_final or site.client.get("/ready").status != 200)
        assert (state.status, state.status_text) == (Status.FAILED, "the process that ran it ended")
        assert site.runs(job_id) == 1
        assert site.run("/work/none").status is Status.COMPLETED


@pytest.mark.slow
def test_a_worker_that_its_server_stops_fails_its_job(tmp_path: Path, gate: Gate) -> None:
    kind = Kind(
        name="gunicorn --timeout", command=gunicorn("--workers=1", "--timeout=5")
    )  # s, which no other request takes
    with serving(kind, "plain_app:app", tmp_path) as site:
        job_id = site.start("/work/hold", {"gate": gate.port})
        action = gate.reached()
        assert action.left() == "SystemExit"
        state = site.end(job_id)
        assert (state.status, state.status_text) == (Status.FAILED, "SystemExit: 1")
        assert site.run("/work/none").status is Status.COMPLETED
        assert site.started("/work/none")["pid"] != action.pid


@pytest.mark.slow
def test_a_running_job_survives_a_graceful_reload(tmp_path: Path, gate: Gate) -> None:
    kind = Kind(name="gunicorn", command=gunicorn("--workers=1", "--graceful-timeout=30"))
    with serving(kind, "plain_app:app", tmp_path) as site:
        job_id = site.start("/work/hold", {"gate": gate.port})
        action = gate.reached()
        site.server.process.send_signal(signal.SIGHUP)
        # The new worker responds while the old one still runs the job.
        assert site.client.get("/ready").status == 200
        assert site.jobs.status(job_id).status is Status.IN_PROGRESS
        assert action.release() == "returned"
        assert (site.end(job_id).status, site.runs(job_id)) == (Status.COMPLETED, 1)
        assert site.run("/work/none").status is Status.COMPLETED


# --- forks ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_workers_forked_from_a_preloaded_application_start_jobs(tmp_path: Path, worker: str) -> None:
    kind = Kind(name="preload", command=gunicorn("--workers=2", "--preload", f"--worker-class={worker}"))
    with serving(kind, "plain_app:app", tmp_path) as site:
        ids = [site.start("/work/see", {"n": n}, visitor=ANN) for n in range(10)]
        assert {site.end(job_id).status for job_id in ids} == {Status.COMPLETED}
        assert {site.runs(job_id) for job_id in ids} == {1}


def test_workers_forked_after_a_job_was_started_start_jobs(tmp_path: Path) -> None:
    kind = Kind(name="preload", command=gunicorn("--workers=2", "--preload"), address="configured")
    with serving(kind, "early_app:app", tmp_path) as site:
        ids = [site.start("/work/none", {"n": n}, visitor=ANN) for n in range(10)]
        (early,) = site.jobs.find(scope="early")
        ids.append(early.id)
        assert {site.end(job_id).status for job_id in ids} == {Status.COMPLETED}
        assert {site.runs(job_id) for job_id in ids} == {1}


@pytest.mark.slow
def test_parent_and_child_both_start_jobs_after_a_fork(tmp_path: Path) -> None:
    program = """
import os, sys
from tests.scenarios.apps.plain import make_jobs

jobs = make_jobs()

def run():
    return jobs.join(jobs.start("/work/none", as_current_user=False), 30).status.name

results = [run()]
child = os.fork()
if child == 0:
    os._exit(0 if run() == "COMPLETED" else 1)
results += [run(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), run()]
jobs.close()
print(*results)
"""
    with serving(KINDS["waitress"], "plain_app:app", tmp_path) as site:
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
            env={**os.environ, **settings(tmp_path), "BACKJOB_BASE_URL": base_url(site)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=WAIT * 2,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("COMPLETED COMPLETED 0 COMPLETED\n", "")
        assert {site.runs(state.id) for state in site.jobs.find()} == {1}


def base_url(site: Site) -> str:
    assert isinstance(site.client.address, tuple)
    return "http://{}:{}".format(*site.client.address)
