"""The progress element and the ready page, in a real Chromium, under a strict Content-Security-Policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Site

HOSTILE = "<script>document.title = 'taken'</script> \"quoted\" & 'so' \udc80\n"


def test_the_element_shows_progress_and_output_until_the_end(page: Page, site: Site) -> None:
    page.goto(site.url)
    site.do("update", 40, "Reading")
    page.locator("progress[value='40']").wait_for()
    page.get_by_text("Reading").first.wait_for()
    site.do("echo", "first\n")
    site.do("echo", "second\n")
    page.locator("pre", has_text="second").wait_for()
    site.do("finish", "All read")
    page.get_by_text("All read").first.wait_for()
    page.locator("progress[value='100']").wait_for()
    assert page.locator("pre").text_content() == "first\nsecond\n"


@pytest.mark.slow
def test_output_is_shown_as_text_and_never_as_markup(page: Page, site: Site) -> None:
    page.goto(site.url)
    site.do("echo", HOSTILE)
    page.locator("pre", has_text="quoted").wait_for()  # the status line shows the last line of output as well
    assert page.locator("pre").text_content() == HOSTILE.replace("\udc80", "\ufffd")
    assert page.title() == "site"
    site.do("update", None, HOSTILE)
    site.do("finish")
    page.locator("progress[value='100']").wait_for()
    assert page.title() == "site"


def test_the_cancel_button_cancels_the_job(page: Page, site: Site) -> None:
    page.goto(site.url)
    site.do("update", 10)
    page.locator("progress[value='10']").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled").first.wait_for()
    assert site.jobs.find()[0].status.name == "CANCELLED"
    site.do("update", 20)


@pytest.mark.slow
@pytest.mark.parametrize("script", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_the_ready_page_shows_a_job_to_its_end(page: Page, site: Site, script: bool) -> None:
    page.goto(site.url)
    job_id = site.jobs.find()[0].id
    browser = page.context.browser
    assert browser is not None
    context = browser.new_context(java_script_enabled=script)
    reader = context.new_page()
    site.do("update", 30, "Half way")
    reader.goto(site.url + site.jobs.status_url(job_id))
    reader.locator("progress[value='30']").wait_for()
    site.do("finish", "There")
    reader.get_by_text("There").first.wait_for()
    reader.locator("progress[value='100']").wait_for()
    context.close()
