"""One visit to the site of each Quickstart: press twice, close the tab, come back to the list, download, fail, run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.docs.pages import ROOT
from tests.docs.quickstarts import PASSWORD, ROWS, SITES, USER

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Visitor

pytestmark = pytest.mark.slow


def words_of(language: str) -> dict[str, Any]:
    """The words of the pages in that language."""
    file = ROOT / "backjob" / "status" / "languages" / f"{language}.json"
    words: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["words"]
    return words


def log_in(page: Page) -> None:
    """Log in, if the site has a login."""
    if page.locator("[name='username']").count():
        page.fill("[name='username']", USER)
        page.fill("[name='password']", PASSWORD)
        page.locator("[type='submit']").click()
    page.get_by_role("button", name="Export").wait_for()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("framework", SITES)
def test_a_visitor_exports_orders(framework: str, language: str, tmp_path: Path, visitor: Visitor) -> None:
    pytest.importorskip(framework, reason=f"the site needs {framework}")
    visitor.expected = "404|/static/admin/"  # no icon; gunicorn serves no static files
    words = words_of(language)
    with SITES[framework](tmp_path, language) as site:
        home, jobs = f"http://127.0.0.1:{site.port}/", f"http://127.0.0.1:{site.port}/backjob/"
        page = visitor.open(home, locale={"en": "en-GB", "de": "de-DE"}[language], accept_downloads=True)
        log_in(page)

        page.get_by_role("button", name="Export").dblclick()
        page.locator("backjob-progress").wait_for()
        context = page.context
        page.close()  # the visitor closes the tab

        page = context.new_page()
        page.goto(jobs)
        assert page.title() == words["jobs"]
        assert page.locator("tbody tr").count() == 1
        page.get_by_role("link", name="Orders").click()
        page.locator("backjob-progress[data-status='completed']").wait_for()
        assert words["completed"] in page.locator("backjob-progress [part='status']").inner_text()
        link = page.get_by_role("link", name=words["file"].replace("{name}", "orders.csv"))
        with page.expect_download() as download:
            link.click()
        assert download.value.suggested_filename == "orders.csv"
        lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
        assert lines == [f"{row},{10 * row}" for row in range(ROWS)]

        (tmp_path / "fail").touch()
        page.goto(home)
        page.get_by_role("button", name="Export").click()
        failed = page.locator("backjob-progress[data-status='failed']")
        failed.wait_for()
        assert "No such customer" in failed.inner_text()
        assert words["failed"] in failed.inner_text()

        (tmp_path / "fail").unlink()
        page.goto(jobs)
        row = page.locator("tbody tr[data-status='failed']")
        assert "No such customer" in row.inner_text()
        row.get_by_role("button", name=words["run_again"]).click()
        page.wait_for_load_state()
        page.goto(jobs)
        assert page.locator("tbody tr").count() == 3
        page.get_by_role("link", name="Orders").first.click()
        page.locator("backjob-progress[data-status='completed']").wait_for()
