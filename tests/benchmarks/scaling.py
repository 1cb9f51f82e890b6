"""How many jobs a second several processes run that share a store, and how much processor time a job takes in each part.

Each process is a gunicorn of its own, like a host's: it starts its part of the jobs, which do nothing, and all processes run them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from backjob import Status
from backjob.model import Query
from backjob.protocols import Store
from backjob.stores import open_store
from tests.benchmarks.metered import MeteredStore, busy_time, processor_time
from tests.scenarios.client import Client, wait_until
from tests.scenarios.sites import KEY

__all__ = ["RunningSite", "Throughput", "measure", "site"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_TIMEOUT: Final = 120.0
_PLACES: Final = 8
_THREADS: Final = 16


@frozen
class Throughput:
    """``rate`` is in jobs a second; ``in_processes`` and ``in_store`` are the processor time (s) of one job in each.

    ``free`` is how many processors other programs of this machine left.
    """

    processes: int
    rate: float
    in_processes: float
    in_store: float
    free: float

    @property
    def cores(self) -> float:
        """How many processors were busy with it."""
        return self.rate * (self.in_processes + self.in_store)


def measure(store: MeteredStore, processes: int, jobs: int, directory: Path) -> Throughput:
    """Run so many jobs, started at once, in so many processes."""
    with ExitStack() as stack:
        sites = [stack.enter_context(site(store.url, directory)) for _ in range(processes)]
        opened = stack.enter_context(closing(open_store(store.url)))
        pool = stack.enter_context(ThreadPoolExecutor(processes))
        _run(sites, opened, pool, 40 * processes)  # connects, proves the addresses, fills caches
        pids = [pid for site in sites for pid in site.pids()]
        in_processes, in_store = -sum(processor_time([pid]) for pid in pids), -store.processor_time()
        elsewhere, took = time.process_time() - busy_time(), -time.monotonic()
        ids = _run(sites, opened, pool, jobs)
        elsewhere, took = elsewhere + busy_time() - time.process_time(), took + time.monotonic()
        in_processes += sum(processor_time([pid]) for pid in pids)
        in_store += store.processor_time()
        rate = _rate(opened, ids)
    free = (os.cpu_count() or 1) - (elsewhere - in_processes - in_store) / took
    return Throughput(processes, rate, in_processes / jobs, in_store / jobs, free)


@frozen
class RunningSite:
    """A process of the site."""

    client: Client
    process: subprocess.Popen[bytes]

    def pids(self) -> list[int]:
        """The worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        return [int(pid) for pid in children.split()]

    def start(self, count: int) -> list[str]:
        page = self.client.get(f"/start?count={count}", timeout=_TIMEOUT)
        assert page.status == 200, page.text
        return page.text.split()


def _run(sites: list[RunningSite], store: Store, pool: ThreadPoolExecutor, jobs: int) -> list[str]:
    """Start jobs in all processes at once, and wait until they have ended. Returns their ids."""
    each = jobs // len(sites)
    ids = [job_id for started in pool.map(lambda site: site.start(each), sites) for job_id in started]
    left, pause, deadline = list(ids), threading.Event(), time.monotonic() + _TIMEOUT
    while left:
        job = store.get(left[-1])
        assert job is not None
        if job.status.is_final:
            left.pop()
            continue
        assert time.monotonic() < deadline, f"{len(left)} jobs have not ended"
        pause.wait(0.05)
    return ids


def _rate(store: Store, ids: list[str]) -> float:
    """How many of these jobs, the newest ones, ended in a second, from the first start to the last end."""
    ended = store.find(Query(limit=len(ids)))
    assert {job.status for job in ended} == {Status.COMPLETED}
    assert {job.id for job in ended} == set(ids)
    begin = min(job.created_time for job in ended)
    end = max(job.end_time for job in ended if job.end_time is not None)
    return len(ids) / (end - begin).total_seconds()


@contextmanager
def site(url: str, directory: Path) -> Iterator[RunningSite]:
    """Run a process of the site during the block. It has had one request."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening, (directory / "log").open("ab") as log:
        command = [sys.executable, "-m", "gunicorn", "--bind", f"fd://{listening.fileno()}", "--no-control-socket"]
        command += ["--worker-class", "gthread", "--threads", str(_THREADS), "tests.benchmarks.plain_app:app"]
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={
                # Variables of the benchmarks are no settings of the site.
                **{name: value for name, value in os.environ.items() if not name.startswith("BACKJOB_")},
                "BACKJOB_STORE": url,
                "BACKJOB_KEY": KEY,
                "BACKJOB_MAX_RUNNING": str(_PLACES),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )
        try:
            client = Client(("127.0.0.1", listening.getsockname()[1]))
            wait_until(lambda: client.get("/ready").status == 200)
            yield RunningSite(client, process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
