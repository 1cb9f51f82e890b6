"""The element, with jobs whose every state the test writes: what it shows, says, and asks the server for."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from email.utils import format_datetime
from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from backjob import Status

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

    from tests.browser.conftest import Visitor
    from tests.browser.told import Told

pytestmark = pytest.mark.slow

GERMAN = {"in_progress": "Läuft", "completed": "Fertig", "left": "noch etwa {time}", "cancel": "Abbrechen"}


def part(page: Page, name: str, number: int = 0) -> Locator:
    return page.locator("backjob-progress").nth(number).locator(f"[part='{name}']")


def turn(page: Page, *, hidden: bool) -> None:
    """Send the tab to the background, or bring it back: a headless browser shows all of its tabs."""
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_job_from_its_start_to_its_end(told: Told, visitor: Visitor) -> None:
    job = told.job()
    page = visitor.page()
    page.goto(told.page(job, output="", cancel="", label="Export"))
    part(page, "state").get_by_text("Waiting to start").wait_for()
    bar = page.get_by_role("progressbar", name="Export")
    assert bar.get_attribute("value") is None
    assert part(page, "percent").text_content() == ""
    job.claim().report(40, "Reading")
    page.locator("progress[value='40']").wait_for()
    assert part(page, "status").text_content() == "Running: Reading"
    assert part(page, "percent").text_content() == "40%"
    assert page.get_by_role("button", name="Cancel").is_visible()
    job.end(Status.COMPLETED, "All read", {"href": "/export.csv"})
    page.locator("progress[value='100']").wait_for()
    assert part(page, "status").text_content() == "Done: All read"
    assert page.get_by_role("link", name="Open the result").get_attribute("href") == f"{told.url}/export.csv"
    assert part(page, "cancel").is_hidden()
    assert page.locator("backjob-progress").get_attribute("data-status") == "completed"


@pytest.mark.parametrize(
    ("status", "words"), [(Status.FAILED, "Failed: row 7 is no row"), (Status.CANCELLED, "Cancelled")]
)
def test_another_end_is_said_with_its_reason(told: Told, visitor: Visitor, status: Status, words: str) -> None:
    job = told.job().claim().report(30)
    job.end(status, words.partition(": ")[2])
    page = visitor.page()
    page.goto(told.page(job))
    page.get_by_text(words).wait_for()
    assert page.get_by_role("status").text_content() == words
    assert page.locator("progress").get_attribute("value") == "30"


def test_screen_readers_hear_of_a_new_state_and_of_no_percent(told: Told, visitor: Visitor) -> None:
    job = told.job()
    page = visitor.page()
    page.goto(told.page(job))
    part(page, "state").get_by_text("Waiting to start").wait_for()
    page.evaluate(
        """() => {
            window.heard = [];
            const region = document.querySelector("[role=status]");
            new MutationObserver(() => heard.push(region.textContent))
                .observe(region, { childList: true, characterData: true, subtree: true });
        }"""
    )
    job.claim()
    for percent in (10, 20, 30):
        job.report(percent, f"row {percent}")
        page.locator(f"progress[value='{percent}']").wait_for()
    job.end(Status.FAILED, "row 31 is no row")
    page.get_by_text("row 31 is no row").wait_for()
    heard = [said for said, _ in groupby(page.evaluate("heard"))]
    assert heard == ["Running", "Failed: row 31 is no row"]


def test_time_is_told_and_what_is_left_is_estimated(told: Told, visitor: Visitor) -> None:
    job = told.job().claim()
    told.clock.advance(90)
    job.report(25, "Reading")
    page = visitor.page()
    page.clock.install()
    page.goto(told.page(job))
    page.get_by_text("1 min 30 sec · about 5 min left").wait_for()
    page.clock.run_for(61_000)
    page.get_by_text(re.compile(r"^2 min 3\d sec · about \d min left$")).wait_for()
    told.clock.advance(70)
    job.end(Status.COMPLETED, "Read")
    part(page, "time").get_by_text("2 min 40 sec", exact=True).wait_for()


def test_a_silent_job_is_as_old_as_the_servers_clock_says(told: Told, visitor: Visitor) -> None:
    job = told.job().claim().report(40)
    page = visitor.page()

    def an_hour_later(route: Route) -> None:
        now = format_datetime(told.clock.now() + timedelta(hours=1), usegmt=True)
        answer = route.fetch()
        route.fulfill(response=answer, headers={**answer.headers, "Date": now})

    page.route(f"**{job.source}", an_hour_later)
    page.goto(told.page(job))
    part(page, "time").get_by_text(re.compile(r"^(59 min 59|1 hr)")).wait_for()


def test_a_delayed_job_says_when_it_starts(told: Told, visitor: Visitor) -> None:
    page = visitor.page()
    page.clock.set_fixed_time("2026-03-01T12:00:00Z")
    page.goto(told.page(told.job(due=3 * 3600 + 240)))
    page.get_by_text("starts in 3 hr 4 min").wait_for()


def test_it_speaks_the_language_of_its_texts_and_of_the_page(told: Told, visitor: Visitor) -> None:
    job = told.job().claim()
    told.clock.advance(90)
    job.report(25)
    page = visitor.page()
    page.goto(told.page(job, texts=json.dumps(GERMAN), lang="de", cancel=""))
    page.get_by_text("Läuft").wait_for()
    assert part(page, "percent").text_content() == "25\xa0%"
    page.get_by_text("1 Min. 30 Sek. · noch etwa 5 Min.").wait_for()
    assert page.get_by_role("button", name="Abbrechen").is_visible()
    page.evaluate("customElements.get('backjob-progress').texts = { failed: 'Schiefgegangen', completed: 'Geschafft' }")
    job.end(Status.FAILED, "")
    page.get_by_text("Schiefgegangen").wait_for()


def test_texts_that_are_no_json_are_said_in_english_and_told_to_the_developer(told: Told, visitor: Visitor) -> None:
    visitor.expected = "texts is not JSON"
    page = visitor.page()
    page.goto(told.page(told.job().claim(), texts="{"))
    page.get_by_text("Running").wait_for()


def test_events_tell_of_every_change_and_of_the_end_once(told: Told, visitor: Visitor) -> None:
    job = told.job()
    page = visitor.page()
    page.add_init_script(
        """window.told = [];
        for (const name of ["update", "done", "failed"])
            document.addEventListener(`backjob-${name}`, ({ detail }) => told.push([name, detail.status, detail.progress]));"""
    )
    page.goto(told.page(job))
    part(page, "state").get_by_text("Waiting to start").wait_for()
    job.claim().report(50)
    page.locator("progress[value='50']").wait_for()
    job.end(Status.COMPLETED, "")
    page.locator("progress[value='100']").wait_for()
    events = page.evaluate("told")
    assert [event for event in events if event != ["update", 1, 0]] == [
        ["update", 0, 0], ["update", 1, 50], ["update", 2, 100], ["done", 2, 100],
    ]  # fmt: skip
    assert page.evaluate("document.querySelector('backjob-progress').state.status_name") == "COMPLETED"


@pytest.mark.parametrize(("href", "place"), [("/export.csv?x=1", "/export.csv?x=1"), ("", "/export.csv")])
def test_once_the_job_is_done_it_goes_where_it_was_told(told: Told, visitor: Visitor, href: str, place: str) -> None:
    job = told.job().claim()
    page = visitor.page()
    page.goto(told.page(job, on_done_href=href))
    page.get_by_text("Running").wait_for()
    job.end(Status.COMPLETED, "", {"href": "/export.csv"})
    page.wait_for_url(told.url + place)


def test_from_there_the_way_back_skips_the_page_that_would_go_there_again(told: Told, visitor: Visitor) -> None:
    job = told.job().claim()
    page = visitor.page()
    page.goto(f"{told.url}/")
    page.goto(told.page(job, on_done_href="/export.csv"))
    page.get_by_text("Running").wait_for()
    job.end(Status.COMPLETED, "")
    page.wait_for_url(f"{told.url}/export.csv")
    page.go_back()
    assert page.url == f"{told.url}/"


def test_it_stays_where_a_listener_says_so_where_the_job_failed_and_where_a_link_is_none(
    told: Told, visitor: Visitor
) -> None:
    here = []
    for status, href, listener in (
        (
            Status.COMPLETED,
            "/export.csv",
            "document.addEventListener('backjob-done', (event) => event.preventDefault())",
        ),
        (Status.FAILED, "/export.csv", ""),
        (Status.COMPLETED, "javascript:document.title='taken'", ""),
    ):
        job = told.job().claim()
        page = visitor.page()
        page.add_init_script(listener)
        page.goto(told.page(job, on_done_href=href))
        page.get_by_text("Running").wait_for()
        job.end(status, "That was it")
        page.get_by_text("That was it").wait_for()
        here.append((page.title(), "/?job=" in page.url))
    assert here == [("Reports", True)] * 3


def test_two_bars_on_one_page_show_their_own_jobs(told: Told, visitor: Visitor) -> None:
    first, second = told.job().claim().report(10, "First"), told.job().claim().report(20, "Second")
    page = visitor.page()
    page.goto(told.page(first, second, cancel=""))
    page.locator("progress[value='10']").wait_for()
    page.locator("progress[value='20']").wait_for()
    part(page, "cancel", 1).click()
    part(page, "state", 1).get_by_text("Cancelled").wait_for()
    first.end(Status.COMPLETED, "")
    part(page, "state", 0).get_by_text("Done").wait_for()
    assert told.jobs.status(second.id).status is Status.CANCELLED


def test_another_src_shows_another_job(told: Told, visitor: Visitor) -> None:
    first, second = (
        told.job().claim().report(10, output="of the first\n"),
        told.job().claim().report(20, output="other\n"),
    )
    page = visitor.page()
    page.goto(told.page(first, output=""))
    page.locator("progress[value='10']").wait_for()
    page.evaluate("(source) => document.querySelector('backjob-progress').setAttribute('src', source)", second.source)
    page.locator("progress[value='20']").wait_for()
    assert part(page, "output").text_content() == "other\n"


def test_moved_in_the_page_after_the_end_it_tells_nothing_again(told: Told, visitor: Visitor) -> None:
    first, second = told.job().claim(), told.job().claim()
    first.end(Status.COMPLETED, "First")
    second.end(Status.COMPLETED, "Second")
    page = visitor.page()
    page.add_init_script(
        """window.told = [];
        for (const name of ["update", "done"])
            document.addEventListener(`backjob-${name}`, ({ detail }) => told.push([name, detail.status_text]));"""
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/backjob/progress" not in request.url else None)
    page.goto(told.page(first))
    page.get_by_text("Done: First").wait_for()
    page.evaluate("window.bar = document.querySelector('backjob-progress'); document.body.prepend(bar)")
    assert page.get_by_role("status").text_content() == "Done: First"
    page.evaluate(
        "(source) => { bar.remove(); bar.setAttribute('src', source); document.body.append(bar) }", second.source
    )
    page.get_by_text("Done: Second").wait_for()
    assert asked[1:] == [told.url + first.source, told.url + second.source]
    assert page.evaluate("told") == [["update", "First"], ["done", "First"], ["update", "Second"], ["done", "Second"]]


def test_moved_when_it_tells_of_the_last_change_it_still_tells_the_end_once(told: Told, visitor: Visitor) -> None:
    job = told.job().claim()
    job.end(Status.COMPLETED, "")
    page = visitor.page()
    page.clock.install()
    page.add_init_script(
        """window.ends = [];
        document.addEventListener("backjob-update", ({ target, detail }) => {
            if (detail.end_time && target.parentNode !== document.body) document.body.append(target);
        });
        document.addEventListener("backjob-done", ({ target, detail }) => {
            ends.push(detail.status_name);
            document.body.prepend(target);
            target.title = "told";
        });"""
    )
    page.goto(told.page(job))
    page.locator("backjob-progress[title='told']").wait_for()
    page.clock.run_for(60_000)
    assert page.evaluate("ends") == ["COMPLETED"]


def test_a_refresh_in_mid_job_goes_on(told: Told, visitor: Visitor) -> None:
    job = told.job().claim().report(30, "Reading", "first\n")
    page = visitor.page()
    page.goto(told.page(job, output=""))
    page.locator("progress[value='30']").wait_for()
    page.reload()
    page.locator("progress[value='30']").wait_for()
    job.report(60, output="second\n")
    page.locator("progress[value='60']").wait_for()
    assert part(page, "output").text_content() == "first\nsecond\n"


def test_the_keyboard_cancels_and_is_not_lost_with_the_button(told: Told, visitor: Visitor) -> None:
    job = told.job().claim().report(10)
    page = visitor.page()
    page.goto(told.page(job, cancel=""))
    page.get_by_role("button", name="Cancel").wait_for()
    page.keyboard.press("Tab")
    assert part(page, "cancel").evaluate("(button) => button === document.activeElement")
    page.keyboard.press("Enter")
    part(page, "state").get_by_text("Cancelled").wait_for()
    assert part(page, "status").evaluate("(status) => status === document.activeElement")
    assert told.jobs.status(job.id).status is Status.CANCELLED


def test_an_address_that_may_not_cancel_says_so(told: Told, visitor: Visitor) -> None:
    visitor.expected = "403"
    job = told.job().claim()
    page = visitor.page()
    page.goto(f"{told.url}/?cancel=&job={told.jobs.status_url(job.id)}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("alert").get_by_text("could not be cancelled").wait_for()
    assert told.jobs.status(job.id).status is Status.IN_PROGRESS


def test_an_unknown_job_is_said_to_be_unknown_and_asked_for_once(told: Told, visitor: Visitor) -> None:
    visitor.expected = "404"
    page = visitor.page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.install()
    page.goto(f"{told.url}/?job=/backjob/unknown")
    page.get_by_text("This job is not known here").wait_for()
    page.clock.run_for(60_000)
    assert len([url for url in asked if url == f"{told.url}/backjob/unknown"]) == 1


@pytest.mark.parametrize(("progress", "value"), [(0, 0), (30, 30)])
def test_of_a_job_that_is_gone_nothing_goes_on(told: Told, visitor: Visitor, progress: int, value: float) -> None:
    visitor.expected = "404|ERR_FAILED"
    job = told.job().claim().report(progress)
    page = visitor.page()
    page.goto(told.page(job, cancel=""))
    page.get_by_role("button", name="Cancel").focus()
    page.route(f"**{job.source}", lambda route: route.abort())
    page.locator("backjob-progress[data-lost]").wait_for()
    page.unroute(f"**{job.source}")
    page.route(f"**{job.source}", lambda route: route.fulfill(status=404, json={"error": "not found"}))
    page.get_by_text("This job is not known here").wait_for()
    assert page.locator("progress:not(:indeterminate)").evaluate("(bar) => bar.value") == value
    assert part(page, "cancel").is_hidden()
    assert part(page, "status").evaluate("(status) => status === document.activeElement")
    assert page.locator("backjob-progress").get_attribute("data-lost") is None


def test_a_lost_connection_is_said_and_survived(told: Told, visitor: Visitor) -> None:
    visitor.expected = "ERR_INTERNET_DISCONNECTED"
    job = told.job().claim().report(30, "Reading", "first\n")
    page = visitor.page()
    page.goto(told.page(job, output=""))
    page.locator("progress[value='30']").wait_for()
    page.context.set_offline(True)
    page.get_by_role("status").get_by_text("Connection lost").wait_for()
    page.locator("backjob-progress[data-lost]").wait_for()
    job.report(60, output="second\n")
    page.context.set_offline(False)
    page.locator("backjob-progress:not([data-lost]) progress[value='60']").wait_for()
    assert part(page, "status").text_content() == "Running: Reading"
    assert part(page, "output").text_content() == "first\nsecond\n"


def test_what_the_server_has_rendered_stays_while_it_can_not_be_reached(told: Told, visitor: Visitor) -> None:
    visitor.expected = "ERR_FAILED"
    job = told.job().claim().report(30, "Reading", "first\n")
    page = visitor.page()
    page.route(
        f"**{job.source}", lambda route: route.abort() if route.request.resource_type == "fetch" else route.continue_()
    )
    page.goto(told.url + job.source)
    page.locator("backjob-progress[data-lost] progress[value='30']").wait_for()
    assert part(page, "status").text_content() == "Running: Reading"
    page.unroute(f"**{job.source}")
    job.report(60)
    page.locator("backjob-progress:not([data-lost]) progress[value='60']").wait_for()


def test_a_hidden_tab_asks_nothing(told: Told, visitor: Visitor) -> None:
    job = told.job().claim().report(30)
    page = visitor.page()
    page.clock.install()
    page.goto(told.page(job))
    page.locator("progress[value='30']").wait_for()
    turn(page, hidden=True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(600_000)
    assert asked == []
    job.report(60)
    turn(page, hidden=False)
    page.locator("progress[value='60']").wait_for()


def test_after_the_end_nothing_is_asked_any_more(told: Told, visitor: Visitor) -> None:
    job = told.job().claim()
    job.end(Status.COMPLETED, "")
    page = visitor.page()
    page.clock.install()
    page.goto(told.page(job, output="", stream=""))
    page.locator("progress[value='100']").wait_for()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(600_000)
    assert asked == []


def test_while_nothing_happens_it_asks_less_and_less_often(told: Told, visitor: Visitor) -> None:
    page = visitor.page()
    page.clock.install()
    page.add_init_script(
        """window.waits = [];
        const real = setTimeout;
        setTimeout = (call, wait) => { waits.push(wait); return real(call, wait); };"""
    )
    job = told.job().claim().report(30)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(told.page(job, output=""))
    for _ in range(8):
        with page.expect_response(lambda response: response.url.endswith(job.source)):
            page.clock.run_for(3000)
    waits = [wait for wait in page.evaluate("waits") if wait <= 3000]  # the longer ones are a request's
    assert waits[:6] == [500, 750, 1125, 1687.5, 2531.25, 3000]
    assert set(waits[6:]) <= {3000}
    assert len([url for url in asked if "/output" in url]) == 1


def test_output_is_text_even_where_it_looks_like_markup(told: Told, visitor: Visitor) -> None:
    hostile = "<script>document.title = 'taken'</script> \"quoted\" & 'so' <img src=x onerror=alert(1)> \ufffd half\n"
    job = told.job().claim().report(10, hostile, hostile)
    page = visitor.page()
    page.goto(told.page(job, output=""))
    page.locator("progress[value='10']").wait_for()
    assert part(page, "output").text_content() == hostile
    job.report(20, output="😀 whole\n")
    page.locator("progress[value='20']").wait_for()
    assert (part(page, "output").text_content() or "").endswith("half\n😀 whole\n")
    assert page.title() == "Reports"
    assert page.locator("backjob-progress :is(script, img)").count() == 0


def test_output_follows_its_end_unless_somebody_reads_further_up(told: Told, visitor: Visitor) -> None:
    lines = "".join(f"line {number}\n" for number in range(200))
    job = told.job().claim().report(10, output=lines)
    page = visitor.page()
    page.goto(told.page(job, output=""))
    page.locator("progress[value='10']").wait_for()
    beneath = "(pre) => pre.scrollHeight - pre.scrollTop - pre.clientHeight"
    assert part(page, "output").evaluate(beneath) < 8
    part(page, "output").evaluate("(pre) => { pre.scrollTop = 0 }")
    job.report(20, output=lines)
    page.locator("progress[value='20']").wait_for()
    assert part(page, "output").evaluate("(pre) => pre.scrollTop") == 0


def test_of_a_very_long_output_the_end_is_kept(told: Told, visitor: Visitor) -> None:
    job = told.job().claim()
    for number in range(20):
        job.report(output=f"{number:031}\n" * 2000)
    job.report(10, "Writing")
    page = visitor.page()
    page.goto(told.page(job, output=""))
    page.locator("progress[value='10']").wait_for()
    shown = part(page, "output").text_content() or ""
    assert 1 << 16 < len(shown) <= 1 << 18
    assert len(shown) % 32 == 0
    assert shown.endswith("0000019\n")
    assert page.get_by_text("There is more output before this.").is_visible()


@pytest.mark.parametrize(
    ("output", "kept"),
    [("😀" * 140_000 + "a", "😀" * 65_535 + "a"), ("x" * 280_000 + "\n", "x" * 131_071 + "\n")],
    ids=["no line break", "at its end alone"],
)
def test_a_very_long_line_is_cut(told: Told, visitor: Visitor, output: str, kept: str) -> None:
    job = told.job().claim().report(10, "Writing", output)
    page = visitor.page()
    page.goto(told.page(job, output=""))
    page.locator("progress[value='10']").wait_for()
    assert part(page, "output").text_content() == kept


def test_taken_out_of_the_page_it_asks_no_more(told: Told, visitor: Visitor) -> None:
    page = visitor.page()
    page.clock.install()
    page.goto(told.page(told.job().claim().report(30)))
    page.locator("progress[value='30']").wait_for()
    page.evaluate("document.querySelector('backjob-progress').remove()")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(60_000)
    assert asked == []
