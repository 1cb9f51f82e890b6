"""The element that listens to events: on FastAPI and uvicorn, whose end it survives, and where there are none."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from backjob import Status
from tests.browser.test_element import part, turn

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request, Route

    from tests.browser.conftest import Visitor
    from tests.browser.told import Told, ToldJob

pytestmark = pytest.mark.slow


def asked_of(page: Page) -> list[str]:
    """What the page asks for from now on: the last parts of the addresses of its jobs, without their tokens."""
    asked: list[str] = []

    def note(request: Request) -> None:
        found = re.search(r"/backjob/[^/?]+\.[^/?]{20,}(.*)", request.url)
        if found and "?job=" not in request.url:
            asked.append(found[1])

    page.on("request", note)
    return asked


def event_of(job: ToldJob) -> str:
    """What a stream of this job begins with."""
    return f"id: 0\nevent: state\ndata: {json.dumps(job.site.jobs.status(job.id).as_dict())}\n\n"


def test_it_listens_and_asks_no_more(told: Told, visitor: Visitor) -> None:
    job = told.job()
    page = visitor.page()
    asked = asked_of(page)
    page.goto(told.page(job, stream="", output=""))
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
    assert asked == ["", "/output?offset=0", "/events?offset=0"]


def test_without_output_it_wants_none(told: Told, visitor: Visitor) -> None:
    job = told.job().claim().report(10, output="not shown\n")
    page = visitor.page()
    asked = asked_of(page)
    page.goto(told.page(job, stream=""))
    page.locator("progress[value='10']").wait_for()
    job.end(Status.FAILED, "No more")
    page.get_by_text("No more").wait_for()
    assert asked == ["", "/events?offset=0&output=0"]
    assert part(page, "output").is_hidden()


def test_after_a_restart_of_the_server_the_output_goes_on_where_it_was(told: Told, visitor: Visitor) -> None:
    visitor.expected = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET"
    job = told.job().claim().report(10, "Reading", "first\n")
    page = visitor.page()
    page.goto(told.page(job, stream="", output=""))
    page.locator("pre", has_text="first").wait_for()
    job.report(20, output="second\n")
    page.locator("progress[value='20']").wait_for()
    told.kill()
    job.report(30, "Still reading", "third\n")
    page.get_by_role("status").get_by_text("Connection lost").wait_for()
    told.start()
    page.locator("backjob-progress:not([data-lost]) progress[value='30']").wait_for()
    job.report(output="fourth\n").end(Status.COMPLETED, "Read")
    page.get_by_text("Done: Read").wait_for()
    assert part(page, "output").text_content() == "first\nsecond\nthird\nfourth\n"


def test_a_hidden_tab_leaves_the_stream_and_resumes_it_by_offset(told: Told, visitor: Visitor) -> None:
    job = told.job().claim().report(10, output="first\n")
    page = visitor.page()
    page.goto(told.page(job, stream="", output=""))
    page.locator("progress[value='10']").wait_for()
    job.report(20, output="second\n")
    page.locator("progress[value='20']").wait_for()
    asked = asked_of(page)
    turn(page, hidden=True)
    job.report(30, output="third\n")
    assert asked == []
    assert page.locator("progress").get_attribute("value") == "20"
    with page.expect_request("**/events?offset=19"):
        turn(page, hidden=False)
    page.locator("progress[value='30']").wait_for()
    job.report(40, output="fourth\n")
    page.locator("progress[value='40']").wait_for()
    assert part(page, "output").text_content() == "first\nsecond\nthird\nfourth\n"


@pytest.mark.parametrize("status", [404, pytest.param(503, marks=pytest.mark.slow)])
def test_where_streams_are_refused_it_asks_again_and_again(told: Told, visitor: Visitor, status: int) -> None:
    visitor.expected = str(status)
    job = told.job().claim().report(10, output="first\n")
    page = visitor.page()
    page.route("**/events?*", lambda route: route.fulfill(status=status, json={"error": "none"}))
    asked = asked_of(page)
    page.goto(told.page(job, stream="", output=""))
    page.locator("progress[value='10']").wait_for()
    for percent in (20, 30, 40):
        job.report(percent, output=f"{percent}\n")
        page.locator(f"progress[value='{percent}']").wait_for()
    job.end(Status.COMPLETED, "Read")
    page.get_by_text("Done: Read").wait_for()
    assert part(page, "output").text_content() == "first\n20\n30\n40\n"
    assert len([one for one in asked if one.startswith("/events")]) == 2


def test_a_stream_that_the_server_ends_in_time_is_no_lost_connection(told: Told, visitor: Visitor) -> None:
    job = told.job().claim().report(10)
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
    page.goto(told.page(job, stream=""))
    page.locator("progress[value='10']").wait_for()
    job.report(20)
    page.locator("progress[value='20']").wait_for()
    assert len(streams) == 2
    assert page.evaluate("lost") is False


def test_a_stream_that_stays_silent_is_given_up_for_asking(told: Told, visitor: Visitor) -> None:
    job = told.job().claim().report(10)
    page = visitor.page()
    page.clock.install()
    page.route("**/events?*", lambda route: route.continue_(url=f"{told.url}/silent"))
    asked = asked_of(page)
    with page.expect_response("**/silent"):
        page.goto(told.page(job, stream=""))
    job.report(20)
    with page.expect_response("**/silent"):
        page.clock.run_for(20_000)
        page.locator("progress[value='20']").wait_for()
        page.clock.run_for(1_000)
    page.clock.run_for(20_000)
    job.end(Status.COMPLETED, "Read")
    page.get_by_text("Done: Read").wait_for()
    assert len([one for one in asked if one.startswith("/events")]) == 2


def test_a_stream_whose_connection_died_unnoticed_is_opened_anew(told: Told, visitor: Visitor) -> None:
    job = told.job().claim().report(10)
    page = visitor.page()
    page.clock.install()
    heard = event_of(job.report(20))
    job.report(10)
    streams: list[str] = []

    def fall_silent(route: Route) -> None:
        streams.append(route.request.url)
        if len(streams) > 1:
            route.continue_()
        else:
            route.continue_(url=f"{told.url}/silent?first={quote(heard)}")

    page.route("**/events?*", fall_silent)
    page.goto(told.page(job, stream=""))
    page.locator("progress[value='20']").wait_for()
    job.report(30)
    page.clock.run_for(200_000)
    assert page.locator("progress").get_attribute("value") == "20"
    page.clock.run_for(110_000)
    page.locator("progress[value='30']").wait_for()
    job.end(Status.COMPLETED, "Read")
    page.get_by_text("Done: Read").wait_for()
    assert len(streams) == 2


def test_what_stands_in_the_output_is_not_repeated_above_it(told: Told, visitor: Visitor) -> None:
    job = told.job().claim()
    page = visitor.page()
    page.add_init_script(
        """window.updates = [];
        document.addEventListener("backjob-update", ({ detail }) => updates.push(detail.status_text));"""
    )
    with page.expect_response("**/events?*"):
        page.goto(told.page(job, stream="", output=""))
    job.report(output="first\nsecond\n")
    part(page, "status").get_by_text("Running: second", exact=True).wait_for()
    assert part(page, "output").text_content() == "first\nsecond\n"
    assert page.evaluate("updates") == ["", "first\nsecond\n"]


def test_a_tab_that_was_hidden_while_it_asked_opens_no_stream(told: Told, visitor: Visitor) -> None:
    job = told.job().claim().report(10)
    page = visitor.page()
    page.add_init_script(
        """const real = fetch;
        fetch = async (...asked) => {
            fetch = real;
            const answer = await real(...asked);
            Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
            document.dispatchEvent(new Event("visibilitychange"));
            return answer;
        };"""
    )
    asked = asked_of(page)
    page.goto(told.page(job, stream=""))
    page.locator("progress[value='10']").wait_for()
    with page.expect_request("**/events?*"):
        turn(page, hidden=False)
    assert asked == ["", "", "/events?offset=0&output=0"]


def test_many_elements_leave_connections_for_the_rest_of_the_page(told: Told, visitor: Visitor) -> None:
    jobs = [told.job().claim().report(10) for _ in range(5)]
    page = visitor.page()
    asked = asked_of(page)
    page.goto(told.page(*jobs, stream=""))
    page.locator("progress[value='10']").nth(4).wait_for()
    for job in jobs:
        job.report(20)
    page.locator("progress[value='20']").nth(4).wait_for()
    assert len([one for one in asked if one.startswith("/events")]) == 3
    for job in jobs:
        job.end(Status.COMPLETED, "")
    page.locator("progress[value='100']").nth(4).wait_for()


def test_a_job_of_a_real_route_is_shown_to_its_end(told: Told, visitor: Visitor) -> None:
    page = visitor.page()
    source = page.request.get(f"{told.url}/start").text()
    page.goto(f"{told.url}/?output=&stream=&job={source}")
    page.get_by_text("Done: 40 rows exported").wait_for()
    assert part(page, "output").text_content() == "".join(f"{row} rows written\n" for row in (10, 20, 30, 40))
    assert page.locator("progress").get_attribute("value") == "100"
