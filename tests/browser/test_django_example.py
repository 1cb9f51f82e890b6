"""The page of the Django example, in real browsers, under its strict policy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.docs.pages import ROOT
from tests.docs.serving import served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.any_browser]

pytest.importorskip("django", reason="the example needs Django: pip install 'backjob[django]'")

COMMAND = [sys.executable, str(ROOT / "docs" / "examples" / "django_report" / "manage.py"), "demo", "0"]
PORT_LINE = r"development server at http://127\.0\.0\.1:(\d+)/"
PNG = b"\x89PNG\r\n\x1a\n"


@contextmanager
def exporting(browser: Browser, folder: Path, rows: int, **options: Any) -> Iterator[Page]:
    """The example's page after the export of so many rows has started. Asserts that the console stays empty."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "REPORT_DATA": str(folder / "data")}
    environment |= {"REPORT_SECONDS_A_ROW": "0.02", "DJANGO_SETTINGS_MODULE": "settings"}
    console: list[str] = []
    with served(COMMAND, folder, environment, PORT_LINE) as port:
        context = browser.new_context(**options)
        page = context.new_page()
        page.on("console", lambda message: console.append(message.text))
        page.on("pageerror", lambda error: console.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_label("Rows").press("Control+a")  # fill() keeps the number that is there in Firefox
        page.get_by_label("Rows").press_sequentially(str(rows))
        page.get_by_role("button", name="Export").click()
        yield page
        context.close()
    # Playwright's own inline style, for a picture in Firefox.
    assert [text for text in console if not ("inline style" in text and browser.browser_type.name == "firefox")] == []


def test_the_bar_moves_and_ends_in_a_link_to_the_report(browser: Browser, tmp_path: Path) -> None:
    with exporting(browser, tmp_path, 200, viewport={"width": 640, "height": 360}) as page:
        bar = page.locator("progress[value]:not([value='0'])")  # the policy forbids wait_for_function()
        bar.wait_for()
        first = int(bar.get_attribute("value") or 0)
        page.screenshot(path=tmp_path / "running.png", caret="initial")
        page.get_by_role("button", name="Cancel").wait_for()
        page.locator(f"progress[value]:not([value='{first}'])").wait_for()
        page.locator("progress[value='100']").wait_for()
        page.get_by_text("Your report is ready").first.wait_for()
        page.screenshot(path=tmp_path / "ended.png", caret="initial")
        assert 0 < first < 100
        shots = {(tmp_path / f"{name}.png").read_bytes() for name in ("running", "ended")}
        assert [shot[: len(PNG)] for shot in shots] == [PNG, PNG]
        card = page.locator("main").bounding_box()
        assert card is not None
        assert card["width"] < 640  # the site's style sheet applies

        with page.expect_download() as download:
            page.locator("backjob-progress a[part='file']").click()
        assert len(download.value.path().read_text(encoding="utf-8").splitlines()) == 201


def test_the_cancel_button_cancels_the_export(browser: Browser, tmp_path: Path) -> None:
    with exporting(browser, tmp_path, 100_000) as page:
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled").first.wait_for()
