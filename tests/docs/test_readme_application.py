"""The README's Flask application starts as the README says, and a client uses it as a browser would."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, flask_example
from tests.docs.serving import fetch, served, until_ended

pytest.importorskip("flask", reason="the README's application needs Flask: pip install 'backjob[flask]'")

FEW_ROWS: Final = 3


def environment() -> dict[str, str]:
    """The environment without settings of an application."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "SECRET_KEY" and not name.startswith(("FLASK_", "BACKJOB_", "WERKZEUG_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT)}


def flask_run(directory: Path) -> AbstractContextManager[int]:
    """Run ``flask run`` in a directory with the README's ``app.py``, without settings; yields the port."""
    return served(
        [sys.executable, "-m", "flask", "run", "--port", "0"],
        directory,
        environment(),
        r"Running on http://127\.0\.0\.1:(\d+)",
    )


@pytest.mark.slow
def test_all_processes_of_the_readme_s_application_show_its_jobs(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(flask_example(), encoding="utf-8")
    gunicorn = [sys.executable, "-m", "gunicorn", "-w", "3", "--bind", "127.0.0.1:0", "--no-control-socket", "app:app"]
    with served(gunicorn, tmp_path, environment(), r"Listening at: http://127\.0\.0\.1:(\d+)") as port:
        location = fetch(port, "POST", "/export").location
        assert {fetch(port, "GET", location).status for _ in range(30)} == {200}
        assert fetch(port, "POST", f"{location}/cancel").status == 200


def test_the_application_of_the_readme_runs_a_job(tmp_path: Path) -> None:
    code = flask_example()
    assert '"rows": 50' in code
    (tmp_path / "app.py").write_text(code.replace('"rows": 50', f'"rows": {FEW_ROWS}'), encoding="utf-8")
    with flask_run(tmp_path) as port:
        home = fetch(port, "GET", "/")
        assert home.status == 200
        assert 'method="post" action="/export"' in home.text

        started = fetch(port, "POST", "/export")
        assert started.status == 302
        location = started.location
        assert location.startswith("/backjob/")

        page = fetch(port, "GET", location, {"Accept": "text/html"})
        assert page.status == 200
        assert "<backjob-progress" in page.text
        for asset in re.findall(r'(?:src|href)="(/backjob/progress\.[a-z]+)"', page.text):
            assert fetch(port, "GET", asset).status == 200

        state = until_ended(port, location)
        assert (state["status_name"], state["progress"]) == ("COMPLETED", 100)
        assert state["status_text"] == "Your export is ready"
        output = json.loads(fetch(port, "GET", f"{location}/output").text)
        assert output["text"] == "".join(f"row {row}\n" for row in range(FEW_ROWS))

        assert fetch(port, "GET", "/export/work?rows=1").status == 403
        assert fetch(port, "GET", location.partition(".")[0]).status == 404
    assert (tmp_path / "instance" / "backjob.db").exists()
