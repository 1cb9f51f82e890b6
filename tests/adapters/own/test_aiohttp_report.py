"""The example application of docs/own-adapter.md starts with the page's command, and a client uses it as a browser would."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.docs.code_lines import code_lines
from tests.docs.pages import ROOT, blocks
from tests.docs.serving import fetch, served, until_ended

pytest.importorskip("aiohttp", reason="the example needs aiohttp: pip install -e '.[test]'")

PAGE: Final = ROOT / "docs" / "own-adapter.md"
SAYS: Final = r"Running on http://127\.0\.0\.1:(\d+)"
ANN: Final = {"Cookie": "user=ann"}


def command() -> list[str]:
    """The page's command."""
    [block] = [block for block in blocks(PAGE) if block.marker == "aiohttp-example"]
    program, *arguments = block.code.split()
    assert program == "python"
    return [sys.executable, *arguments]


@pytest.mark.slow
def test_a_report_is_exported_and_downloaded(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PORT": "0"}
    environment |= {"REPORT_DATA": str(tmp_path), "REPORT_SECONDS_A_ROW": "0"}
    with served(command(), ROOT, environment, SAYS) as port:
        assert 'action="reports"' in fetch(port, "GET", "/").text
        response = fetch(port, "POST", "/reports?rows=25", ANN)
        assert response.status == 303
        state = until_ended(port, response.location)
        assert (state["status_name"], state["owner"]) == ("COMPLETED", "ann")
        report = fetch(port, "GET", f"{response.location}/file")
        assert (report.status, len(report.text.splitlines())) == (200, 26)
        assert 'filename="report.csv"' in report.headers["Content-Disposition"]
        assert fetch(port, "POST", "/reports/work?rows=5").status == 403


def test_the_page_says_how_many_lines_of_code_its_adapter_has() -> None:
    text = PAGE.read_text(encoding="utf-8")
    adapter = "docs/examples/aiohttp_report/backjob_aiohttp.py"
    assert f'--8<-- "{adapter}"' in text
    lines = code_lines((ROOT / adapter).read_text(encoding="utf-8"))
    assert re.findall(r"has (\d+) lines of code", text) == [str(lines)]
