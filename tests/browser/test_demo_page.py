"""The page of ``backjob demo``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.browser.test_element import part
from tests.docs.pages import ROOT
from tests.docs.serving import served

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import Visitor

pytestmark = [pytest.mark.slow, pytest.mark.any_browser]

COMMAND = [sys.executable, "-m", "backjob", "demo", "--port", "0"]
PORT_LINE = r"Open http://127\.0\.0\.1:(\d+)"


def test_the_demo_page_shows_a_job_that_its_button_starts(visitor: Visitor, tmp_path: Path) -> None:
    with served(COMMAND, tmp_path, {"PYTHONPATH": str(ROOT)}, PORT_LINE) as port:
        page = visitor.open("/", viewport={"width": 360, "height": 640}, base_url=f"http://127.0.0.1:{port}")
        page.get_by_role("button", name="Start a job").click()
        page.locator("progress[value]:not([value='100'])").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.get_by_text("Done: 100 rows exported").wait_for()
        lines = (part(page, "output").text_content() or "").splitlines()
        assert lines == ["exporting 100 rows", *(f"{row} rows written" for row in range(10, 101, 10))]
        assert page.request.get(page.get_by_text("an HTML fragment").get_attribute("href") or "").status == 286
        with page.expect_download() as download:
            page.get_by_role("link", name="Open the result").click()
        assert download.value.path().read_text(encoding="utf-8").splitlines()[-1] == "100,10000"
        page.get_by_role("button", name="Start a job").click()
        page.get_by_role("button", name="Cancel").click()
        part(page, "state").get_by_text("Cancelled").wait_for()


def test_the_ready_page_cancels_a_job_without_javascript(visitor: Visitor, tmp_path: Path) -> None:
    with served(COMMAND, tmp_path, {"PYTHONPATH": str(ROOT)}, PORT_LINE) as port:
        page = visitor.open(f"http://127.0.0.1:{port}/", java_script_enabled=False)
        page.get_by_role("button", name="Start a job").click()
        page.get_by_role("link", name="a separate page").click()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled").wait_for()
