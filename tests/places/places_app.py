"""A site whose action sleeps, for tests of how many jobs run at once. For WSGI and ASGI servers.

``/start?count=700&s=0.1&queue=exports`` starts that many jobs at once. ``/work`` appends a line to the file ``RUNS`` when
it begins and when it ends: ``begin <job> <queue> <process> <seconds>``, on the monotonic clock, which all processes share.
The file
``access`` beside it is the access log. ``/bare?s=0.1`` sleeps without a job. ``/begin?gate=PORT`` starts a job whose second run waits at a gate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from backjob import asgi as backjob_asgi
from backjob import wsgi as backjob_wsgi
from tests.faults.delivery_lease import shorten_delivery_leases
from tests.lines import append_line
from tests.places.recording import RUNS, record
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.apps.scopes import Receive, Scope, Send
from tests.scenarios.gates import at_gate_in_thread

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["app", "asgi_app", "jobs"]


shorten_delivery_leases()
jobs: Final = make_jobs()


def respond(path: str, query: dict[str, str]) -> str:
    """The response's text."""
    if path == "/second":
        record("begin")
        if jobs.attempt == 1:
            jobs.retry(0)
        with at_gate_in_thread(int(query["gate"])) as gate:
            gate.recv(2)
        record("end")
    elif path == "/begin":
        return jobs.start("/second", {"gate": query["gate"]}, as_current_user=False, retries=1)
    elif path == "/work":
        record("begin")
        time.sleep(float(query["s"]))
        record("end")
    elif path == "/bare":
        time.sleep(float(query["s"]))
    elif path == "/start":
        queue = query.get("queue", "default")
        for number in range(int(query["count"])):
            jobs.start("/work", {"n": number, "s": query["s"]}, as_current_user=False, merge="never", queue=queue)
    return "ok"


def _parsed(query: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(query).items()}


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    text = respond(environ["PATH_INFO"], _parsed(environ.get("QUERY_STRING", ""))).encode()
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(text)))])
    return [text]


async def asgi_site(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    text = (await asyncio.to_thread(respond, scope["path"], _parsed(scope["query_string"].decode()))).encode()
    headers = [(b"content-type", b"text/html"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def logged(site: WSGIApplication) -> WSGIApplication:
    """The site behind something that logs every target as it was sent, like a proxy."""

    def logging(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if "RAW_URI" in environ:
            append_line(RUNS.with_name("access"), environ["RAW_URI"])
        return site(environ, start_response)

    return logging


app: WSGIApplication = logged(backjob_wsgi.BackJobMiddleware(site, jobs))
asgi_app = backjob_asgi.BackJobMiddleware(asgi_site, jobs)
