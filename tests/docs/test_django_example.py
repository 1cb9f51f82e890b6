"""The example project of docs/django.md starts with the page's command, and a client uses it as a browser would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, blocks
from tests.docs.serving import fetch, served, until_ended

pytest.importorskip("django", reason="the example needs Django: pip install 'backjob[django]'")

PROJECT: Final = ROOT / "docs" / "examples" / "django_report"
SAYS: Final = r"development server at http://127\.0\.0\.1:(\d+)/"


def environment(directory: Path, seconds_a_row: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "SECRET_KEY")}
    return {**kept, "PYTHONPATH": str(ROOT), "REPORT_DATA": str(directory), "REPORT_SECONDS_A_ROW": seconds_a_row}


def command() -> list[str]:
    """The page's command, with a free port."""
    [block] = [block for block in blocks(ROOT / "docs" / "django.md") if block.marker == "django-example"]
    program, *arguments = block.code.split()
    assert (program, *arguments) == ("python", "docs/examples/django_report/manage.py", "demo")
    return [sys.executable, *arguments, "0"]


def start(port: int, rows: int) -> tuple[dict[str, str], str]:
    """Submit the form, and return the visitor's cookies and the job's status URL."""
    page = fetch(port, "GET", "/")
    [token] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    cookies = [cookie.partition(";")[0] for cookie in page.cookies]
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": "; ".join(cookies)}
    response = fetch(port, "POST", "/", headers, f"csrfmiddlewaretoken={token}&rows={rows}")
    assert (response.status, response.location) == (302, "/report/")
    cookies += [cookie.partition(";")[0] for cookie in response.cookies]
    visitor = {"Cookie": "; ".join(cookies)}
    progress = fetch(port, "GET", "/report/", visitor)
    [source] = re.findall(r'<backjob-progress[^>]* src="([^"]+)"', progress.text)
    for asset in re.findall(r'(?:src|href)="(/backjob/progress\.[a-z]+)"', progress.text):
        assert fetch(port, "GET", asset).status == 200
    return visitor, source


@pytest.mark.slow
def test_only_its_visitor_can_download_an_exported_report(tmp_path: Path) -> None:
    with served(command(), ROOT, environment(tmp_path, "0"), SAYS) as port:
        visitor, source = start(port, 25)
        state = until_ended(port, source)
        assert (state["status_name"], state["status_text"]) == ("COMPLETED", "Your report is ready")
        report = fetch(port, "GET", f"{source}/file")
        assert (report.status, len(report.text.splitlines())) == (200, 26)
        assert report.text.startswith("order,amount")
        assert state["file"] == {"name": "report.csv", "type": "text/csv", "size": len(report.text.encode())}
        assert f'href="{source}/file"' in fetch(port, "GET", "/report/", visitor).text
        without_token = re.sub(r"\.[^/]*$", "", source)
        assert fetch(port, "GET", f"{without_token}/file").status == 404
        assert fetch(port, "GET", "/report/work/25/", visitor).status == 403


@pytest.mark.slow
def test_a_cancelled_report_leaves_no_files(tmp_path: Path) -> None:
    with served(command(), ROOT, environment(tmp_path, "0.01"), SAYS) as port:
        _, source = start(port, 100_000)
        response = fetch(port, "POST", f"{source}/cancel", {"Accept": "application/json"})
        assert response.status == 200
        assert until_ended(port, source)["status_name"] == "CANCELLED"
        assert fetch(port, "GET", f"{source}/file").status == 404
        assert not (tmp_path / "site.db.files").exists()


@pytest.mark.slow
def test_the_project_passes_checks_and_lacks_no_migration(tmp_path: Path) -> None:
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
