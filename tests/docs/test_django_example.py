"""The example project of docs/django.md, started by the page's command and driven as a browser would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, blocks
from tests.docs.serving import PATIENCE, ask, served, until_ended

pytest.importorskip("django", reason="the example needs Django: pip install 'backjob[django]'")

PROJECT: Final = ROOT / "docs" / "examples" / "django_report"
SAYS: Final = r"development server at http://127\.0\.0\.1:(\d+)/"


def environment(directory: Path, seconds_a_row: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "SECRET_KEY")}
    return {**kept, "PYTHONPATH": str(ROOT), "REPORT_DATA": str(directory), "REPORT_SECONDS_A_ROW": seconds_a_row}


def command() -> list[str]:
    """The page's command, on a free port."""
    [block] = [block for block in blocks(ROOT / "docs" / "django.md") if block.marker == "django-example"]
    program, *arguments = block.code.split()
    assert (program, *arguments) == ("python", "docs/examples/django_report/manage.py", "demo")
    return [sys.executable, *arguments, "0"]


def start(port: int, rows: int) -> tuple[dict[str, str], str]:
    """Fill in the form; gives the visitor's cookies, and the address of the job's status."""
    page = ask(port, "GET", "/")
    [token] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    cookies = [cookie.partition(";")[0] for cookie in page.cookies]
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": "; ".join(cookies)}
    answer = ask(port, "POST", "/", headers, f"csrfmiddlewaretoken={token}&rows={rows}")
    assert (answer.status, answer.location) == (302, "/report/")
    cookies += [cookie.partition(";")[0] for cookie in answer.cookies]
    visitor = {"Cookie": "; ".join(cookies)}
    progress = ask(port, "GET", "/report/", visitor)
    [source] = re.findall(r'<backjob-progress src="([^"]+)" cancel label="Export">', progress.text)
    for asset in re.findall(r'(?:src|href)="(/backjob/progress\.[a-z]+)"', progress.text):
        assert ask(port, "GET", asset).status == 200
    return visitor, source


def until_empty(directory: Path) -> None:
    """Wait until the action has learnt that its job has ended, and has tidied up."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while any(directory.iterdir()):
        assert time.monotonic() < deadline, list(directory.iterdir())
        pause.wait(0.05)


def test_a_report_is_exported_and_fetched_by_its_visitor_alone(tmp_path: Path) -> None:
    with served(command(), ROOT, environment(tmp_path, "0"), SAYS) as port:
        visitor, source = start(port, 25)
        state = until_ended(port, source)
        assert (state["status_name"], state["status_text"]) == ("COMPLETED", "Your report is ready")
        assert state["result"] == {"href": "/report/download/"}
        report = ask(port, "GET", "/report/download/", visitor)
        assert (report.status, len(report.text.splitlines())) == (200, 26)
        assert report.text.startswith("order,amount")
        assert ask(port, "GET", "/report/download/").status == 404
        assert ask(port, "GET", "/report/work/25/", visitor).status == 403


def test_a_report_is_cancelled_and_leaves_nothing(tmp_path: Path) -> None:
    with served(command(), ROOT, environment(tmp_path, "0.01"), SAYS) as port:
        visitor, source = start(port, 100_000)
        answer = ask(port, "POST", f"{source}/cancel", {"Accept": "application/json"})
        assert answer.status == 200
        assert until_ended(port, source)["status_name"] == "CANCELLED"
        until_empty(tmp_path / "reports")
        assert ask(port, "GET", "/report/download/", visitor).status == 404


def test_its_checks_and_its_migrations_are_clean(tmp_path: Path) -> None:
    for arguments in (["check", "--fail-level", "WARNING"], ["makemigrations", "--check", "--dry-run"]):
        done = subprocess.run(
            [sys.executable, str(PROJECT / "manage.py"), *arguments],
            env=environment(tmp_path, "0"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
