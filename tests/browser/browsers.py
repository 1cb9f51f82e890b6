"""The browsers of the tests: Debian's Chromium and Firefox, driven by Playwright.

Playwright drives a stock Firefox by WebDriver BiDi, through `firefox_relay`. Emulated colours and motion are options of a
context in Chromium; Firefox has preferences for them, so each combination is a Firefox of its own.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from tests.browser import firefox_relay

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Playwright

CHROMIUM: Final = shutil.which("chromium")
INSTALLED: Final = {
    name for name, path in (("chromium", CHROMIUM), ("firefox", firefox_relay.FIREFOX)) if path is not None
}
# Features to switch off: some contact Google's servers at every start.
DISABLED: Final = ("background-networking", "component-update", "sync", "quic", "gpu")
KEPT: Final = 3
"""The number of processes of one browser that stay for the next test."""
_RELAY: Final = f"""#!/bin/sh
exec '{sys.executable}' '{firefox_relay.__file__}' "$@"
"""
_PREFERENCES: Final[dict[tuple[str, str], dict[str, int]]] = {
    ("color_scheme", "light"): {"layout.css.prefers-color-scheme.content-override": 1},
    ("color_scheme", "dark"): {"layout.css.prefers-color-scheme.content-override": 0},
    ("reduced_motion", "reduce"): {"ui.prefersReducedMotion": 1},
    ("reduced_motion", "no-preference"): {"ui.prefersReducedMotion": 0},
    ("forced_colors", "active"): {"browser.display.document_color_use": 2, "ui.useAccessibilityTheme": 1},
}
# Reports violations of the Content-Security-Policy, which Firefox does not send to Playwright.
_REPORT_VIOLATIONS: Final = """addEventListener("securitypolicyviolation", (event) =>
    console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`))"""


@define
class Browsers:
    """One browser, in as many processes as it has combinations of preferences. They start when they are needed."""

    name: str
    _folder: Path
    _playwright: Playwright | None = None
    _running: dict[tuple[tuple[str, str], ...], Browser] = field(factory=dict)
    """The latest used one is the last."""

    def browser(self, *preferences: tuple[str, str]) -> Browser:
        """The browser with these preferences, which are options of a context such as ``("color_scheme", "dark")``."""
        browser = self._running.pop(preferences, None)
        if browser is None or not browser.is_connected():
            browser = self._launch(preferences)
        self._running[preferences] = browser
        return browser

    def context(self, **options: Any) -> BrowserContext:
        """A new context with these options."""
        if self.name == "chromium":
            return self.browser().new_context(**options)
        preferences = [
            (name, options.pop(name)) for name in sorted({name for name, _ in _PREFERENCES}) if name in options
        ]
        context = self.browser(*preferences).new_context(**options)
        context.add_init_script(_REPORT_VIOLATIONS)
        return context

    def close_unused(self) -> None:
        """Close all but the latest used processes, each of which takes hundreds of megabytes. Call this between two tests."""
        for preferences in list(self._running)[:-KEPT]:
            self._running.pop(preferences).close()

    def close(self) -> None:
        """Close the browser and Playwright, which runs an event loop in this thread. The next use starts them again."""
        while self._running:
            self._running.popitem()[1].close()
        if self._playwright is not None:
            self._playwright.stop()
            self._playwright = None

    def _launch(self, preferences: tuple[tuple[str, str], ...]) -> Browser:
        if self._playwright is None:
            from playwright.sync_api import sync_playwright

            self._playwright = sync_playwright().start()
        if self.name == "chromium":
            arguments = ["--no-sandbox", *(f"--disable-{feature}" for feature in DISABLED)]
            return self._playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        relay = self._folder / "firefox"
        relay.write_text(_RELAY, encoding="utf-8")
        relay.chmod(0o700)
        settings: dict[str, Any] = {}
        for preference in preferences:
            settings |= _PREFERENCES[preference]
        return self._playwright.firefox.launch(
            executable_path=relay, channel="moz-firefox", firefox_user_prefs=settings
        )
