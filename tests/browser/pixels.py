"""Reads the colours of a picture of a part of a page."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

Colour: TypeAlias = "tuple[int, ...]"

_READ: Final = """async ([data, places]) => {
    const image = new Image();
    image.src = `data:image/png;base64,${data}`;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height), context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return places.map((place) => [...context.getImageData(image.width * place, image.height / 2, 1, 1).data].slice(0, 3));
}"""


def colours(locator: Locator, blank: Page, *places: float) -> list[Colour]:
    """The colours along the middle of an element, at these fractions of its width. ``blank`` is a page without a policy."""
    data = b64encode(locator.screenshot(caret="initial")).decode()
    return [tuple(colour) for colour in blank.evaluate(_READ, [data, list(places)])]


def differ(one: Colour, other: Colour, least: int = 40) -> bool:
    """Whether two colours are clearly different."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) >= least
