"""A site whose workers are killed. It records each run of its action in a file, for WSGI and ASGI servers.

``/start?count=600`` starts that many jobs of the route ``action`` (``/work``), with the options in ``START_OPTIONS`` (JSON).
Actions record when a run begins and ends, and ``on_end`` when it is called, as lines of the file ``RUNS``:
``begin <job> <run> <process>``.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from backjob import asgi as backjob_asgi
from backjob import wsgi as backjob_wsgi
from backjob.errors import JobEnded
from backjob.jobs import BackJob
from backjob.settings import Settings
from backjob.worker.running import current
from tests.faults.delivery_lease import shorten_delivery_leases
from tests.faults.recording import RUNS, on_end, record
from tests.scenarios.apps.config import PREFIX, settings
from tests.scenarios.apps.scopes import Receive, Scope, Send

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


__all__ = ["app", "asgi_app", "jobs"]

_options: Final = json.loads(os.environ.get("START_OPTIONS", "{}"))
_seconds: Final = float(os.environ.get("SECONDS_EACH", "0.02"))


shorten_delivery_leases()
jobs: Final = Settings.of(settings(), prefix=PREFIX).build(
    BackJob,
    package="backjob.scenarios",
    application="killed",
    default_store=lambda: "memory:",
    on_end=on_end,
)


def respond(path: str, query: str) -> str | Iterator[str]:
    """The response's text, or its chunks."""
    arguments = {name: values[-1] for name, values in parse_qs(query).items()}
    if path == "/work":
        record("begin")
        time.sleep(_seconds)
        record("end")
    elif path == "/hang":
        record("begin")
        return hang(arguments["phase"])
    elif path == "/wait":
        wait(arguments["phase"])
    elif path == "/start":
        action, phase = arguments.get("action", "/work"), arguments.get("phase")
        count = int(arguments["count"])
        started = [
            jobs.start(action, {"n": number, "phase": phase}, **{"as_current_user": False} | _options)
            for number in range(count)
        ]
        return "\n".join(started)
    elif path == "/pid":
        return str(os.getpid())
    return "ok"


def hang(phase: str) -> str | Iterator[str]:
    """Never return in time, unless this process is to survive. The phase is what the action does until it is killed."""
    if (RUNS.parent / f"survivor-{os.getpid()}").exists():
        return "ok"
    if phase == "response":
        return stream()
    while True:
        if phase == "updates":
            jobs.update(status_text=f"at {time.monotonic():.1f}")
        elif phase == "output":
            print("a line")
        time.sleep(0.05)


def wait(phase: str) -> None:
    """In the first run, wait until the test creates the file ``released-<phase>``; in a later one, return at once."""
    record("begin")
    running = current.get()
    assert running is not None
    try:
        while running.job.run == 1 and not (RUNS.parent / f"released-{phase}").exists():
            if phase == "updates":
                jobs.update(status_text=f"at {time.monotonic():.1f}")
            time.sleep(0.05)
    except JobEnded:
        record("fenced")
        raise
    record("end")


def stream() -> Iterator[str]:
    while True:
        yield "a line\n"
        time.sleep(0.05)


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    text = respond(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
    if isinstance(text, str):
        start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(text)))])
        return [text.encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (chunk.encode() for chunk in text)


async def asgi_site(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    text = await asyncio.to_thread(respond, scope["path"], scope["query_string"].decode())
    if isinstance(text, str):
        headers = [(b"content-type", b"text/html"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    while True:
        chunk = await asyncio.to_thread(next, text)
        await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})


app: WSGIApplication = backjob_wsgi.BackJobMiddleware(site, jobs)
asgi_app = backjob_asgi.BackJobMiddleware(asgi_site, jobs)
