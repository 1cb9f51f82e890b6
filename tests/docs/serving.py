"""Starts a server for a test, and a client for it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPMessage
from pathlib import Path
from queue import Empty, Queue
from typing import Final

from attrs import frozen

__all__ = ["TIMEOUT", "Response", "fetch", "served", "until_ended"]

TIMEOUT: Final = 60.0


@contextmanager
def served(command: Sequence[str], directory: Path, environment: Mapping[str, str], port_line: str) -> Iterator[int]:
    """Run a server until the block ends, and yield its port: the first group of the pattern ``port_line`` in its output."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []
    port: Queue[int | None] = Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.append(line)
            if found := re.search(port_line, line):
                port.put(int(found[1]))
        port.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        number = port.get(timeout=TIMEOUT)
        assert number is not None, "the server has ended"
        yield number
    except (Empty, AssertionError):
        sys.stderr.writelines(lines)
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(TIMEOUT)
        reader.join(TIMEOUT)
        if process.stdout is not None:
            process.stdout.close()


@frozen
class Response:
    """The parts of a response that tests need."""

    status: int
    location: str
    cookies: tuple[str, ...]
    text: str
    headers: HTTPMessage


def fetch(
    port: int, method: str, path: str, headers: Mapping[str, str] | None = None, body: str | None = None
) -> Response:
    """Send a request and return its response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        cookies = tuple(response.headers.get_all("Set-Cookie") or ())
        location = response.headers.get("Location", "")
        return Response(response.status, location, cookies, response.read().decode(), response.headers)
    finally:
        connection.close()


def until_ended(port: int, path: str, headers: Mapping[str, str] | None = None) -> dict[str, object]:
    """Poll the state, as a page does, until the job has ended."""
    deadline = time.monotonic() + TIMEOUT
    pause = threading.Event()
    while time.monotonic() < deadline:
        state: dict[str, object] = json.loads(
            fetch(port, "GET", path, {**(headers or {}), "Accept": "application/json"}).text
        )
        if state["end_time"] is not None:
            return state
        pause.wait(0.05)
    raise AssertionError(f"the job has not ended in {TIMEOUT:g} s")
