"""The application of docs/asgi.md, served by uvicorn as the page says and driven as a browser would."""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.docs.serving import ask, served, until_ended

pytest.importorskip("starlette", reason="the page's application needs Starlette: pip install -e '.[test]'")
pytest.importorskip("uvicorn", reason="the page's server is uvicorn: pip install -e '.[test]'")


def test_the_pages_application_does_what_the_page_says(tmp_path: Path) -> None:
    [code] = [block.code for block in blocks(ROOT / "docs" / "asgi.md") if block.title == "app.py"]
    assert '"rows": 50' in code
    (tmp_path / "app.py").write_text(code.replace('"rows": 50', '"rows": 3'), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BACKJOB_KEY": secrets.token_hex(32)}
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", "0"]
    with served(command, tmp_path, environment, r"running on http://127\.0\.0\.1:(\d+)") as port:
        assert 'action="/export"' in ask(port, "GET", "/").text

        answer = ask(port, "POST", "/export")
        assert answer.status == 303
        page = ask(port, "GET", answer.location, {"Accept": "text/html"}).text
        for asset in re.findall(r'(?:src|href)="(/backjob/progress\.[a-z]+)"', page):
            assert ask(port, "GET", asset).status == 200

        state = until_ended(port, answer.location)
        assert (state["status_name"], state["status_text"]) == ("COMPLETED", "Your export is ready")
        reference = answer.location.rpartition("/")[2]
        output = ask(port, "GET", f"/backjob/{reference}/output", {"Accept": "text/plain"}).text
        assert output == "row 0\nrow 1\nrow 2\n"

        assert ask(port, "GET", "/export/work?rows=1").status == 403
