"""Jobs in Django's admin, in a real browser. The pictures go where those of the ready page go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.browser.test_accessibility import findings
from tests.browser.test_pictures import picture
from tests.docs.pages import ROOT
from tests.docs.serving import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.browsers import Browsers
    from tests.browser.conftest import Visitor

pytestmark = [pytest.mark.slow, pytest.mark.any_browser]

pytest.importorskip("django", reason="the admin is Django's: pip install 'backjob[django]'")

OF_DJANGO: Final = {"label-title-only", "link-in-text-block"}
"""What axe finds in Django's own parts of these pages: the field to search in, and the breadcrumbs."""

COMMAND = [sys.executable, str(ROOT / "tests" / "browser" / "admin_site.py")]


@pytest.fixture(scope="module")
def url(browsers: Browsers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the site, one for each browser."""
    folder = tmp_path_factory.mktemp("admin")
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    environment["PYTHONPATH"] = str(ROOT)
    with served([*COMMAND, str(folder)], folder, environment, r"serving http://127\.0\.0\.1:(\d+)/") as port:
        yield f"http://127.0.0.1:{port}"


def logged_in(visitor: Visitor, url: str, *, width: int = 1440, locale: str = "en-GB") -> Page:
    """A page with the list of jobs."""
    page = visitor.page(viewport={"width": width, "height": 700}, locale=locale)
    page.goto(f"{url}/admin/backjob/job/")
    page.locator("#id_username").fill("Al")
    page.locator("#id_password").fill("secret")
    page.locator("[type=submit]").click()
    page.locator("#result_list").wait_for()
    return page


def shoot(visitor: Visitor, page: Page, name: str) -> None:
    """Take a picture, in Chromium alone."""
    if not visitor.is_firefox:
        picture(page, name)


def width_of(page: Page, selector: str) -> float:
    box = page.locator(selector).first.bounding_box()
    assert box is not None
    return box["width"]


def test_the_list_shows_jobs_with_titles_states_and_owners(visitor: Visitor, url: str) -> None:
    page = logged_in(visitor, url)
    rows = page.locator("#result_list tbody tr")
    assert rows.count() == 5
    running = page.get_by_role("row").filter(has_text="Import of 41,000 rows")
    assert "Running" in running.inner_text()
    assert "Bo Jensen" in running.inner_text()
    failed = page.get_by_role("row").filter(has_text="Newsletter")
    assert "the mail server closed the connection" in failed.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440
    shoot(visitor, page, "admin-list")


def test_the_page_of_a_running_job_gives_the_element_all_the_width(visitor: Visitor, url: str) -> None:
    page = logged_in(visitor, url)
    page.get_by_role("link", name="Import of 41,000 rows").click()
    page.get_by_text("17,630 rows read").wait_for()
    page.locator("backjob-progress progress[value='43']").wait_for()
    assert width_of(page, "backjob-progress") >= width_of(page, "fieldset") - 2 > 700
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440
    shoot(visitor, page, "admin-job")
    page.set_viewport_size({"width": 320, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    shoot(visitor, page, "admin-job-narrow")


def test_the_page_of_a_failed_task_has_its_traceback_in_lines(visitor: Visitor, url: str) -> None:
    page = logged_in(visitor, url)
    page.get_by_role("link", name="Newsletter").click()
    traceback = page.locator("details[open] pre")
    lines = traceback.inner_text().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("ConnectionResetError: the mail server closed the connection")
    box = traceback.bounding_box()
    assert box is not None
    assert box["height"] > 12 * len(lines)  # each line is one of its own
    shoot(visitor, page, "admin-failed")


def test_staff_cancel_a_job_by_its_button_and_find_that_in_its_history(visitor: Visitor, url: str) -> None:
    page = logged_in(visitor, url, locale="de-DE")
    page.get_by_role("link", name="Nightly clean-up").click()
    page.get_by_role("button", name="Auftrag abbrechen").click()
    page.get_by_text("1 Auftrag abgebrochen.").wait_for()
    assert page.get_by_role("button", name="Auftrag abbrechen").count() == 0
    assert page.locator(".field-state .readonly").inner_text() == "Abgebrochen"
    page.locator(".historylink").click()
    page.get_by_text("Abgebrochen.").wait_for()


def test_the_list_and_the_pages_of_jobs_are_accessible(visitor: Visitor, url: str, modules: Path) -> None:
    if visitor.is_firefox:
        pytest.skip("axe reads the same page in Firefox, slowly")
    page = logged_in(visitor, url)
    found = in_both_schemes(page, modules)
    for title in ("Import of 41,000 rows", "Newsletter"):
        page.goto(f"{url}/admin/backjob/job/")
        page.get_by_role("link", name=title).click()
        page.locator("#job_form").wait_for()
        found += in_both_schemes(page, modules)
    assert [one for one in found if one.split(": ")[1] not in OF_DJANGO] == []


def in_both_schemes(page: Page, modules: Path) -> list[str]:
    found = findings(page, modules)
    page.emulate_media(color_scheme="dark")
    found += findings(page, modules, "color-contrast")  # the only difference
    page.emulate_media(color_scheme="light")
    return found
