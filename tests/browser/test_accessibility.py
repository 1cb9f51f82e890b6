"""What axe-core, a checker of WCAG, says of the element and of the ready page, in every state, light and dark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from tests.browser.states import STATES, in_state

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.conftest import Visitor
    from tests.browser.told import Told

pytestmark = pytest.mark.slow


def findings(page: Page, axe: str, *rules: str) -> list[str]:
    """Each rule, of all or of these, that axe finds broken, with where. No script that a policy could forbid is added."""
    page.evaluate(axe)
    found = page.evaluate("(rules) => axe.run(rules.length ? { runOnly: rules } : {})", list(rules))["violations"]
    return [f"{one['impact']}: {one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]


@pytest.mark.parametrize(
    ("scheme", "script"),
    [("light", True), pytest.param("light", False, marks=pytest.mark.slow), ("dark", True)],
    ids=["light", "without JavaScript", "dark"],
)
def test_the_ready_page_is_accessible_in_every_state(
    told: Told, visitor: Visitor, modules: Path, scheme: Literal["light", "dark"], script: bool
) -> None:
    axe = (modules / "axe-core" / "axe.min.js").read_text("utf-8")
    page = visitor.page(color_scheme=scheme, reduced_motion="reduce")
    if not script:
        page.route("**/progress.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    rules = ["color-contrast"] if scheme == "dark" else []  # nothing else differs
    found = []
    for state, words in STATES.items():
        page.goto(told.url + in_state(told, state).source)
        page.get_by_text(words).first.wait_for()
        found += [f"{state}: {one}" for one in findings(page, axe, *rules)]
    assert found == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_elements_are_accessible_on_a_page_of_the_sites_own(
    told: Told, visitor: Visitor, modules: Path, scheme: str
) -> None:
    axe = (modules / "axe-core" / "axe.min.js").read_text("utf-8")
    page = visitor.page(color_scheme=scheme, reduced_motion="reduce")
    theme = {"theme": "backjob-page"} if scheme == "dark" else {}
    page.goto(told.page(*(in_state(told, state) for state in STATES), output="", cancel="", **theme))
    for words in STATES.values():
        page.get_by_text(words).first.wait_for()
    assert findings(page, axe) == []


def test_a_broken_rule_would_be_found(told: Told, visitor: Visitor, modules: Path) -> None:
    page = visitor.page()
    page.goto(told.page())
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    found = findings(page, (modules / "axe-core" / "axe.min.js").read_text("utf-8"))
    assert [one.split(": ")[:2] for one in found] == [["critical", "button-name"]]


def test_without_motion_the_bar_stands_still(told: Told, visitor: Visitor) -> None:
    job = told.job()
    moving = {}
    for motion in ("no-preference", "reduce"):
        page = visitor.page(reduced_motion=motion)
        page.goto(told.page(job))
        page.get_by_text("Waiting to start").wait_for()
        moving[motion] = page.evaluate("document.getAnimations().length")
    assert moving == {"no-preference": 1, "reduce": 0}
