"""Pictures of the element and of the ready page, for people to look at and for the docs.

They are put into ``tests/browser/pictures``, or where ``BACKJOB_PICTURES`` says.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import pytest

from tests.browser.states import STATES, in_state
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Visitor
    from tests.browser.told import Told

pytestmark = pytest.mark.slow

FOLDER = Path(os.environ.get("BACKJOB_PICTURES") or Path(__file__).with_name("pictures")).resolve()
WINDOWS: Final[dict[str, tuple[Literal["light", "dark"], int]]] = {
    "": ("light", 360),
    "-dark": ("dark", 360),
    "-wide": ("light", 720),
}
"""Of each the scheme of colours, and the width (px)."""
DARKER, LIGHTER = 0x40, 0xC0


def picture(page: Page, name: str) -> Path:
    """Take one of the whole page, in a size that fits it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path, full_page=True, animations="disabled", caret="hide")
    return path


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG (https://www.w3.org/TR/png-3/#11IHDR)."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", head[16:24])
    return width, height


@pytest.mark.parametrize("state", STATES)
def test_the_ready_page_fits_its_window(told: Told, visitor: Visitor, state: str) -> None:
    job = in_state(told, state)
    page = visitor.page(reduced_motion="reduce")
    page.clock.set_fixed_time("2026-03-01T12:00:00Z")
    page.goto(told.url + job.source)
    page.locator("backjob-progress [part='cancel'][type='button']").wait_for(state="attached")
    page.get_by_text(STATES[state]).first.wait_for()
    for name, (scheme, width) in WINDOWS.items():
        page.set_viewport_size({"width": width, "height": 200})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert size(picture(page, state + name))[0] == width
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ground = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)"
        )
        assert (
            all(value > LIGHTER for value in ground) if scheme == "light" else all(value < DARKER for value in ground)
        )


def test_the_docs_show_pictures_that_are_taken_here() -> None:
    shown = {path.name for path in (ROOT / "docs" / "images").glob("*.png")}
    taken = {f"{state}{window}.png" for state in STATES for window in WINDOWS}
    assert shown <= taken
