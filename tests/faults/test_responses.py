"""Invalid and unusual responses: every delivery gets a clear outcome, and all threads survive."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from backjob import BackJob, JobState, Status
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing.transports import Call, Peer
from backjob.transports.sockets import SocketTransport
from tests.scenarios.client import WAIT
from tests.scenarios.sites import KEY

UNCLAIMED: Final = (
    "answered, but the middleware did not claim the job: is it installed, or does a login page answer first?"
)

# Not a complete response: backjob delivers the job again.
LOST: Final = {
    "nothing": b"",
    "garbage": b"\0\xff" * 500,
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a status line": b"HTTP/1.",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "a header past the limit": b"HTTP/1.1 200 OK\r\n" + b"X-Again: and again\r\n" * 10_000,
    "a line past the limit": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    "only informational": b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a status that is no number": b"HTTP/1.1 OK 200\r\n\r\n",
}

# A complete response: the job ends with the status line in its text.
COMPLETE: Final = {
    "HTTP/1.0, to the end": (b"HTTP/1.0 500 Oops\r\n\r\nbody", "500 Internal Server Error"),
    "no reason phrase": (b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", "404 Not Found"),
    "informational first": (b"HTTP/1.1 103 Hint\r\n\r\nHTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n", "403 Forbidden"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", "200 OK"),
    "a redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
        "302 Found → /login",
    ),
    "a body past the limit": (b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000, "200 OK"),
    "an unregistered status": (b"HTTP/1.1 299 Sort of\r\nContent-Length: 0\r\n\r\n", "299 Sort of"),
}


class Trusting(SocketTransport):
    """A transport to a server without the middleware, which can't prove anything."""

    in_process = True


class Worker:
    """A server that sends ``response`` to the first delivery of a job, and 418 to the next ones."""

    def __init__(self) -> None:
        self.response = b""
        self.calls: Counter[str] = Counter()
        self.peer = Peer(self._script)

    def _script(self, call: Call) -> bytes:
        path = call.target.partition("?")[0]
        self.calls[path] += 1
        if self.calls[path] == 1:
            return self.response
        return b"HTTP/1.1 418 I'm a Teapot\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    with worker.peer:
        yield worker


others: set[threading.Thread] = set()
"""The threads that an earlier test in this process has left."""


@pytest.fixture(scope="module")
def jobs(worker: Worker) -> Iterator[BackJob]:
    """Shared by all tests: each one shows that the previous one did no lasting damage."""
    others.update(threading.enumerate())
    transport = Trusting(worker.peer.base_url, max_response=65536)
    with BackJob(MemoryStore(), transport, MessageSigner(KEY)) as jobs:
        yield jobs


@pytest.fixture
def threads(jobs: BackJob) -> Iterator[None]:
    """Check that the test leaves the threads alive."""
    run(jobs, "/warm-up")
    before = backjob_threads()
    assert [thread.name for thread in before] == ["backjob-leases", "backjob-monitor", "backjob-sockets"]
    yield
    assert backjob_threads() == before


def backjob_threads() -> list[threading.Thread]:
    """All but the idle threads for calls, which an event loop may have left, and the threads of earlier tests."""
    named = [one for one in threading.enumerate() if one.name.startswith("backjob") and one not in others]
    found = [thread for thread in named if not thread.name.startswith("backjob-call")]
    return sorted(found, key=lambda thread: thread.name)


def run(jobs: BackJob, path: str) -> JobState:
    return jobs.join(jobs.start(path, as_current_user=False), WAIT)


@pytest.mark.parametrize("name", LOST)
def test_an_incomplete_response_is_followed_by_another_attempt(
    jobs: BackJob, worker: Worker, threads: None, name: str
) -> None:
    worker.response = LOST[name]
    path = f"/{name.replace(' ', '-')}"
    state = run(jobs, path)
    assert (state.status, state.status_text) == (Status.FAILED, f"418 I'm a Teapot: {UNCLAIMED}")
    assert worker.calls[path] == 2


@pytest.mark.parametrize("name", COMPLETE)
def test_a_complete_response_without_a_claim_fails_the_job(
    jobs: BackJob, worker: Worker, threads: None, name: str
) -> None:
    worker.response, line = COMPLETE[name]
    path = f"/{name.replace(' ', '-').replace('/', '-')}"
    state = run(jobs, path)
    assert (state.status, state.status_text) == (Status.FAILED, f"{line}: {UNCLAIMED}")
    assert worker.calls[path] == 1
