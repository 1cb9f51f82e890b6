"""Threads, descriptors and requests in flight stay bounded while a real server runs many jobs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest

from backjob import BackJob, Status
from backjob.model import Response
from backjob.protocols import Delivery
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.scenarios.client import WAIT
from tests.scenarios.sites import KEY

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

JOBS: Final = 60
AT_ONCE: Final = 12
THREADS: Final = ["backjob-leases", "backjob-monitor", "backjob-sockets"]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = False
    request_queue_size = 128


class Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Tests print nothing."""


class Watched:
    """A store that records which threads call it."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store
        self.callers: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not callable(method):
            return method

        def call(*arguments: Any, **options: Any) -> Any:
            self.callers.add(threading.current_thread().name)
            return method(*arguments, **options)

        return call


@contextmanager
def served(jobs: BackJob, app: Any, server: Server) -> Iterator[None]:
    server.set_app(BackJobMiddleware(app, jobs))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="server")
    thread.start()
    try:
        yield
    finally:
        jobs.close()
        server.shutdown()
        thread.join(WAIT)
        server.server_close()


def backjob_threads() -> list[str]:
    """All but the idle threads for calls, which an earlier test's event loop may have left."""
    names = sorted(thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith("backjob") and not name.startswith("backjob-call")]


def eventually(is_true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count of names


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_three_threads_serve_any_number_of_jobs_and_leave_nothing_behind(tmp_path: Path) -> None:
    before, threads_before = descriptors(), threading.active_count()
    thread_sets: set[tuple[str, ...]] = set()
    reached, released = threading.Semaphore(0), threading.Event()
    in_flight, most, counting = 0, 0, threading.Lock()

    def action(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal in_flight, most
        with counting:
            in_flight += 1
            most = max(most, in_flight)
        thread_sets.add(tuple(backjob_threads()))
        print("running")
        jobs.update(50)
        reached.release()
        released.wait(WAIT)
        with counting:
            in_flight -= 1
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    server = Server(("127.0.0.1", 0), Silent)
    store = Watched(SQLiteStore(tmp_path / "jobs.db"))
    watched: Any = store
    transport = SocketTransport(f"http://127.0.0.1:{server.server_port}", max_in_flight=AT_ONCE)
    jobs = BackJob(watched, transport, MessageSigner(KEY), max_running=JOBS)
    assert backjob_threads() == []
    with served(jobs, action, server):
        with ThreadPoolExecutor(8, thread_name_prefix="visitor") as visitors:
            ids = list(
                visitors.map(lambda n: jobs.start("/work", {"n": n}, as_current_user=False), range(JOBS), timeout=WAIT)
            )
            # The transport is at its capacity, and no action has ended: the other jobs wait in the store.
            assert all(reached.acquire(timeout=WAIT) for _ in range(AT_ONCE))
            assert len(jobs.find(status=Status.IN_PROGRESS, limit=JOBS)) == AT_ONCE
            assert len(jobs.find(status=Status.STARTED, limit=JOBS)) == JOBS - AT_ONCE
            assert backjob_threads() == THREADS
            released.set()
            assert {jobs.join(job_id, WAIT).status for job_id in ids} == {Status.COMPLETED}
        assert backjob_threads() == THREADS
    assert most == AT_ONCE
    assert thread_sets == {tuple(THREADS)}
    assert "backjob-monitor" in store.callers
    assert "backjob-sockets" not in store.callers
    assert eventually(lambda: backjob_threads() == [])
    assert eventually(lambda: threading.active_count() <= threads_before)
    assert eventually(lambda: descriptors() <= before), (before, descriptors())


class Stuck:
    """A transport whose `send` blocks until it is closed."""

    capacity = None
    in_process = True

    def __init__(self) -> None:
        self.called = threading.Event()
        self._end = threading.Event()

    def send(self, delivery: Delivery) -> Future[Response]:
        self.called.set()
        self._end.wait(WAIT)
        future: Future[Response] = Future()
        future.cancel()
        return future

    def close(self) -> None:
        self._end.set()


def test_start_does_not_wait_for_the_network_or_the_monitor() -> None:
    transport = Stuck()
    jobs = BackJob(MemoryStore(), transport, MessageSigner(KEY))
    try:
        first = jobs.start("/work", as_current_user=False)
        assert transport.called.wait(WAIT)
        # `send` blocks the monitor's thread, but no caller of start().
        with ThreadPoolExecutor(1) as visitor:
            others = visitor.submit(lambda: [jobs.start("/work", as_current_user=False) for _ in range(20)])
            assert len({first, *others.result(WAIT / 2)}) == 21
        assert {state.status for state in jobs.find()} == {Status.STARTED}
    finally:
        transport.close()
        jobs.close()
