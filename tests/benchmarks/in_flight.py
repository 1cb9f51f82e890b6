"""Print the memory that a job in flight takes: ``in_flight.py JOBS DIRECTORY`` prints two numbers of bytes.

The first is the memory that Python allocated (`tracemalloc`, the whole process), the second the resident memory.
The server, in a separate process, accepts connections and never answers.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
import socket
import sys
import threading
import tracemalloc
from multiprocessing.connection import Connection
from pathlib import Path

from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport
from tests.benchmarks.notes import KEY

__all__ = ["main"]

_BACKLOG = 4096
_FIRST = 50
_DEADLINE = 120.0


class _Trusting(SocketTransport):
    """A transport to a server without the middleware, which can't prove anything."""

    in_process = True


def _serve(to_parent: Connection) -> None:
    """Accept connections, read a request from each, and send the number of complete requests to the parent."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listening:
        to_parent.send(listening.getsockname()[1])
        while True:
            connected, _ = listening.accept()
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connected.recv(65536)
            kept.append(connected)
            to_parent.send(len(kept))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def main(jobs_in_flight: int, directory: Path) -> None:
    """Print the bytes per job, for this many jobs in flight and a store in ``directory``."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (jobs_in_flight + _FIRST) + 256
    resource.setrlimit(
        resource.RLIMIT_NOFILE,
        (wanted if hard_limit == resource.RLIM_INFINITY else min(wanted, hard_limit), hard_limit),
    )
    here, there = multiprocessing.Pipe(duplex=False)
    multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True).start()
    port = here.recv()
    transport = _Trusting(f"http://127.0.0.1:{port}")
    places = jobs_in_flight + _FIRST
    jobs = BackJob(SQLiteStore(directory / "jobs.db"), transport, MessageSigner(KEY), max_running=places)

    def send(several: int, until: int) -> None:
        for _ in range(several):
            jobs.start("/work", {"id": 5}, as_current_user=False)
        while here.poll(_DEADLINE) and here.recv() < until:
            pass
        gc.collect()

    tracemalloc.start()
    send(_FIRST, _FIRST)  # so that threads, connections and caches exist
    traced, resident = tracemalloc.get_traced_memory()[0], _resident()
    send(jobs_in_flight, _FIRST + jobs_in_flight)
    traced, resident = tracemalloc.get_traced_memory()[0] - traced, _resident() - resident
    if "--where" in sys.argv:
        for statistic in tracemalloc.take_snapshot().statistics("lineno")[:25]:
            print(statistic, file=sys.stderr)
    assert threading.active_count() <= 4, threading.enumerate()
    print(traced / jobs_in_flight, resident / jobs_in_flight)
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
