"""Two hosts of one site, each a server of one process, that share a store: one suffers a fault, the other judges it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from attrs import frozen

from backjob import BackJob, Status
from backjob.model import Job
from backjob.protocols import Store
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from tests.scenarios.client import Gate, Held
from tests.scenarios.servers import KINDS, Kind, running
from tests.scenarios.sites import KEY, Site

__all__ = ["LEASE", "Hosts", "by_port", "hosts", "proceed", "stop"]

LEASE: Final = 6.0
"""The run lease of the usual runs: a third of the default, so all times are a third, too."""


@frozen
class Hosts:
    """``first`` and ``second`` run; files in ``faults`` switch faults on, see `tests.faults.host_app`."""

    first: Site
    second: Site
    directory: Path
    lease: float

    @property
    def store(self) -> Store:
        return self.second.jobs.store

    @property
    def faults(self) -> Path:
        return self.directory / "faults"

    def job(self, job_id: str) -> Job:
        job = self.store.get(job_id)
        assert job is not None
        return job

    def hold(self, gate: Gate, path: str = "/work/hold", *, on: Site | None = None, **more: object) -> tuple[str, Held]:
        """Start a job on a host, by default the first, and wait until its action is at the gate there."""
        site = on or self.first
        query = {"gate": gate.port, **{name: value for name, value in more.items() if name in ("seconds", "quietly")}}
        options = {name: value for name, value in more.items() if name not in query}
        job_id = site.start(path, query, as_current_user=False, **options)
        action = gate.reached()
        assert action.pid == site.server.process.pid
        return job_id, action

    def observe(self, seconds: float, check: Callable[[], object]) -> None:
        """Let a fault last for so many seconds, and check a promise all the time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            check()
            time.sleep(0.1)  # how long it lasts is the fault itself

    def until(self, is_satisfied: Callable[[], object], patience: float = 90) -> None:
        """Wait until a condition is true."""
        deadline = time.monotonic() + patience
        while not is_satisfied():
            assert time.monotonic() < deadline, self.first.server.tail() + self.second.server.tail()
            time.sleep(0.05)

    def works_again(self) -> None:
        """Wait until the first host runs jobs again: its connections to the store may turn out to be dead one by one."""
        ids = list[str]()

        def starts() -> bool:
            with suppress(AssertionError):
                ids.append(self.first.start("/work/none", as_current_user=False))
            return bool(ids)

        self.until(starts)
        assert self.second.end(ids[0]).status is Status.COMPLETED

    def has_ended(self, job_id: str) -> bool:
        return self.job(job_id).status.is_final

    def ends(self, job_id: str) -> list[str]:
        """What ``on_end`` was called with for this job, once it was called at least once."""
        file = self.directory / "ends"

        def found() -> list[str]:
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            return [line.split()[1] for line in lines if line.startswith(job_id)]

        self.until(found)
        return found()


def stop(*sites: Site) -> None:
    """Stop processes as the system does when it swaps or a machine is suspended."""
    for site in sites:
        os.kill(site.server.process.pid, signal.SIGSTOP)


def proceed(*sites: Site) -> None:
    """Let stopped processes run on."""
    for site in sites:
        os.kill(site.server.process.pid, signal.SIGCONT)


def by_port(url: str, port: int) -> str:
    """The same URL of a store with another port on this host."""
    parts = urlsplit(url)
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return parts._replace(netloc=f"{user}127.0.0.1:{port}").geturl()


@contextmanager
def hosts(
    directory: Path,
    store_url: str | None = None,
    first_url: str | None = None,
    *,
    lease: float = LEASE,
    kind: Kind = KINDS["waitress"],
    **more: str,
) -> Iterator[Hosts]:
    """Two running hosts. ``first_url`` is how the first reaches the store."""
    url = store_url or f"sqlite:///{directory / 'jobs.db'}"
    (directory / "faults").mkdir()
    settings = {
        "BACKJOB_KEY": KEY,
        "BACKJOB_RUN_LEASE": str(lease),
        "SCENARIO_RUNS": str(directory / "runs"),
        "HOST_FAULTS": str(directory / "faults"),
        "HOST_ENDS": str(directory / "ends"),
        "HOST_DISPATCHED": str(directory / "dispatched"),
        **more,
    }
    with ExitStack() as stack:
        sites = []
        for name, own_url, own_kind in (("first", first_url or url, kind), ("second", url, KINDS["waitress"])):
            (directory / name).mkdir()
            environment = {**settings, "BACKJOB_STORE": own_url}
            server = stack.enter_context(running(own_kind, "tests.faults.host_app:app", directory / name, environment))
            jobs = stack.enter_context(
                BackJob(open_store(url), SocketTransport("http://127.0.0.1:9"), MessageSigner(KEY))
            )
            sites.append(Site(server, jobs, directory))
        yield Hosts(sites[0], sites[1], directory, lease)
