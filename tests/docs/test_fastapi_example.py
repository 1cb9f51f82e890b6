"""The example application of docs/asgi.md starts with the page's command, and a client uses it as a browser would."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, blocks
from tests.docs.serving import TIMEOUT, fetch, served, until_ended

pytest.importorskip("fastapi", reason="the example needs FastAPI: pip install -e '.[test]'")
pytest.importorskip("uvicorn", reason="the example's server is uvicorn: pip install -e '.[test]'")

SAYS: Final = r"running on http://127\.0\.0\.1:(\d+)"


def environment(directory: Path, seconds_a_row: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "BACKJOB_KEY"}
    return {**kept, "PYTHONPATH": str(ROOT), "REPORT_DATA": str(directory), "REPORT_SECONDS_A_ROW": seconds_a_row}


def command() -> list[str]:
    """The page's command, with a free port."""
    [block] = [block for block in blocks(ROOT / "docs" / "asgi.md") if block.marker == "fastapi-example"]
    program, *arguments = block.code.split()
    assert (program, *arguments) == ("uvicorn", "--app-dir", "docs/examples/fastapi_report", "app:app")
    return [sys.executable, "-m", program, *arguments, "--port", "0"]


@pytest.mark.slow
def test_a_report_is_exported_and_downloaded(tmp_path: Path) -> None:
    with served(command(), ROOT, environment(tmp_path, "0"), SAYS) as port:
        assert 'action="reports?rows=500"' in fetch(port, "GET", "/").text
        response = fetch(port, "POST", "/reports?rows=25")
        assert response.status == 303
        state = until_ended(port, response.location)
        assert (state["status_name"], state["status_text"]) == ("COMPLETED", "Your report is ready")
        assert state["result"] == {"href": f"/reports/{state['id']}"}
        report = fetch(port, "GET", f"/reports/{state['id']}")
        assert (report.status, len(report.text.splitlines())) == (200, 26)
        assert report.text.startswith("order,amount")
        assert fetch(port, "GET", "/reports/unknown").status == 404
        assert fetch(port, "GET", "/reports/work/25").status == 403


@pytest.mark.slow
def test_a_cancelled_report_leaves_no_files(tmp_path: Path) -> None:
    with served(command(), ROOT, environment(tmp_path, "0.01"), SAYS) as port:
        response = fetch(port, "POST", "/reports?rows=100000")
        assert fetch(port, "POST", f"{response.location}/cancel", {"Accept": "application/json"}).status == 200
        state = until_ended(port, response.location)
        assert state["status_name"] == "CANCELLED"
        deadline, pause = time.monotonic() + TIMEOUT, threading.Event()
        while list(tmp_path.glob("*.part")):
            assert time.monotonic() < deadline
            pause.wait(0.05)
        assert fetch(port, "GET", f"/reports/{state['id']}").status == 404
