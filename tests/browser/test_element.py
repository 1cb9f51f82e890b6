"""The element with scripted jobs: what it shows, announces and requests."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from email.utils import format_datetime
from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from backjob import Status
from backjob.lifecycle import Requeue, continued

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

    from tests.browser.conftest import Visitor
    from tests.browser.scripted import ScriptedSite

pytestmark = pytest.mark.slow

GERMAN = {"in_progress": "Läuft", "completed": "Fertig", "left": "noch etwa {time}", "cancel": "Abbrechen"}


def part(page: Page, name: str, number: int = 0) -> Locator:
    return page.locator("backjob-progress").nth(number).locator(f"[part='{name}']")


def set_hidden(page: Page, *, hidden: bool) -> None:
    """Pretend that the tab is hidden or visible: in a headless browser all tabs are visible."""
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def urls_of(page: Page) -> list[str]:
    """A list that collects the URLs of the page's requests."""
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    return urls


def test_the_element_shows_a_job_from_its_start_to_its_end(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job()
    page = visitor.open(scripted.page(job, output="", cancel="", label="Export"))
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
    assert page.get_by_role("link", name="Open the result").get_attribute("href") == f"{scripted.url}/export.csv"
    assert part(page, "cancel").is_hidden()
    assert page.locator("backjob-progress").get_attribute("data-status") == "completed"


@pytest.mark.any_browser
@pytest.mark.parametrize(
    ("status", "words"), [(Status.FAILED, "Failed: row 7 is no row"), (Status.CANCELLED, "Cancelled")]
)
def test_a_failed_or_cancelled_job_is_shown_with_its_reason(
    scripted: ScriptedSite, visitor: Visitor, status: Status, words: str
) -> None:
    job = scripted.job().claim().report(30)
    job.end(status, words.partition(": ")[2])
    page = visitor.open(scripted.page(job))
    page.get_by_text(words).wait_for()
    assert page.get_by_role("status").text_content() == words
    assert page.locator("progress").get_attribute("value") == "30"


@pytest.mark.any_browser
def test_a_retry_shows_the_reason_the_attempt_and_the_earlier_runs(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(30, "Reading")
    page = visitor.open(scripted.page(job))
    page.get_by_text("Running: Reading").wait_for()
    assert part(page, "attempt").is_hidden()
    assert part(page, "history").is_hidden()
    job.requeue(Requeue("row <b>31</b> is no row", 60))
    page.get_by_text("Retrying: row <b>31</b> is no row; attempt 2 of 4").wait_for()
    assert part(page, "attempt").is_hidden()
    job.claim().report(10, "Reading again")
    page.get_by_text("Running: Reading again").wait_for()
    assert part(page, "attempt").text_content() == "attempt 2 of 4"
    part(page, "history").get_by_text("Earlier runs").click()
    runs = part(page, "history").locator("li").all_text_contents()
    assert [run.rpartition(": ")[2] for run in runs] == ["row <b>31</b> is no row"]
    job.end(Status.COMPLETED, "All read")
    page.get_by_text("Done: All read").wait_for()
    assert part(page, "attempt").is_hidden()
    assert part(page, "history").locator("li").count() == 1


@pytest.mark.any_browser
def test_between_slices_nothing_says_that_the_job_waits_and_the_bar_never_goes_back(
    scripted: ScriptedSite, visitor: Visitor
) -> None:
    job = scripted.job().claim().report(10, "row 10")
    page = visitor.open(scripted.page(job))
    page.get_by_text("Running: row 10").wait_for()
    page.evaluate(
        """() => {
            window.seen = [];
            document.addEventListener("backjob-update", () => seen.push([
                document.querySelector("progress").value, document.querySelector("[part=status]").textContent,
            ]));
        }"""
    )
    for percent in (20, 30, 40):
        job.requeue(continued(percent))
        page.wait_for_function("count => document.querySelectorAll('li').length === count", arg=percent // 10 - 1)
        job.claim().report(percent, f"row {percent}")
        page.get_by_text(f"Running: row {percent}").wait_for()
    seen = page.evaluate("seen")
    assert [value for value, _ in seen] == sorted(value for value, _ in seen)
    assert {text.partition(":")[0] for _, text in seen} == {"Running"}


def test_screen_readers_announce_a_new_state_but_no_percentages(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job()
    page = visitor.open(scripted.page(job))
    part(page, "state").get_by_text("Waiting to start").wait_for()
    page.evaluate(
        """() => {
            window.announced = [];
            const region = document.querySelector("[role=status]");
            new MutationObserver(() => announced.push(region.textContent))
                .observe(region, { childList: true, characterData: true, subtree: true });
        }"""
    )
    job.claim()
    for percent in (10, 20, 30):
        job.report(percent, f"row {percent}")
        page.locator(f"progress[value='{percent}']").wait_for()
    job.end(Status.FAILED, "row 31 is no row")
    page.get_by_text("row 31 is no row").wait_for()
    announced = [text for text, _ in groupby(page.evaluate("announced"))]
    assert announced == ["Running", "Failed: row 31 is no row"]


@pytest.mark.any_browser
def test_the_elapsed_time_is_shown_and_the_time_left_is_estimated(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim()
    scripted.clock.advance(90)
    job.report(25, "Reading")
    page = visitor.page()
    page.clock.install()
    page.goto(scripted.page(job))
    page.get_by_text("1 min 30 sec · about 5 min left").wait_for()
    page.clock.run_for(61_000)
    page.get_by_text(re.compile(r"^2 min 3\d sec · about \d min left$")).wait_for()
    scripted.clock.advance(70)
    job.end(Status.COMPLETED, "Read")
    part(page, "time").get_by_text("2 min 40 sec", exact=True).wait_for()


@pytest.mark.any_browser
def test_the_elapsed_time_of_a_silent_job_follows_the_servers_clock(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(40)
    page = visitor.page()

    def an_hour_later(route: Route) -> None:
        now = format_datetime(scripted.clock.now() + timedelta(hours=1), usegmt=True)
        response = route.fetch()
        route.fulfill(response=response, headers={**response.headers, "Date": now})

    page.route(f"**{job.source}", an_hour_later)
    page.goto(scripted.page(job))
    part(page, "time").get_by_text(re.compile(r"^(59 min 59|1 hr)")).wait_for()


@pytest.mark.any_browser
def test_a_delayed_job_shows_when_it_starts(scripted: ScriptedSite, visitor: Visitor) -> None:
    page = visitor.page()
    page.clock.set_fixed_time("2026-03-01T12:00:00Z")
    page.goto(scripted.page(scripted.job(due=3 * 3600 + 240)))
    page.get_by_text("starts in 3 hr 4 min").wait_for()


@pytest.mark.any_browser
def test_the_element_uses_its_texts_and_the_pages_language(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim()
    scripted.clock.advance(90)
    job.report(25)
    page = visitor.open(scripted.page(job, texts=json.dumps(GERMAN), lang="de", cancel=""))
    page.get_by_text("Läuft").wait_for()
    assert part(page, "percent").text_content() == "25\xa0%"
    page.get_by_text("1 Min. 30 Sek. · noch etwa 5 Min.").wait_for()
    assert page.get_by_role("button", name="Abbrechen").is_visible()
    page.evaluate("customElements.get('backjob-progress').texts = { failed: 'Schiefgegangen', completed: 'Geschafft' }")
    job.end(Status.FAILED, "")
    page.get_by_text("Schiefgegangen").wait_for()


@pytest.mark.any_browser
def test_invalid_texts_are_logged_and_the_element_falls_back_to_english(
    scripted: ScriptedSite, visitor: Visitor
) -> None:
    visitor.expected = "texts is not JSON"
    page = visitor.open(scripted.page(scripted.job().claim(), texts="{"))
    page.get_by_text("Running").wait_for()


@pytest.mark.any_browser
def test_every_change_fires_an_event_and_the_end_fires_once(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job()
    page = visitor.page()
    page.add_init_script(
        """window.fired = [];
        for (const name of ["update", "done", "failed"])
            document.addEventListener(`backjob-${name}`, ({ detail }) => fired.push([name, detail.status, detail.progress]));"""
    )
    page.goto(scripted.page(job))
    part(page, "state").get_by_text("Waiting to start").wait_for()
    job.claim().report(50)
    page.locator("progress[value='50']").wait_for()
    job.end(Status.COMPLETED, "")
    page.locator("progress[value='100']").wait_for()
    events = page.evaluate("fired")
    assert [event for event in events if event != ["update", 1, 0]] == [
        ["update", 0, 0], ["update", 1, 50], ["update", 2, 100], ["done", 2, 100],
    ]  # fmt: skip
    assert page.evaluate("document.querySelector('backjob-progress').state.status_name") == "COMPLETED"


@pytest.mark.parametrize(("href", "place"), [("/export.csv?x=1", "/export.csv?x=1"), ("", "/export.csv")])
def test_the_element_goes_to_on_done_href_once_the_job_is_done(
    scripted: ScriptedSite, visitor: Visitor, href: str, place: str
) -> None:
    job = scripted.job().claim()
    page = visitor.open(scripted.page(job, on_done_href=href))
    page.get_by_text("Running").wait_for()
    job.end(Status.COMPLETED, "", {"href": "/export.csv"})
    page.wait_for_url(scripted.url + place)


def test_going_back_from_on_done_href_skips_the_page_with_the_element(scripted: ScriptedSite, visitor: Visitor) -> None:
    visitor.needs_chromium("Playwright does not notice that Firefox restores a page that it kept")
    job = scripted.job().claim()
    page = visitor.open(f"{scripted.url}/")
    page.goto(scripted.page(job, on_done_href="/export.csv"))
    page.get_by_text("Running").wait_for()
    job.end(Status.COMPLETED, "")
    page.wait_for_url(f"{scripted.url}/export.csv")
    page.go_back()
    assert page.url == f"{scripted.url}/"


@pytest.mark.any_browser
def test_the_element_stays_if_the_event_is_prevented_the_job_failed_or_the_link_is_unsafe(
    scripted: ScriptedSite, visitor: Visitor
) -> None:
    stayed = []
    for status, href, listener in (
        (
            Status.COMPLETED,
            "/export.csv",
            "document.addEventListener('backjob-done', (event) => event.preventDefault())",
        ),
        (Status.FAILED, "/export.csv", ""),
        (Status.COMPLETED, "javascript:document.title='taken'", ""),
    ):
        job = scripted.job().claim()
        page = visitor.page()
        page.add_init_script(listener)
        page.goto(scripted.page(job, on_done_href=href))
        page.get_by_text("Running").wait_for()
        job.end(status, "That was it")
        page.get_by_text("That was it").wait_for()
        stayed.append((page.title(), "/?job=" in page.url))
    assert stayed == [("Reports", True)] * 3


@pytest.mark.any_browser
def test_two_elements_on_one_page_show_their_own_jobs(scripted: ScriptedSite, visitor: Visitor) -> None:
    first, second = scripted.job().claim().report(10, "First"), scripted.job().claim().report(20, "Second")
    page = visitor.open(scripted.page(first, second, cancel=""))
    page.locator("progress[value='10']").wait_for()
    page.locator("progress[value='20']").wait_for()
    part(page, "cancel", 1).click()
    part(page, "state", 1).get_by_text("Cancelled").wait_for()
    first.end(Status.COMPLETED, "")
    part(page, "state", 0).get_by_text("Done").wait_for()
    assert scripted.jobs.status(second.id).status is Status.CANCELLED


@pytest.mark.any_browser
def test_a_new_src_shows_another_job(scripted: ScriptedSite, visitor: Visitor) -> None:
    first, second = (
        scripted.job().claim().report(10, output="of the first\n"),
        scripted.job().claim().report(20, output="other\n"),
    )
    page = visitor.open(scripted.page(first, output=""))
    page.locator("progress[value='10']").wait_for()
    page.evaluate("(source) => document.querySelector('backjob-progress').setAttribute('src', source)", second.source)
    page.locator("progress[value='20']").wait_for()
    assert part(page, "output").text_content() == "other\n"


def test_moving_the_element_after_the_end_fires_no_event_again(scripted: ScriptedSite, visitor: Visitor) -> None:
    first, second = scripted.job().claim(), scripted.job().claim()
    first.end(Status.COMPLETED, "First")
    second.end(Status.COMPLETED, "Second")
    page = visitor.page()
    page.add_init_script(
        """window.fired = [];
        for (const name of ["update", "done"])
            document.addEventListener(`backjob-${name}`, ({ detail }) => fired.push([name, detail.status_text]));"""
    )
    requested: list[str] = []
    page.on(
        "request", lambda request: requested.append(request.url) if "/backjob/progress" not in request.url else None
    )
    page.goto(scripted.page(first))
    page.get_by_text("Done: First").wait_for()
    page.evaluate("window.bar = document.querySelector('backjob-progress'); document.body.prepend(bar)")
    assert page.get_by_role("status").text_content() == "Done: First"
    page.evaluate(
        "(source) => { bar.remove(); bar.setAttribute('src', source); document.body.append(bar) }", second.source
    )
    page.get_by_text("Done: Second").wait_for()
    assert requested[1:] == [scripted.url + first.source, scripted.url + second.source]
    assert page.evaluate("fired") == [["update", "First"], ["done", "First"], ["update", "Second"], ["done", "Second"]]


def test_moving_the_element_during_the_last_update_event_fires_the_end_once(
    scripted: ScriptedSite, visitor: Visitor
) -> None:
    job = scripted.job().claim()
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
            target.title = "done";
        });"""
    )
    page.goto(scripted.page(job))
    page.locator("backjob-progress[title='done']").wait_for()
    page.clock.run_for(60_000)
    assert page.evaluate("ends") == ["COMPLETED"]


def test_a_reloaded_page_continues_with_the_job(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(30, "Reading", "first\n")
    page = visitor.open(scripted.page(job, output=""))
    page.locator("progress[value='30']").wait_for()
    page.reload()
    page.locator("progress[value='30']").wait_for()
    job.report(60, output="second\n")
    page.locator("progress[value='60']").wait_for()
    assert part(page, "output").text_content() == "first\nsecond\n"


def test_the_keyboard_can_cancel_and_the_focus_survives_the_button(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(10)
    page = visitor.open(scripted.page(job, cancel=""))
    page.get_by_role("button", name="Cancel").wait_for()
    page.keyboard.press("Tab")
    assert part(page, "cancel").evaluate("(button) => button === document.activeElement")
    page.keyboard.press("Enter")
    part(page, "state").get_by_text("Cancelled").wait_for()
    assert part(page, "status").evaluate("(status) => status === document.activeElement")
    assert scripted.jobs.status(job.id).status is Status.CANCELLED


@pytest.mark.any_browser
@pytest.mark.parametrize(
    ("status", "words"), [(403, "You are not logged in. Log in, then try again."), (500, "could not be cancelled")]
)
def test_cancelling_that_the_server_refuses_shows_an_alert(
    scripted: ScriptedSite, visitor: Visitor, status: int, words: str
) -> None:
    visitor.expected = str(status)
    job = scripted.job().claim()
    page = visitor.page()
    page.route("**/cancel", lambda route: route.fulfill(status=status, json={"error": "no"}))
    page.goto(scripted.page(job, cancel=""))
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("alert").get_by_text(words).wait_for()
    assert scripted.jobs.status(job.id).status is Status.IN_PROGRESS


@pytest.mark.any_browser
def test_an_unknown_job_is_shown_as_unknown_and_requested_once(scripted: ScriptedSite, visitor: Visitor) -> None:
    visitor.expected = "404"
    page = visitor.page()
    requested = urls_of(page)
    page.clock.install()
    page.goto(f"{scripted.url}/?job=/backjob/unknown")
    page.get_by_text("This job does not exist").wait_for()
    page.clock.run_for(60_000)
    assert len([url for url in requested if url == f"{scripted.url}/backjob/unknown"]) == 1


@pytest.mark.any_browser
@pytest.mark.parametrize(("progress", "value"), [(0, 0), (30, 30)])
def test_the_element_stops_when_its_job_is_deleted(
    scripted: ScriptedSite, visitor: Visitor, progress: int, value: float
) -> None:
    visitor.expected = "404|ERR_FAILED"
    job = scripted.job().claim().report(progress)
    page = visitor.open(scripted.page(job, cancel=""))
    page.locator("[part='time']:not(:empty)").wait_for()
    page.get_by_role("button", name="Cancel").focus()
    page.route(f"**{job.source}", lambda route: route.abort())
    page.locator("backjob-progress[data-lost]").wait_for()
    page.unroute(f"**{job.source}")
    page.route(f"**{job.source}", lambda route: route.fulfill(status=404, json={"error": "not found"}))
    page.get_by_text("This job does not exist").wait_for()
    assert page.locator("progress:not(:indeterminate)").evaluate("(bar) => bar.value") == value
    assert part(page, "cancel").is_hidden()
    assert part(page, "time").text_content() == ""  # neither the elapsed time nor an estimate
    assert part(page, "status").evaluate("(status) => status === document.activeElement")
    assert page.locator("backjob-progress").get_attribute("data-lost") is None
    assert page.locator("backjob-progress").get_attribute("data-status") == "unknown"  # and not green


def test_the_element_shows_a_lost_connection_and_recovers(scripted: ScriptedSite, visitor: Visitor) -> None:
    visitor.expected = "ERR_INTERNET_DISCONNECTED"
    job = scripted.job().claim().report(30, "Reading", "first\n")
    page = visitor.open(scripted.page(job, output=""))
    page.locator("progress[value='30']").wait_for()
    page.context.set_offline(True)
    page.get_by_role("status").get_by_text("Connection lost").wait_for()
    page.locator("backjob-progress[data-lost]").wait_for()
    job.report(60, output="second\n")
    page.context.set_offline(False)
    page.locator("backjob-progress:not([data-lost]) progress[value='60']").wait_for()
    assert part(page, "status").text_content() == "Running: Reading"
    assert part(page, "output").text_content() == "first\nsecond\n"


def test_server_rendered_content_stays_while_the_server_is_unreachable(
    scripted: ScriptedSite, visitor: Visitor
) -> None:
    visitor.expected = "ERR_FAILED"
    job = scripted.job().claim().report(30, "Reading", "first\n")
    page = visitor.page()
    page.route(
        f"**{job.source}", lambda route: route.abort() if route.request.resource_type == "fetch" else route.continue_()
    )
    page.goto(scripted.url + job.source)
    page.locator("backjob-progress[data-lost] progress[value='30']").wait_for()
    assert part(page, "status").text_content() == "Running: Reading"
    page.unroute(f"**{job.source}")
    job.report(60)
    page.locator("backjob-progress:not([data-lost]) progress[value='60']").wait_for()


def test_a_hidden_tab_sends_no_requests(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(30)
    page = visitor.page()
    page.clock.install()
    page.goto(scripted.page(job))
    page.locator("progress[value='30']").wait_for()
    set_hidden(page, hidden=True)
    requested = urls_of(page)
    page.clock.run_for(600_000)
    assert requested == []
    job.report(60)
    set_hidden(page, hidden=False)
    page.locator("progress[value='60']").wait_for()


def test_the_element_sends_no_requests_after_the_end(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim()
    job.end(Status.COMPLETED, "")
    page = visitor.page()
    page.clock.install()
    page.goto(scripted.page(job, output="", stream=""))
    page.locator("progress[value='100']").wait_for()
    requested = urls_of(page)
    page.clock.run_for(600_000)
    assert requested == []


@pytest.mark.any_browser
def test_the_element_polls_less_often_while_nothing_changes(scripted: ScriptedSite, visitor: Visitor) -> None:
    page = visitor.page()
    page.clock.install()
    page.add_init_script(
        """window.waits = [];
        const real = setTimeout;
        setTimeout = (call, wait) => { waits.push(wait); return real(call, wait); };"""
    )
    job = scripted.job().claim().report(30)
    requested = urls_of(page)
    page.goto(scripted.page(job, output=""))
    for _ in range(8):
        with page.expect_response(lambda response: response.url.endswith(job.source)):
            page.clock.run_for(3000)
    waits = [wait for wait in page.evaluate("waits") if wait <= 3000]  # longer ones are request timeouts
    assert waits[:6] == [500, 750, 1125, 1687.5, 2531.25, 3000]
    assert set(waits[6:]) <= {3000}
    assert len([url for url in requested if "/output" in url]) == 1


@pytest.mark.any_browser
def test_output_that_looks_like_markup_is_shown_as_text(scripted: ScriptedSite, visitor: Visitor) -> None:
    hostile = "<script>document.title = 'taken'</script> \"quoted\" & 'so' <img src=x onerror=alert(1)> \ufffd half\n"
    job = scripted.job().claim().report(10, hostile, hostile)
    page = visitor.open(scripted.page(job, output=""))
    page.locator("progress[value='10']").wait_for()
    assert part(page, "output").text_content() == hostile
    job.report(20, output="😀 whole\n")
    page.locator("progress[value='20']").wait_for()
    assert (part(page, "output").text_content() or "").endswith("half\n😀 whole\n")
    assert page.title() == "Reports"
    assert page.locator("backjob-progress :is(script, img)").count() == 0


def test_the_output_scrolls_to_its_end_unless_the_user_has_scrolled_up(
    scripted: ScriptedSite, visitor: Visitor
) -> None:
    lines = "".join(f"line {number}\n" for number in range(200))
    job = scripted.job().claim().report(10, output=lines)
    page = visitor.open(scripted.page(job, output=""))
    page.locator("progress[value='10']").wait_for()
    below = "(pre) => pre.scrollHeight - pre.scrollTop - pre.clientHeight"
    assert part(page, "output").evaluate(below) < 8
    part(page, "output").evaluate("(pre) => { pre.scrollTop = 0 }")
    job.report(20, output=lines)
    page.locator("progress[value='20']").wait_for()
    assert part(page, "output").evaluate("(pre) => pre.scrollTop") == 0


@pytest.mark.any_browser
def test_only_the_end_of_a_very_long_output_is_kept(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim()
    for number in range(20):
        job.report(output=f"{number:031}\n" * 2000)
    job.report(10, "Writing")
    page = visitor.open(scripted.page(job, output=""))
    page.locator("progress[value='10']").wait_for()
    shown = part(page, "output").text_content() or ""
    assert 1 << 16 < len(shown) <= 1 << 18
    assert len(shown) % 32 == 0
    assert shown.endswith("0000019\n")
    assert page.get_by_text("There is more output before this.").is_visible()


@pytest.mark.any_browser
@pytest.mark.parametrize(
    ("output", "kept"),
    [("😀" * 140_000 + "a", "😀" * 65_535 + "a"), ("x" * 280_000 + "\n", "x" * 131_071 + "\n")],
    ids=["without a line break", "with a line break only at the end"],
)
def test_a_very_long_line_is_cut(scripted: ScriptedSite, visitor: Visitor, output: str, kept: str) -> None:
    job = scripted.job().claim().report(10, "Writing", output)
    page = visitor.open(scripted.page(job, output=""))
    page.locator("progress[value='10']").wait_for()
    assert part(page, "output").text_content() == kept


@pytest.mark.any_browser
def test_an_element_removed_from_the_page_sends_no_requests(scripted: ScriptedSite, visitor: Visitor) -> None:
    page = visitor.page()
    page.clock.install()
    page.goto(scripted.page(scripted.job().claim().report(30)))
    page.locator("progress[value='30']").wait_for()
    page.evaluate("document.querySelector('backjob-progress').remove()")
    requested = urls_of(page)
    page.clock.run_for(60_000)
    assert requested == []
