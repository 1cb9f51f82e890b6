"""axe-core, a WCAG checker, finds no violations in the element and the ready page: every state, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import pytest

from backjob.status.languages import language as language_of
from tests.browser.states import STATES, in_state

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Visitor
    from tests.browser.scripted import ScriptedSite

pytestmark = pytest.mark.slow

TRANSITIONS: Final = """
Promise.allSettled(document.getAnimations().filter(one => one instanceof CSSTransition).map(one => one.finished))
"""
"""Wait until no colour is on its way to another one, as Django's links are after a change of the scheme."""
TREES: Final = Path(__file__).with_name("accessibility_trees")


def findings(page: Page, modules: Path, *rules: str) -> list[str]:
    """The violations that axe finds, of these rules or of all. `evaluate()` adds no script that the page's policy forbids."""
    page.evaluate(TRANSITIONS)
    page.evaluate((modules / "axe-core" / "axe.min.js").read_text("utf-8"))
    violations = page.evaluate("(rules) => axe.run(rules.length ? { runOnly: rules } : {})", list(rules))["violations"]
    return [f"{one['impact']}: {one['id']}: {[node['target'] for node in one['nodes']]}" for one in violations]


@pytest.mark.any_browser
@pytest.mark.parametrize(
    ("scheme", "script"),
    [("light", True), pytest.param("light", False, marks=pytest.mark.slow), ("dark", True)],
    ids=["light", "without JavaScript", "dark"],
)
def test_the_ready_page_is_accessible_in_every_state(
    scripted: ScriptedSite, visitor: Visitor, modules: Path, scheme: Literal["light", "dark"], script: bool
) -> None:
    page = visitor.page(color_scheme=scheme, reduced_motion="reduce")
    if not script:
        page.route("**/progress.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    rules = ["color-contrast"] if scheme == "dark" else []  # the only difference
    found = []
    for state, words in STATES.items():
        page.goto(scripted.url + in_state(scripted, state).source)
        page.get_by_text(words).first.wait_for()
        found += [f"{state}: {one}" for one in findings(page, modules, *rules)]
    assert found == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_elements_are_accessible_on_an_applications_page(
    scripted: ScriptedSite, visitor: Visitor, modules: Path, scheme: str
) -> None:
    page = visitor.page(color_scheme=scheme, reduced_motion="reduce")
    theme = {"theme": "backjob-page"} if scheme == "dark" else {}
    page.goto(scripted.page(*(in_state(scripted, state) for state in STATES), output="", cancel="", **theme))
    for words in STATES.values():
        page.get_by_text(words).first.wait_for()
    assert findings(page, modules) == []


@pytest.mark.parametrize("language", ["en", "de"])
def test_screen_readers_read_each_state_as_recorded(scripted: ScriptedSite, visitor: Visitor, language: str) -> None:
    """The accessibility tree of each state is kept as text. To record it again, delete the file and run this test twice."""
    page = visitor.page()
    page.clock.set_fixed_time("2026-03-01T12:00:00Z")
    found = []
    for state, words in STATES.items():
        page.goto(scripted.page(in_state(scripted, state), output="", cancel="", lang=language))
        own = {"start": "started", "cancelled": "cancelled"}.get(state)
        page.get_by_text(language_of(language).say(own) if own else words).first.wait_for()
        if state != "start":
            page.locator("[part='output']").get_by_text("without a delivery address").wait_for()
        found.append(f"# {state}\n{page.locator('backjob-progress').aria_snapshot().replace(scripted.url, '')}\n")
    recorded = TREES / f"{language}.txt"
    if not recorded.exists():
        recorded.parent.mkdir(exist_ok=True)
        recorded.write_text("\n".join(found), encoding="utf-8")
        pytest.fail(f"{recorded} was missing; it is there now: read it, and keep it")
    assert "\n".join(found) == recorded.read_text("utf-8")


def test_the_checker_finds_a_violation(scripted: ScriptedSite, visitor: Visitor, modules: Path) -> None:
    page = visitor.open(scripted.page())
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    found = findings(page, modules)
    assert [one.split(": ")[:2] for one in found] == [["critical", "button-name"]]


@pytest.mark.any_browser
def test_the_bar_does_not_move_with_reduced_motion(scripted: ScriptedSite, visitor: Visitor) -> None:
    job = scripted.job()
    moving = {}
    for motion in ("no-preference", "reduce"):
        page = visitor.open(scripted.page(job), reduced_motion=motion)
        page.get_by_text("Waiting to start").wait_for()
        moving[motion] = page.evaluate("document.getAnimations().length")
    assert moving == {"no-preference": 1, "reduce": 0}
