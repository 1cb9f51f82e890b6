"""The element and its server: languages, bearer tokens, busy servers, links, files, and another run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backjob import Status
from backjob.lifecycle import WAITING_TEXTS, Requeue
from tests.browser.test_element import part

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from tests.browser.conftest import Visitor
    from tests.browser.scripted import ScriptedJob, ScriptedSite

pytestmark = [pytest.mark.slow, pytest.mark.any_browser]


def answer(page: Page, job: ScriptedJob, **changes: Any) -> None:
    """Answer the element's requests for the state with this state, changed."""
    state = {**job.site.jobs.status(job.id).as_dict(), "links": {}, **changes}
    page.route(f"**{job.source}", lambda route: route.fulfill(json=state))


def test_the_element_speaks_the_pages_language(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim()
    scripted.clock.advance(90)
    job.report(25, "Reading")
    page = visitor.page()
    page.clock.install()
    page.goto(scripted.page(job, cancel="", lang="de-AT"))
    part(page, "state").get_by_text("Läuft", exact=True).wait_for()
    assert part(page, "status").text_content() == "Läuft: Reading"
    assert (part(page, "time").text_content() or "").replace("\u00a0", " ") == "1 Min. 30 Sek. · noch etwa 5 Min."
    page.get_by_role("button", name="Abbrechen").wait_for()
    job.requeue(Requeue("the process that ran it ended", 60))
    page.clock.run_for(3000)
    part(page, "text").get_by_text("der ausführende Prozess wurde beendet; Versuch 2 von 4").wait_for()


@pytest.mark.parametrize("lang", ["sv", "en-GB", "", "not a language"])
def test_for_other_languages_it_speaks_english_and_requests_no_words(
    scripted: ScriptedSite, visitor: Visitor, lang: str
) -> None:
    requested: list[str] = []
    page = visitor.page()
    page.on("request", lambda request: requested.append(request.url))
    page.goto(scripted.page(scripted.job().claim().report(30), lang=lang))
    part(page, "state").get_by_text("Running").wait_for()
    assert [url for url in requested if "words" in url] == []


def test_a_text_of_the_application_is_not_translated(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(30, WAITING_TEXTS["place"])
    page = visitor.open(scripted.page(job, lang="fr"))
    part(page, "state").get_by_text("En cours").wait_for()
    assert part(page, "text").text_content() == WAITING_TEXTS["place"]
    job.end(Status.FAILED, "Done")
    part(page, "state").get_by_text("Échec").wait_for()
    assert part(page, "text").text_content() == "Done"


def test_without_the_words_it_speaks_english(scripted: ScriptedSite, visitor: Visitor) -> None:
    visitor.expected = "404|ERR_FAILED|Loading module"
    page = visitor.page()
    page.route("**/words.*", lambda route: route.fulfill(status=404))
    page.goto(scripted.page(scripted.job().claim().report(30), lang="ja"))
    part(page, "state").get_by_text("Running").wait_for()


def test_the_pages_own_words_win(scripted: ScriptedSite, visitor: Visitor) -> None:
    texts = json.dumps({"in_progress": "In Arbeit"})
    page = visitor.open(scripted.page(scripted.job().claim().report(30), lang="de", texts=texts))
    part(page, "state").get_by_text("In Arbeit").wait_for()


def test_a_busy_server_is_asked_again_when_it_says(scripted: ScriptedSite, visitor: Visitor) -> None:
    visitor.expected = "429"
    job = scripted.job().claim().report(30)
    page = visitor.page()
    page.clock.install()
    page.goto(scripted.page(job))
    page.locator("progress[value='30']").wait_for()
    busy: list[str] = []

    def refuse(route: Route) -> None:
        busy.append(route.request.url)
        route.fulfill(status=429, headers={"Retry-After": "60"}, body="later")

    page.route(f"**{job.source}", refuse)
    with page.expect_response(lambda response: response.status == 429):
        page.clock.run_for(3000)
    for _ in range(5):
        page.clock.run_for(10_000)
    assert len(busy) == 1
    assert page.locator("backjob-progress").get_attribute("data-lost") is None
    assert part(page, "status").text_content() == "Running"
    page.unroute(f"**{job.source}")
    job.report(60)
    page.clock.run_for(15_000)
    page.locator("progress[value='60']").wait_for()


def test_a_bearer_token_goes_with_every_request(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(30, output="first\n")
    seen: list[tuple[str, str | None]] = []
    page = visitor.page()
    page.add_init_script(
        """customElements.whenDefined("backjob-progress").then((element) => {
            element.headers = async () => ({ Authorization: "Bearer abc" });
        });"""
    )
    page.on(
        "request",
        lambda request: (
            seen.append((request.method, request.headers.get("authorization"))) if job.source in request.url else None
        ),
    )
    page.goto(f"{scripted.url}/?output=&cancel=")
    page.evaluate(
        """(source) => {
            const element = document.createElement("backjob-progress");
            for (const [name, value] of [["src", source], ["cancel", ""], ["output", ""]]) element.setAttribute(name, value);
            document.querySelector("main").append(element);
        }""",
        job.source,
    )
    part(page, "output").get_by_text("first").wait_for()
    page.get_by_role("button", name="Cancel").click()
    part(page, "state").get_by_text("Cancelled").wait_for()
    assert {token for _, token in seen} == {"Bearer abc"}
    assert {method for method, _ in seen} == {"GET", "POST"}


def test_the_links_in_the_state_are_used(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(30)
    page = visitor.page()
    posted: list[str] = []
    answer(page, job, links={"cancel": "/elsewhere/cancel"})
    page.on("request", lambda request: posted.append(request.method) if "/elsewhere" in request.url else None)
    page.route("**/elsewhere/cancel", lambda route: route.fulfill(json={}))
    page.goto(scripted.page(job, cancel=""))
    with page.expect_response("**/elsewhere/cancel"):
        page.get_by_role("button", name="Cancel").click()
    assert posted == ["POST"]


def test_a_visitor_who_may_not_cancel_sees_no_button(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(30)
    page = visitor.open(f"{scripted.url}/?cancel=&job={scripted.jobs.status_url(job.id)}")
    page.locator("progress[value='30']").wait_for()
    assert part(page, "cancel").is_hidden()


def test_the_file_is_a_download(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim()
    job.end(Status.COMPLETED, "Ready")
    page = visitor.page()
    file = {"name": "$& invoices <2026>.csv", "type": "text/csv", "size": 3}
    answer(page, job, file=file, links={"file": "/files/1"})
    page.goto(scripted.page(job))
    link = page.get_by_role("link", name="Download $& invoices <2026>.csv")
    link.wait_for()
    assert link.evaluate("(link) => [link.href, link.download]") == [f"{scripted.url}/files/1", ""]


def test_run_again_shows_the_new_job(scripted: ScriptedSite, visitor: Visitor) -> None:
    job, again = scripted.job().claim(), scripted.job().claim().report(20, "Once more")
    job.end(Status.FAILED, "No luck")
    page = visitor.page()
    answer(page, job, links={"run_again": "/again"})
    page.route("**/again", lambda route: route.fulfill(status=201, json={"links": {"self": again.source}}))
    page.goto(scripted.page(job))
    page.get_by_role("button", name="Run again").click()
    part(page, "status").get_by_text("Running: Once more").wait_for()
    assert part(page, "status").evaluate("(status) => status === document.activeElement")


def test_a_refused_run_shows_an_alert(scripted: ScriptedSite, visitor: Visitor) -> None:
    visitor.expected = "409|403"
    job = scripted.job().claim()
    job.end(Status.FAILED, "No luck")
    page = visitor.page()
    answer(page, job, links={"run_again": "/again"})
    page.route("**/again", lambda route: route.fulfill(status=409, json={"error": "no"}))
    page.goto(scripted.page(job))
    page.get_by_role("button", name="Run again").click()
    page.get_by_role("alert").get_by_text("could not be started again").wait_for()
    page.unroute("**/again")
    page.route("**/again", lambda route: route.fulfill(status=403, json={"error": "no"}))
    page.get_by_role("button", name="Run again").click()
    page.get_by_role("alert").get_by_text("Log in, then try again.").wait_for()


def test_markup_of_the_server_works_without_the_script(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(30, "Reading")
    page = visitor.page()
    page.route("**/progress.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    page.goto(f"{scripted.url}/embedded/{job.id}")
    assert part(page, "status").text_content() == "Running: Reading"
    page.get_by_role("link", name="Show the progress").click()
    page.wait_for_url(f"{scripted.url}/backjob/*")
    assert page.locator("progress").get_attribute("value") == "30"
    page.get_by_role("link", name="Back").click()
    page.wait_for_url(f"{scripted.url}/embedded/{job.id}")


def test_the_script_takes_over_the_markup_of_the_server(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(30, "Reading")
    page = visitor.open(f"{scripted.url}/embedded/{job.id}")
    page.locator("progress[value='30']").wait_for()
    assert part(page, "show").is_hidden()
    job.report(60)
    page.locator("progress[value='60']").wait_for()
    assert part(page, "show").count() == 0
