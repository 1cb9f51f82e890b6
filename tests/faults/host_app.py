"""A site with actions that harm their process, as a WSGI application.

Files in the directory ``HOST_FAULTS`` switch faults on and off: ``blocked`` has ``on_end`` and the dispatch of the queue ``engine``
wait, and ``offset`` has the seconds by which the clock is wrong, if ``HOST_CLOCK`` is set. With ``HOST_NO_THREADS`` the thread that renews leases can't start. ``on_end``
appends lines to the file ``HOST_ENDS``, and the dispatch to ``HOST_DISPATCHED``.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from backjob.jobs import BackJob
from backjob.model import JobState
from backjob.settings import Settings
from backjob.transports.sockets import SocketTransport
from backjob.worker.running import current
from backjob.wsgi import BackJobMiddleware
from tests.scenarios.apps.config import PREFIX, settings
from tests.scenarios.apps.plain import site_of
from tests.scenarios.gates import at_gate_in_thread

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["app", "jobs"]

_FAULTS: Final = Path(os.environ["HOST_FAULTS"])
_start_thread: Final = threading.Thread.start


class OffsetClock:
    """The computer's clock, set by so many seconds as the file says."""

    def now(self) -> datetime:
        try:
            offset = float((_FAULTS / "offset").read_text() or 0)
        except FileNotFoundError:
            offset = 0.0
        return datetime.now(UTC) + timedelta(seconds=offset)

    def monotonic(self) -> float:
        return time.monotonic()


class OffsetTransport(SocketTransport):
    """A transport that goes by that clock, too."""

    def __init__(self, base_url: str, connect_to: str | None = None, *more: Any, **options: Any) -> None:
        super().__init__(base_url, connect_to, *more, **{**options, "clock": OffsetClock()})


def _start(thread: threading.Thread) -> None:
    if thread.name == "backjob-leases" and "HOST_NO_THREADS" in os.environ:
        raise RuntimeError("can't start new thread")
    _start_thread(thread)


def _append(variable: str, line: str) -> None:
    while (_FAULTS / "blocked").exists():
        time.sleep(0.02)  # the fault itself
    with open(os.environ[variable], "a", encoding="utf-8") as file:  # noqa: PTH123 - appends are atomic
        file.write(f"{line}\n")


def _note_end(state: JobState) -> None:
    _append("HOST_ENDS", f"{state.id} {state.status.name}")


def _dispatch(job_id: str) -> None:
    _append("HOST_DISPATCHED", job_id)


def _hold_gil(port: int, seconds: float) -> None:
    """Once the gate says so, let no other thread of this process run for a time."""
    with at_gate_in_thread(port) as gate:
        while gate.recv(1) == b"+":
            ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def _fork(port: int) -> None:
    """Wait at the gate together with a forked child."""
    child = os.fork()
    try:
        with at_gate_in_thread(port) as gate:
            gate.recv(1)
    finally:
        if child == 0:
            os._exit(0)


def harmful(site: WSGIApplication) -> WSGIApplication:
    """The site with further actions."""

    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        values = {name: found[-1] for name, found in parse_qs(environ.get("QUERY_STRING", "")).items()}
        running, path = current.get(), environ["PATH_INFO"]
        if path == "/work/gil":
            _hold_gil(int(values["gate"]), float(values["seconds"]))
        elif path == "/work/forked":
            _fork(int(values["gate"]))
        elif path == "/work/exit" and running is not None and running.job.run == 1:
            os._exit(3)
        elif path not in ("/work/exit", "/work/forked"):
            return site(environ, start_response)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"survived"]

    return middleware


threading.Thread.start = _start  # type: ignore[assignment,method-assign]
_has_offset: Final = "HOST_CLOCK" in os.environ
_queues: Final = {f"{PREFIX}QUEUES": {"engine": {"dispatch": _dispatch}}}
jobs: Final = Settings.of(settings() | _queues, prefix=PREFIX).build(
    BackJob,
    package="backjob.scenarios",
    application="plain",
    default_store=lambda: "memory:",
    on_end=_note_end,
    clock=OffsetClock() if _has_offset else None,
    transport=OffsetTransport if _has_offset else None,
)
app: WSGIApplication = BackJobMiddleware(harmful(site_of(jobs)), jobs)
