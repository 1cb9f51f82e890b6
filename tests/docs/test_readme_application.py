"""The README's Flask application, started as the README says and driven as a browser would."""

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Final

import pytest

from tests.docs.pages import ROOT, flask_example

pytest.importorskip("flask", reason="the README's application needs Flask: pip install 'backjob[flask]'")

PATIENCE: Final = 60.0
FEW_ROWS: Final = 3


@contextmanager
def flask_run(directory: Path) -> Iterator[int]:
    """``flask run`` in a directory with the README's ``app.py``, on a free port, without any setting; gives the port."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "SECRET_KEY" and not name.startswith(("FLASK_", "BACKJOB_", "WERKZEUG_"))
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "run", "--port", "0"],
        cwd=directory,
        env={**environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []
    port: Queue[int] = Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.append(line)
            if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", line):
                port.put(int(found[1]))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield port.get(timeout=PATIENCE)
    except (Empty, AssertionError):
        sys.stderr.writelines(lines)
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        reader.join(PATIENCE)
        if process.stdout is not None:
            process.stdout.close()


def ask(port: int, method: str, path: str, accept: str = "*/*") -> tuple[int, str, str]:
    """Status, Location and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.headers.get("Location", ""), response.read().decode()
    finally:
        connection.close()


def until_ended(port: int, path: str) -> dict[str, object]:
    """Ask for the state, as a page does, until the job has ended."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while time.monotonic() < deadline:
        state: dict[str, object] = json.loads(ask(port, "GET", path, "application/json")[2])
        if state["end_time"] is not None:
            return state
        pause.wait(0.05)
    raise AssertionError(f"the job has not ended in {PATIENCE:g} s")


def test_the_readmes_application_does_what_the_readme_says(tmp_path: Path) -> None:
    code = flask_example()
    assert '"rows": 50' in code
    (tmp_path / "app.py").write_text(code.replace('"rows": 50', f'"rows": {FEW_ROWS}'), encoding="utf-8")
    with flask_run(tmp_path) as port:
        status, _, home = ask(port, "GET", "/")
        assert status == 200
        assert 'method="post" action="/export"' in home

        status, location, _ = ask(port, "POST", "/export")
        assert status == 302
        assert location.startswith("/backjob/")

        status, _, page = ask(port, "GET", location, "text/html")
        assert status == 200
        assert "<backjob-progress" in page
        for asset in re.findall(r'(?:src|href)="(/backjob/progress\.[a-z]+)"', page):
            assert ask(port, "GET", asset)[0] == 200

        state = until_ended(port, location)
        assert (state["status_name"], state["progress"]) == ("COMPLETED", 100)
        assert (state["status_text"], state["result"]) == ("Your export is ready", {"href": "/"})
        output = json.loads(ask(port, "GET", f"{location}/output")[2])
        assert output["text"] == "".join(f"row {row}\n" for row in range(FEW_ROWS))

        assert ask(port, "GET", "/export/work?rows=1")[0] == 403
        assert ask(port, "GET", location.partition(".")[0])[0] == 404
    assert (tmp_path / "instance" / "backjob.db").exists()
