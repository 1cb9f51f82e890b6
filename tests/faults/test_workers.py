"""Workers, processes that run jobs without a server: told to stop, killed, and restarted by a supervisor."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from attrs import frozen

from backjob import BackJob, JobState, Status
from tests.scenarios.client import Gate
from tests.scenarios.servers import KINDS, Kind, Server, gunicorn, running
from tests.scenarios.sites import jobs_at, settings
from tests.scenarios.with_worker import ONLY_IN_A_WORKER, ROOT, Supervisor, worked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PATIENCE: Final = 60.0
APP: Final = "tests.faults.stopped_app"
LOGGING: Final = Kind(name="gunicorn", command=gunicorn("--worker-class=gthread", "--threads=4", "--access-logfile=-"))
ENDED: Final = "the process that ran it ended"


@frozen
class Site:
    """A web server that delivers no jobs. ``jobs`` reads them, and ``work`` starts a worker."""

    server: Server
    jobs: BackJob
    directory: Path
    environment: dict[str, str]

    def start(self, action: str) -> str:
        return self.server.client.get(f"/start/{action}").text

    def work(self) -> Supervisor:
        options = ["--app", f"{APP}:jobs", "--wsgi", f"{APP}:app"]
        return Supervisor(
            [sys.executable, "-m", "backjob", "worker", *options], self.directory / "worker.log", self.environment
        )

    def done(self, action: str) -> list[int]:
        file = self.directory / "done"
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
        return [int(item) for name, item, _ in lines if name == action]

    def wait_until(self, is_satisfied: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not is_satisfied():
            assert time.monotonic() < until, self.server.tail()
            time.sleep(0.02)

    def end(self, job_id: str) -> JobState:
        return self.jobs.join(job_id, PATIENCE)

    def check_no_worker_request(self) -> None:
        """Check that no worker request has reached the web server, whose access log has all requests."""
        log = self.server.log.read_text(encoding="utf-8")
        assert "GET /start/" in log
        assert "signature" not in log.lower()
        assert "/sliced HTTP" not in log.replace("/start/sliced", "").replace("/start/plain", "")


@contextmanager
def site_in(directory: Path, items: int, options: str = "{}", lease: int = 2) -> Iterator[Site]:
    environment = (
        settings(directory)
        | ONLY_IN_A_WORKER
        | {
            "ITEMS": str(items),
            "DONE": str(directory / "done"),
            "START_OPTIONS": options,
            "BACKJOB_RUN_LEASE": str(lease),
        }
    )
    with running(LOGGING, f"{APP}:app", directory, environment) as server, jobs_at(directory) as jobs:
        yield Site(server, jobs, directory, environment)


def test_a_worker_that_is_told_to_stop_ends_its_jobs_and_hands_over_its_slices(tmp_path: Path) -> None:
    with site_in(tmp_path, items=24, lease=18) as site:  # no lease ends here, even if the machine stalls
        first = site.work()
        plain, sliced = site.start("plain"), site.start("sliced")
        site.wait_until(lambda: len(site.done("plain")) > 2 and len(site.done("sliced")) > 2)
        assert first.stop() == 0
        assert site.jobs.status(plain).status is Status.COMPLETED
        assert site.jobs.status(sliced).status is Status.IN_PROGRESS
        before = len(site.done("sliced"))
        second = site.work()
        state = site.end(sliced)
        assert second.stop() == 0
        assert before < 24
        assert (state.status, state.attempt) == (Status.COMPLETED, 1)
        assert site.done("sliced") == [*range(24)]
        site.check_no_worker_request()


@pytest.mark.nightly
def test_a_second_signal_ends_a_worker_at_once_and_its_job_is_reaped(tmp_path: Path) -> None:
    with site_in(tmp_path, items=2000) as site:
        worker = site.work()
        job_id = site.start("plain")
        site.wait_until(lambda: len(site.done("plain")) > 2)
        worker.signal()
        worker.wait_for_log("stops, and waits at most 25 s for 1 running job")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.ended() == -signal.SIGTERM
        other = site.work()
        state = site.end(job_id)
        assert other.stop() == 0
        assert (state.status, state.status_text) == (Status.FAILED, ENDED)


@pytest.mark.nightly
def test_the_jobs_of_a_killed_worker_run_again_in_the_next_one(tmp_path: Path) -> None:
    with site_in(tmp_path, items=10, options='{"retries": 1, "retry_delay": 0}') as site:
        worker = site.work()
        started = [site.start("plain") for _ in range(8)]  # of 5 items; 4 run at once
        site.wait_until(lambda: len(site.done("plain")) > 2)
        worker.kill()
        states = [site.end(job_id) for job_id in started]
        assert worker.starts == 2
        assert worker.stop() == 0
        assert {state.status for state in states} == {Status.COMPLETED}
        repeated = [state for state in states if state.history]
        assert 1 <= len(repeated) <= 4
        assert all(entry["reason"] == ENDED for state in repeated for entry in state.history)
        assert site.done("plain").count(4) == 8  # the last item: each job has ended once
        site.check_no_worker_request()


def test_a_worker_of_a_queue_runs_its_jobs_and_the_server_those_of_the_others(tmp_path: Path) -> None:
    options = ("--queue", "heavy")
    with worked(KINDS["waitress"], "plain_app", tmp_path, *options, BACKJOB_DELIVER="default") as (site, worker):
        for queue, process in (("heavy", worker.process), ("default", site.server.process)):
            with Gate() as gate:
                job_id = site.start("/work/hold", {"gate": gate.port}, queue=queue, as_current_user=False)
                held = gate.reached()
                assert held.pid == process.pid
                assert held.release() == "returned"
                assert site.end(job_id).status is Status.COMPLETED


BLOCKING: Final = """
import asyncio, os, time
from fastapi import FastAPI
from backjob.asgi import BackJobMiddleware
from tests.scenarios.apps.plain import make_jobs

jobs = make_jobs()
site = FastAPI()

@site.get("/blocked")
async def blocked():
    open(os.environ["DONE"], "w").close()
    await asyncio.to_thread(time.sleep, 100)

app = BackJobMiddleware(site, jobs)
"""


@pytest.mark.nightly
def test_a_thread_that_never_ends_does_not_keep_a_worker_from_ending(tmp_path: Path) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING, encoding="utf-8")
    done = tmp_path / "done"
    environment = settings(tmp_path) | {
        "DONE": str(done),
        "BACKJOB_DRAIN_TIME": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
    }
    options = ["--app", "blocking:jobs", "--asgi", "blocking:app"]
    command = [sys.executable, "-m", "backjob", "worker", *options]
    worker = Supervisor(command, tmp_path / "worker.log", environment)
    with jobs_at(tmp_path, deliver=[]) as jobs:
        job_id = jobs.start("/blocked", as_current_user=False)
        until = time.monotonic() + PATIENCE
        while not done.exists():
            assert time.monotonic() < until, worker.log
            time.sleep(0.02)
        assert worker.stop() == 0
        assert "ends although 1 of its jobs still run" in worker.log
        assert jobs.status(job_id).status is Status.IN_PROGRESS
