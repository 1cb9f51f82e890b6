"""A real htmx polls and swaps the fragment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backjob import Status
from tests.browser.test_element import urls_of

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.conftest import Visitor
    from tests.browser.scripted import ScriptedSite

pytestmark = pytest.mark.slow

PLAIN = "<!doctype html><title>htmx</title><link rel='icon' href='data:,'>"
SCRIPT = "<script src='/backjob/progress.js'></script>"
PAGE = """<!doctype html><title>htmx</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/backjob/progress.css"><script src="/htmx.js"></script>
<div hx-get="{source}/fragment?output=1" hx-trigger="load, every 200ms" aria-label="Export"></div>"""


def open_page(scripted: ScriptedSite, visitor: Visitor, modules: Path, source: str) -> Page:
    """A page with htmx, which the test serves itself because the application's policy forbids htmx."""
    page = visitor.page()
    page.clock.install()
    page.route("**/htmx.js", lambda route: route.fulfill(path=modules / "htmx.org" / "dist" / "htmx.min.js"))
    page.route("**/htmx", lambda route: route.fulfill(body=PAGE.format(source=source), content_type="text/html"))
    page.goto(f"{scripted.url}/htmx")
    return page


@pytest.mark.any_browser
def test_htmx_shows_a_job_and_stops_at_its_end(scripted: ScriptedSite, visitor: Visitor, modules: Path) -> None:
    hostile = "<script>document.title = 'taken'</script> <img src=x onerror=alert(1)> hx-on:load='x'\n"
    job = scripted.job()
    page = open_page(scripted, visitor, modules, job.source)
    page.get_by_text("Waiting to start").wait_for()
    job.claim().report(40, "Reading", hostile)
    page.locator("progress[value='40']").wait_for()
    assert page.locator("pre").text_content() == hostile
    assert page.locator("backjob-progress :is(script, img)").count() == 0
    job.report(output="second\n")
    page.locator("pre", has_text="second").wait_for()
    with page.expect_response(lambda response: response.status == 286):
        job.end(Status.COMPLETED, "Read", {"href": "/export.csv"})
    page.get_by_text("Done: Read").wait_for()
    assert page.get_by_role("link", name="Open the result").get_attribute("href") == "/export.csv"
    requested = urls_of(page)
    page.clock.run_for(60_000)
    assert requested == []
    assert page.title() == "htmx"


def test_the_elements_script_does_not_change_a_fragment(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(40, "Reading")
    page = visitor.page()
    fragment = page.request.get(f"{scripted.url}{job.source}/fragment").text()
    page.route("**/own", lambda route: route.fulfill(body=PLAIN + SCRIPT + fragment, content_type="text/html"))
    page.goto(f"{scripted.url}/own")
    assert page.evaluate("document.querySelector('backjob-progress').state") is None
    assert page.locator("backjob-progress").get_attribute("data-status") == "in_progress"
    assert page.get_by_role("status").text_content() == "Running"
    assert page.locator("progress").get_attribute("value") == "40"


def test_a_script_that_runs_while_the_page_loads_replaces_the_elements_content(
    scripted: ScriptedSite, visitor: Visitor
) -> None:
    job = scripted.job().claim().report(40, "Reading")
    page = visitor.page()
    body = f"{PLAIN}{SCRIPT}<backjob-progress src='{job.source}'><p>Please wait</p></backjob-progress>"
    page.route("**/own", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.goto(f"{scripted.url}/own")
    page.locator("progress[value='40']").wait_for()
    assert page.get_by_role("status").all_text_contents() == ["Running"]
    assert page.get_by_text("Please wait").count() == 0
