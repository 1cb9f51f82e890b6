"""An action that reports in a loop, for tests of outages of the store. `outage_app` is the site that serves it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from backjob import JobState
from backjob.jobs import BackJob

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["counting", "line", "note_end"]

_GATE_TIMEOUT: Final = 60.0


def line(number: int) -> str:
    """The line that the action prints in turn ``number``."""
    return f"{number} ä€\n"


def note_end(state: JobState) -> None:
    """The hook ``on_end``: write a line to a file for each call."""
    with open(os.environ["OUTAGE_ENDS"], "a", encoding="utf-8") as ends:  # noqa: PTH123 - appends are atomic
        ends.write(f"{state.id} {state.status.name}\n")


def counting(jobs: BackJob, site: WSGIApplication) -> WSGIApplication:
    """The site, with an action at ``/count`` that counts until its gate stops it."""

    def served(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/count":
            return site(environ, start_response)
        parameters = parse_qs(environ["QUERY_STRING"])
        with socket.create_connection(("127.0.0.1", int(parameters["gate"][0])), _GATE_TIMEOUT) as gate:
            gate.settimeout(float(parameters["pace"][0]))
            _count(jobs, gate)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return [b""]

    return served


def _count(jobs: BackJob, gate: socket.socket) -> None:
    """Report in every way, and send the gate a byte for each turn, until the gate sends one."""
    number = 0
    while True:
        if number % 2:
            print(line(number), end="")
        else:
            jobs.echo(line(number))
        jobs.update(number % 101)
        if number % 3 == 0:
            jobs.update(status_text=f"at {number}")
        number += 1
        gate.sendall(b".")
        try:
            gate.recv(1)
        except TimeoutError:
            continue
        break
    jobs.finish("counted", result=number)
