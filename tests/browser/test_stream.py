"""The element with event streams: on FastAPI and uvicorn, through restarts, and without streams."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from backjob import Status
from tests.browser.test_element import part, set_hidden

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request, Route

    from tests.browser.conftest import Visitor
    from tests.browser.scripted import ScriptedJob, ScriptedSite

pytestmark = pytest.mark.slow


def requests_of(page: Page) -> list[str]:
    """A list that collects the page's requests to jobs: each is the URL after the token."""
    requested: list[str] = []

    def note(request: Request) -> None:
        found = re.search(r"/backjob/[^/?]+\.[^/?]{20,}(.*)", request.url)
        if found and "?job=" not in request.url:
            requested.append(found[1])

    page.on("request", note)
    return requested


def event_of(job: ScriptedJob) -> str:
    """The first event of the job's stream."""
    return f"id: 0\nevent: state\ndata: {json.dumps(job.site.jobs.status(job.id).as_dict())}\n\n"


@pytest.mark.any_browser
def test_the_element_does_not_poll_while_it_streams(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job()
    page = visitor.page()
    requested = requests_of(page)
    page.goto(scripted.page(job, stream="", output=""))
    part(page, "state").get_by_text("Waiting to start").wait_for()
    job.claim().report(10, "Reading")
    page.locator("progress[value='10']").wait_for()
    for number in range(20):
        job.report(output=f"line {number} <b>&amp; 'so' 😀\n")
    job.report(90, "Writing")
    page.locator("progress[value='90']").wait_for()
    job.end(Status.COMPLETED, "Written")
    page.get_by_text("Written").wait_for()
    assert part(page, "output").text_content() == "".join(f"line {number} <b>&amp; 'so' 😀\n" for number in range(20))
    assert requested == ["", "/output?offset=0", "/events?offset=0"]


@pytest.mark.any_browser
def test_the_button_to_cancel_stays_while_the_element_streams(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(10, "Reading")
    page = visitor.page()
    with page.expect_request("**/events?*"):
        page.goto(scripted.page(job, stream="", cancel=""))
    job.report(20)
    page.locator("progress[value='20']").wait_for()
    page.get_by_role("button", name="Cancel").click()
    part(page, "state").get_by_text("Cancelled").wait_for()
    assert scripted.jobs.status(job.id).status is Status.CANCELLED


@pytest.mark.any_browser
def test_an_element_without_output_requests_none(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(10, output="not shown\n")
    page = visitor.page()
    requested = requests_of(page)
    page.goto(scripted.page(job, stream=""))
    page.locator("progress[value='10']").wait_for()
    job.end(Status.FAILED, "No more")
    page.get_by_text("No more").wait_for()
    assert requested == ["", "/events?offset=0&output=0"]
    assert part(page, "output").is_hidden()


def test_the_output_resumes_where_it_was_after_a_restart_of_the_server(
    scripted: ScriptedSite, visitor: Visitor
) -> None:
    visitor.expected = "ERR_(CONNECTION_REFUSED|INCOMPLETE_CHUNKED_ENCODING|CONNECTION_RESET)|Firefox can’t establish"
    job = scripted.job().claim().report(10, "Reading", "first\n")
    page = visitor.open(scripted.page(job, stream="", output=""))
    page.locator("pre", has_text="first").wait_for()
    job.report(20, output="second\n")
    page.locator("progress[value='20']").wait_for()
    scripted.kill()
    job.report(30, "Still reading", "third\n")
    page.get_by_role("status").get_by_text("Connection lost").wait_for()
    scripted.start()
    page.locator("backjob-progress:not([data-lost]) progress[value='30']").wait_for()
    job.report(output="fourth\n").end(Status.COMPLETED, "Read")
    page.get_by_text("Done: Read").wait_for()
    assert part(page, "output").text_content() == "first\nsecond\nthird\nfourth\n"


def test_a_hidden_tab_closes_the_stream_and_resumes_it_by_offset(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(10, output="first\n")
    page = visitor.open(scripted.page(job, stream="", output=""))
    page.locator("progress[value='10']").wait_for()
    job.report(20, output="second\n")
    page.locator("progress[value='20']").wait_for()
    requested = requests_of(page)
    set_hidden(page, hidden=True)
    job.report(30, output="third\n")
    assert requested == []
    assert page.locator("progress").get_attribute("value") == "20"
    with page.expect_request("**/events?offset=19"):
        set_hidden(page, hidden=False)
    page.locator("progress[value='30']").wait_for()
    job.report(40, output="fourth\n")
    page.locator("progress[value='40']").wait_for()
    assert part(page, "output").text_content() == "first\nsecond\nthird\nfourth\n"


@pytest.mark.any_browser
@pytest.mark.parametrize("status", [404, pytest.param(503, marks=pytest.mark.slow)])
def test_the_element_polls_if_streams_are_refused(scripted: ScriptedSite, visitor: Visitor, status: int) -> None:
    visitor.expected = f"{status}|Firefox can’t establish"
    job = scripted.job().claim().report(10, output="first\n")
    page = visitor.page()
    page.route("**/events?*", lambda route: route.fulfill(status=status, json={"error": "none"}))
    requested = requests_of(page)
    page.goto(scripted.page(job, stream="", output=""))
    page.locator("progress[value='10']").wait_for()
    for percent in (20, 30, 40):
        job.report(percent, output=f"{percent}\n")
        page.locator(f"progress[value='{percent}']").wait_for()
    job.end(Status.COMPLETED, "Read")
    page.get_by_text("Done: Read").wait_for()
    assert part(page, "output").text_content() == "first\n20\n30\n40\n"
    assert len([one for one in requested if one.startswith("/events")]) == 2


def test_a_stream_that_the_server_ends_at_its_lifetime_is_not_a_lost_connection(
    scripted: ScriptedSite, visitor: Visitor
) -> None:
    job = scripted.job().claim().report(10)
    page = visitor.page()
    first = event_of(job)
    streams: list[str] = []

    def end_at_once(route: Route) -> None:
        streams.append(route.request.url)
        if len(streams) > 1:
            route.continue_()
        else:
            route.fulfill(content_type="text/event-stream", body=f"retry: 100\n\n{first}")

    page.route("**/events?*", end_at_once)
    page.add_init_script(
        """window.lost = false;
        new MutationObserver((changes) => lost ||= changes.some(({ target }) => target.hasAttribute("data-lost")))
            .observe(document, { attributes: true, attributeFilter: ["data-lost"], subtree: true });"""
    )
    page.goto(scripted.page(job, stream=""))
    page.locator("progress[value='10']").wait_for()
    job.report(20)
    page.locator("progress[value='20']").wait_for()
    assert len(streams) == 2
    assert page.evaluate("lost") is False


def test_the_element_polls_if_a_stream_stays_silent(scripted: ScriptedSite, visitor: Visitor) -> None:
    visitor.needs_chromium("Playwright can't give an EventSource another URL in Firefox")
    job = scripted.job().claim().report(10)
    page = visitor.page()
    page.clock.install()
    page.route("**/events?*", lambda route: route.continue_(url=f"{scripted.url}/silent"))
    requested = requests_of(page)
    with page.expect_response("**/silent"):
        page.goto(scripted.page(job, stream=""))
    job.report(20)
    with page.expect_response("**/silent"):
        page.clock.run_for(20_000)
        page.locator("progress[value='20']").wait_for()
        page.clock.run_for(1_000)
    page.clock.run_for(20_000)
    job.end(Status.COMPLETED, "Read")
    page.get_by_text("Done: Read").wait_for()
    assert len([one for one in requested if one.startswith("/events")]) == 2


def test_a_stream_whose_connection_died_silently_is_reopened(scripted: ScriptedSite, visitor: Visitor) -> None:
    visitor.needs_chromium("Playwright can't give an EventSource another URL in Firefox")
    job = scripted.job().claim().report(10)
    page = visitor.page()
    page.clock.install()
    first = event_of(job.report(20))
    job.report(10)
    streams: list[str] = []

    def fall_silent(route: Route) -> None:
        streams.append(route.request.url)
        if len(streams) > 1:
            route.continue_()
        else:
            route.continue_(url=f"{scripted.url}/silent?first={quote(first)}")

    page.route("**/events?*", fall_silent)
    page.goto(scripted.page(job, stream=""))
    page.locator("progress[value='20']").wait_for()
    job.report(30)
    page.clock.run_for(200_000)
    assert page.locator("progress").get_attribute("value") == "20"
    page.clock.run_for(110_000)
    page.locator("progress[value='30']").wait_for()
    job.end(Status.COMPLETED, "Read")
    page.get_by_text("Done: Read").wait_for()
    assert len(streams) == 2


@pytest.mark.any_browser
def test_the_status_text_does_not_repeat_the_output(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim()
    page = visitor.page()
    page.add_init_script(
        """window.updates = [];
        document.addEventListener("backjob-update", ({ detail }) => updates.push(detail.status_text));"""
    )
    with page.expect_response("**/events?*"):
        page.goto(scripted.page(job, stream="", output=""))
    job.report(output="first\nsecond\n")
    part(page, "status").get_by_text("Running: second", exact=True).wait_for()
    assert part(page, "output").text_content() == "first\nsecond\n"
    assert page.evaluate("updates") == ["", "first\nsecond\n"]


@pytest.mark.any_browser
def test_a_tab_hidden_during_a_request_opens_no_stream(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(10)
    page = visitor.page()
    page.add_init_script(
        """const real = fetch;
        fetch = async (...parameters) => {
            fetch = real;
            const response = await real(...parameters);
            Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
            document.dispatchEvent(new Event("visibilitychange"));
            return response;
        };"""
    )
    requested = requests_of(page)
    page.goto(scripted.page(job, stream=""))
    page.locator("progress[value='10']").wait_for()
    with page.expect_request("**/events?*"):
        set_hidden(page, hidden=False)
    assert requested == ["", "", "/events?offset=0&output=0"]


@pytest.mark.any_browser
def test_at_most_three_elements_of_a_page_stream(scripted: ScriptedSite, visitor: Visitor) -> None:
    jobs = [scripted.job().claim().report(10) for _ in range(5)]
    page = visitor.page()
    requested = requests_of(page)
    page.goto(scripted.page(*jobs, stream=""))
    page.locator("progress[value='10']").nth(4).wait_for()
    for job in jobs:
        job.report(20)
    page.locator("progress[value='20']").nth(4).wait_for()
    assert len([one for one in requested if one.startswith("/events")]) == 3
    for job in jobs:
        job.end(Status.COMPLETED, "")
    page.locator("progress[value='100']").nth(4).wait_for()


def test_the_element_follows_a_job_of_a_real_route_to_its_end(scripted: ScriptedSite, visitor: Visitor) -> None:
    page = visitor.page()
    source = page.request.get(f"{scripted.url}/start").text()
    page.goto(f"{scripted.url}/?output=&stream=&job={source}")
    page.get_by_text("Done: 40 rows exported").wait_for()
    assert part(page, "output").text_content() == "".join(f"{row} rows written\n" for row in (10, 20, 30, 40))
    assert page.locator("progress").get_attribute("value") == "100"
