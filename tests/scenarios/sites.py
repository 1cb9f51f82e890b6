"""A scenario site on a real server, with access to the jobs in its store."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from attrs import frozen

from backjob import BackJob, JobState
from backjob.clock import SystemClock
from backjob.model import Request
from backjob.protocols import Grant
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from tests.brokers import Place
from tests.scenarios.client import WAIT, Client, Gate, Held, Page
from tests.scenarios.servers import Kind, Server, running

__all__ = ["KEY", "STREAMS", "Site", "jobs_at", "result_of", "serving", "settings", "store_url"]

KEY: Final = "the scenarios' own secret, 5a1c0f7e93b24d68"

STREAMS: Final = 2
"""The limit of event streams for each process of the shared sites."""


def settings(directory: Path) -> dict[str, str]:
    """Environment variables for the processes of a site whose jobs are in this directory."""
    return {
        "BACKJOB_STORE": store_url(directory),
        "BACKJOB_KEY": KEY,
        "SCENARIO_RUNS": str(directory / "runs"),
    }


@contextmanager
def serving(kind: Kind, app: str, directory: Path, **more: str) -> Iterator[Site]:
    """Run a site during the block: an app (``module:name`` in `apps`) on a server, with further settings."""
    environment = settings(directory) | more
    with running(kind, f"tests.scenarios.apps.{app}", directory, environment) as server, jobs_at(directory) as jobs:
        yield Site(server, jobs, directory, app)


def store_url(directory: Path) -> str:
    """The URL of the store in this directory."""
    return f"sqlite:///{directory / 'jobs.db'}"


def jobs_at(directory: Path, transport: Any = None, **options: Any) -> BackJob:
    """A `BackJob` that shares the store of the site in this directory. Without a transport it can't deliver jobs."""
    transport = transport or SocketTransport("http://127.0.0.1:9")
    return BackJob(open_store(store_url(directory)), transport, MessageSigner(KEY), **options)


def result_of(state: JobState) -> Any:
    """A job's result, untyped because each test knows its shape."""
    return state.result


@frozen
class Site:
    """A running site: ``client`` requests its pages, ``jobs`` reads its jobs. ``app`` is the app's name in `apps`, if it
    is one of those. ``place`` is where Celery gets its jobs, if it carries them.
    """

    server: Server
    jobs: BackJob
    directory: Path
    app: str = ""
    place: Place | None = None

    @property
    def custom_verb_error(self) -> str | None:
        """The status text of a job with a custom method if the server or framework refuses it; else None."""
        if not self.kind.verbs:
            return "400 may mean a server that refuses the method (httptools: custom verbs"
        return "405 Method Not Allowed" if self.app.startswith("litestar_app") else None

    @property
    def kind(self) -> Kind:
        return self.server.kind

    @property
    def client(self) -> Client:
        return self.server.client

    def start(self, path: str, query: Mapping[str, Any] | None = None, **options: Any) -> str:
        """The id of a job that the site starts; for the options see `started`."""
        return str(self.started(path, query, **options)["id"])

    def started(
        self,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        visitor: Mapping[str, str] | None = None,
        source: str | None = None,
        mount: str = "",
        **options: Any,
    ) -> Any:
        """Let the site start a job with these arguments of ``start()``, for a visitor with these headers and address.

        Returns the response: ``id``, ``url`` (which may cancel the job) and ``pid`` of the process.
        """
        body = json.dumps({"path": path, "query": query, **options}).encode()
        page = self.client.request("POST", f"{mount}/start", headers=visitor, body=body, source=source)
        assert page.status == 202, page.text
        return page.json()

    def refused(self, path: str, **options: Any) -> Any:
        """The name (``error``) and ``text`` of the exception that ``start()`` raises on the site."""
        page = self.client.request("POST", "/start", body=json.dumps({"path": path, **options}).encode())
        assert page.status == 400, page.text
        return page.json()

    def run(self, path: str, query: Mapping[str, Any] | None = None, **options: Any) -> JobState:
        """Start a job and wait for its end."""
        return self.end(self.start(path, query, **options))

    def steps(self, *steps: list[Any], **options: Any) -> JobState:
        """Run a job that calls these methods. A step is a name, then arguments; a dict at its end has keyword arguments."""
        named = [
            [step[0], step[1:-1], step[-1]] if isinstance(step[-1], dict) else [step[0], step[1:], {}] for step in steps
        ]
        return self.run("/work/steps", {"steps": json.dumps(named)}, **options)

    def end(self, job_id: str) -> JobState:
        """Wait for a job's end."""
        return self.jobs.join(job_id, WAIT)

    def until(self, job_id: str, is_satisfied: Callable[[JobState], bool]) -> JobState:
        """Poll a job until its state satisfies the condition."""
        deadline = time.monotonic() + WAIT
        while not is_satisfied(state := self.jobs.status(job_id)):
            assert time.monotonic() < deadline, state
            time.sleep(0.01)
        return state

    def text(self, job_id: str) -> str:
        """A job's whole output."""
        return self.jobs.output(job_id).text

    def disconnected(self, path: str, gate: Gate) -> tuple[str, Held]:
        """A job whose client has disconnected while the action runs, and the action at its gate."""
        target = f"{path}?gate={gate.port}"
        job_id = self.start(target, delay=3600, as_current_user=False)
        now = int(SystemClock().now().timestamp())
        request = self.jobs.signer.sign(Request("GET", target), Grant(job_id, 1, 1, now, now + 60))
        assert isinstance(self.client.address, tuple)
        with socket.create_connection(self.client.address) as connection:
            connection.sendall(f"GET {request.target} HTTP/1.1\r\nHost: shop.example\r\n\r\n".encode())
            action = gate.reached()
        # Once the server has served another request, it has noticed the disconnect.
        self.page("/ready")
        return job_id, action

    def page(self, path: str, query: Mapping[str, Any] | None = None, **options: Any) -> Page:
        """The response to a GET."""
        return self.client.get(f"{path}?{urlencode(query)}" if query else path, **options)

    def runs(self, job_id: str) -> int:
        """How often an action ran for this job."""
        file = self.directory / "runs"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return sum(line.split()[0] == job_id for line in lines)
