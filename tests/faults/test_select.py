"""waitress waits with select(), which can't watch a file descriptor from 1024 on: no number of jobs ends the server."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from waitress.server import create_server

from backjob import BackJob, Status
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.scenarios.client import WAIT
from tests.scenarios.sites import KEY

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

JOBS: Final = 5000
ENDED: Final = 500


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """A limit of descriptors that is above those that select() can watch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("needs 4096 file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="counts descriptors in /dev/fd")
@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize(
    "opened", [pytest.param(0, marks=pytest.mark.nightly), 470], ids=["few descriptors open", "descriptors scarce"]
)
def test_a_view_that_starts_five_thousand_jobs_leaves_waitress_running(opened: int) -> None:
    highest = 0

    jobs: BackJob

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal highest
        highest = max(highest, *map(int, os.listdir("/dev/fd")))  # noqa: PTH208 - a list of numbers
        if environ["PATH_INFO"] == "/many":
            for _ in range(JOBS):
                jobs.start("/work", as_current_user=False)
        elif environ["PATH_INFO"] == "/work":
            time.sleep(0.002)  # longer than to send the next one, so that connections pile up
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    made: list[BackJobMiddleware] = []

    def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return made[0](environ, start_response)

    server: Any = create_server(site, host="127.0.0.1", port=0, threads=4)
    url = f"http://127.0.0.1:{server.effective_port}"
    jobs = BackJob(MemoryStore(), SocketTransport(url), MessageSigner(KEY), max_running=JOBS)
    made.append(BackJobMiddleware(app, jobs))

    def serve() -> None:
        with contextlib.suppress(OSError):  # its sockets are closed while it waits; select() raises ValueError
            server.run()

    thread = threading.Thread(target=serve, name="waitress")
    with contextlib.ExitStack() as stack:
        # Other tests of this process may have left some open.
        for _ in range(opened - len(os.listdir("/dev/fd"))):  # noqa: PTH208 - a count
            stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        thread.start()
        try:
            assert _get(server.effective_port, "/many", 4 * WAIT) == 200
            deadline = time.monotonic() + 3 * WAIT
            while len(jobs.find(status=Status.COMPLETED, limit=ENDED)) < ENDED:
                assert _get(server.effective_port, "/page") == 200
                assert time.monotonic() < deadline
            assert thread.is_alive()
        finally:
            jobs.close()
            server.close()
            thread.join(WAIT)
    assert 100 < highest < 1024


def _get(port: int, path: str, patience: float = WAIT) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status
