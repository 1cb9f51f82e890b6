"""How the element looks on pages that are not ours: cards, forms, high contrast, right to left, narrow, large, on paper."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from backjob import Status
from backjob.status.languages import LANGUAGES
from tests.browser.pixels import colours, differ
from tests.browser.states import STATES, in_state
from tests.browser.test_element import part

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect, Locator, Page

    from tests.browser.conftest import Visitor
    from tests.browser.scripted import ScriptedJob, ScriptedSite

pytestmark = pytest.mark.slow


def box(locator: Locator) -> FloatRect:
    found = locator.bounding_box()
    assert found is not None
    return found


def shown(visitor: Visitor, job: ScriptedJob, text: str, *, css: str = "", **options: Any) -> Page:
    """A page with the element inside ``.outer`` and ``.inner``, which have this style."""
    page = visitor.page(**options)
    attributes = {"lang": options.get("locale", "en")}
    page.goto(job.site.page(job, cancel="", wrapped="", **attributes))
    page.evaluate(
        """(css) => {
            const sheet = new CSSStyleSheet();
            sheet.replaceSync(css);
            document.adoptedStyleSheets = [sheet];
        }""",
        css,
    )
    page.get_by_text(text).first.wait_for()
    return page


def bar_colours(visitor: Visitor, page: Page) -> list[tuple[int, ...]]:
    visitor.expected = "CSP: style-src-elem|inline style"  # of Playwright, for a picture in Firefox
    return colours(part(page, "bar"), visitor.page(), 0.05, 0.2, 0.5, 0.8, 0.95)


def test_an_indeterminate_bar_is_not_a_full_one(scripted: ScriptedSite, visitor: Visitor) -> None:
    waiting = shown(visitor, scripted.job(), "Waiting to start", reduced_motion="reduce")
    done = scripted.job().claim()
    done.end(Status.COMPLETED, "Ready")
    full = shown(visitor, done, "Ready", reduced_motion="reduce")
    empty, filled = bar_colours(visitor, waiting), bar_colours(visitor, full)
    assert len(set(empty)) == 1
    assert len(set(filled)) == 1
    assert differ(empty[0], filled[0])


def test_the_bar_is_visible_in_high_contrast(scripted: ScriptedSite, visitor: Visitor) -> None:
    page = shown(visitor, scripted.job().claim().report(50), "Running", forced_colors="active", reduced_motion="reduce")
    assert page.evaluate("matchMedia('(forced-colors: active)').matches")
    left, _, _, right, _ = bar_colours(visitor, page)
    assert differ(left, right)
    edge = part(page, "bar").evaluate(
        "(bar) => [getComputedStyle(bar).borderTopWidth, getComputedStyle(bar).borderTopStyle]"
    )
    assert edge == ["1px", "solid"]


def test_a_card_has_no_air_around_the_element(scripted: ScriptedSite, visitor: Visitor) -> None:
    page = shown(visitor, scripted.job().claim().report(50), "Running", css=".inner { padding: 16px }")
    card, element = box(page.locator(".inner")), box(page.locator("backjob-progress"))
    assert (element["y"] - card["y"], card["height"] - element["height"]) == (16, 32)
    head, foot = box(part(page, "head")), box(part(page, "foot"))
    assert head["y"] == element["y"]
    assert foot["y"] + foot["height"] == pytest.approx(element["y"] + element["height"], abs=1)


def test_a_container_that_shrinks_to_its_content_leaves_room_for_the_bar(
    scripted: ScriptedSite, visitor: Visitor
) -> None:
    job = scripted.job().claim().report(50)
    page = shown(visitor, job, "Running", css=".outer { display: flex } .inner { flex: 0 1 auto }")
    assert box(part(page, "bar"))["width"] >= 380
    page.set_viewport_size({"width": 320, "height": 600})
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_nothing_moves_when_the_button_turns_into_a_link(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(50)
    page = shown(visitor, job, "Running")
    page.get_by_role("button", name="Cancel").wait_for()
    time, foot, element = (box(locator) for locator in (part(page, "time"), part(page, "foot"), page.locator(".inner")))
    job.end(Status.COMPLETED, "", {"href": "/export.csv"})
    page.get_by_role("link", name="Open the result").wait_for()
    assert box(part(page, "time"))["y"] == pytest.approx(time["y"], abs=0.5)
    assert box(part(page, "foot"))["height"] == foot["height"]
    assert box(page.locator(".inner"))["height"] == element["height"]


def test_from_right_to_left_each_text_keeps_its_direction(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job().claim().report(50, "Reading (page 3).", "50 rows.\n")
    page = visitor.page()
    page.goto(scripted.page(job, output="", dir="rtl", texts='{"in_progress": "قيد التشغيل"}'))
    page.get_by_text("50 rows.").wait_for()
    state, text = box(part(page, "state")), box(part(page, "text"))
    assert text["x"] + text["width"] <= state["x"] + 1  # to the left of the word
    assert box(part(page, "percent"))["x"] < text["x"]
    for name in ("text", "output"):
        assert part(page, name).evaluate("(node) => getComputedStyle(node).unicodeBidi") == "plaintext"
    # The full stop is the last character of an English text: at its right, not at its left.
    stop = part(page, "text").evaluate(
        """(node) => {
            const range = document.createRange(), text = node.firstChild;
            const at = (begin) => (range.setStart(text, begin), range.setEnd(text, begin + 1), range.getBoundingClientRect().x);
            return at(text.length - 1) > at(0);
        }"""
    )
    assert stop
    left, _, _, _, right = bar_colours(visitor, page)
    assert differ(left, right)  # the bar grows from the right


@pytest.mark.parametrize("zoom", ["320 px", pytest.param("200 %", marks=pytest.mark.any_browser)])
def test_nothing_is_cut_off_on_narrow_and_enlarged_pages_in_any_language(
    scripted: ScriptedSite, visitor: Visitor, zoom: str
) -> None:
    page = visitor.page(viewport={"width": 320 if zoom == "320 px" else 640, "height": 600})
    jobs = [in_state(scripted, state, "Donaudampfschifffahrtsgesellschaftskapitän") for state in STATES]
    wide = []
    for tag in LANGUAGES:
        page.goto(scripted.page(*jobs, lang=tag, output="", cancel="", theme="backjob-page"))
        page.locator("backjob-progress[data-status]").nth(len(jobs) - 1).wait_for()
        if zoom == "200 %":
            page.evaluate("document.documentElement.style.fontSize = '200%'")
        width = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        wide += [(tag, width)] if width[0] > width[1] else []
    assert wide == []


def test_paper_shows_all_of_the_output_and_no_buttons(scripted: ScriptedSite, visitor: Visitor) -> None:
    visitor.needs_chromium("Playwright can't emulate paper in Firefox")
    job = scripted.job().claim().report(50, output="".join(f"line {number}\n" for number in range(200)))
    page = visitor.page()
    page.goto(scripted.page(job, output="", cancel=""))
    part(page, "output").get_by_text("line 199").wait_for()
    page.emulate_media(media="print")
    assert part(page, "output").evaluate("(node) => node.scrollHeight - node.clientHeight") <= 0
    assert part(page, "cancel").is_hidden()
    pages = re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))
    assert len(pages) >= 3


def test_the_element_is_on_paper_in_every_browser(scripted: ScriptedSite, visitor: Visitor) -> None:
    page = shown(visitor, scripted.job().claim().report(50), "Running")
    assert page.pdf().startswith(b"%PDF-")
