"""Takes pictures of the ready page for the docs, and checks that it fits narrow and wide windows.

The pictures go to ``tests/browser/pictures``, or to the folder ``BACKJOB_PICTURES``.
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
    from tests.browser.scripted import ScriptedSite

pytestmark = [pytest.mark.slow, pytest.mark.any_browser]

FOLDER = Path(os.environ.get("BACKJOB_PICTURES") or Path(__file__).with_name("pictures")).resolve()
WINDOWS: Final[dict[str, tuple[Literal["light", "dark"], int]]] = {
    "": ("light", 360),
    "-dark": ("dark", 360),
    "-wide": ("light", 720),
}
"""The suffix of the picture's name → colour scheme and width (px)."""
DARK, LIGHT = 0x40, 0xC0


def picture(page: Page, name: str) -> Path:
    """Take a picture of the whole page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    browser = page.context.browser
    suffix = "-firefox" if browser is not None and browser.browser_type.name == "firefox" else ""
    path = FOLDER / f"{name}{suffix}.png"
    page.screenshot(path=path, full_page=True, caret="initial")
    return path


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG (https://www.w3.org/TR/png-3/#11IHDR)."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", head[16:24])
    return width, height


@pytest.mark.parametrize("state", STATES)
def test_the_ready_page_fits_its_window(scripted: ScriptedSite, visitor: Visitor, state: str) -> None:
    visitor.expected = "CSP: style-src-elem|inline style"  # of Playwright, for a picture in Firefox
    job = in_state(scripted, state)
    for name, (scheme, width) in WINDOWS.items():
        page = visitor.page(
            color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 200}, locale="en-US"
        )
        page.clock.set_fixed_time("2026-03-01T12:00:00Z")
        page.goto(scripted.url + job.source)
        page.locator("backjob-progress [part='cancel'][type='button']").wait_for(state="attached")
        page.get_by_text(STATES[state]).first.wait_for()
        taken = picture(page, state + name)
        # Firefox's scroll bar takes a part of the width, and is not in the picture.
        widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths == [size(taken)[0]] * 2
        background = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)"
        )
        assert (
            all(value > LIGHT for value in background)
            if scheme == "light"
            else all(value < DARK for value in background)
        )


def test_this_module_takes_all_pictures_of_the_ready_page() -> None:
    others = {"admin-list.png", "output.png", "output-terminal.png"}  # of test_admin.py and output_pictures.py
    shown = {path.name for path in (ROOT / "docs" / "images").glob("*.png")} - others
    taken = {f"{state}{window}.png" for state in STATES for window in WINDOWS}
    assert shown <= taken
