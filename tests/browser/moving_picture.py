"""Makes the moving picture of README and docs from a real run of the Quickstart: ``python -m tests.browser.moving_picture``.

It needs Chromium, Playwright, Flask and Pillow (the extras "test" and "docs"), and writes ``docs/images/export.webp``.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from tests.browser.browsers import CHROMIUM, DISABLED
from tests.docs.pages import ROOT, blocks
from tests.docs.serving import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURE: Final = ROOT / "docs" / "images" / "export.webp"
LARGEST: Final = 300_000  # bytes
WIDTH, HEIGHT = 560, 400
INTERVAL: Final = 0.12  # s between two frames, at least
BEFORE: Final = 1.2  # s before the button is pressed
AFTER: Final = 3.0  # s after the job has ended
LOOK: Final = "body { font: 16px/1.5 'DejaVu Sans', sans-serif; margin: 1.5rem; } backjob-progress { --backjob-output-height: 7rem; }"


def quickstart(directory: Path) -> None:
    """Save the files of the Quickstart."""
    for block in blocks(ROOT / "docs" / "quickstart.md"):
        if block.title:
            file = directory / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.code.replace("</html>", f"<style>{LOOK}</style></html>"), encoding="utf-8")


def run_of(page: Page) -> list[tuple[bytes, float]]:
    """Press the button and watch the job to its end. Returns pictures, and for how long each was seen (s)."""
    pictures: list[tuple[bytes, float]] = []
    ended_at: float | None = None
    began = last = time.monotonic()
    is_pressed = False
    while ended_at is None or last < ended_at + AFTER:
        picture = page.screenshot(caret="hide")
        if not is_pressed and last > began + BEFORE:
            page.get_by_role("button", name="Export").click()
            is_pressed = True
        elif is_pressed and ended_at is None and page.locator("backjob-progress[data-status=completed]").count():
            ended_at = time.monotonic()
        page.wait_for_timeout(max(0.0, INTERVAL - (time.monotonic() - last)) * 1000)
        now = time.monotonic()
        pictures.append((picture, now - last))
        last = now
    return pictures


def animated(pictures: list[tuple[bytes, float]]) -> bytes:
    """One animated WebP that repeats for ever. Pictures that are equal are one frame."""
    frames: list[Image.Image] = []
    durations: list[int] = []
    previous = b""
    for picture, seconds in pictures:
        if picture == previous:
            durations[-1] += round(seconds * 1000)
            continue
        frames.append(Image.open(io.BytesIO(picture)).convert("RGB"))
        durations.append(round(seconds * 1000))
        previous = picture
    file = io.BytesIO()
    frames[0].save(
        file, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=70, method=6
    )
    return file.getvalue()


def main() -> None:
    """Make the picture."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        directory = Path(name)
        quickstart(directory)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SECRET_KEY": ""}
        flask = [sys.executable, "-m", "flask", "run", "--port", "0"]
        with served(flask, directory, environment, r"Running on http://127\.0\.0\.1:(\d+)") as port:
            arguments = ["--no-sandbox", *(f"--disable-{feature}" for feature in DISABLED)]
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
            page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            page.goto(f"http://127.0.0.1:{port}/")
            pictures = run_of(page)
            chromium.close()
    data = animated(pictures)
    if len(data) > LARGEST:
        sys.exit(f"the picture has {len(data):,} bytes, more than {LARGEST:,}")
    PICTURE.write_bytes(data)
    print(f"{PICTURE.relative_to(ROOT)}: {len(data):,} bytes, {sum(seconds for _, seconds in pictures):.1f} s")


if __name__ == "__main__":
    main()
