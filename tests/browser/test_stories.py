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


def shown(page: Page, status: str, *texts: str) -> None:
    """Wait until the element shows that status in these words, which it may have to load."""
    element = page.locator(f"backjob-progress[data-status='{status}']")
    for text in texts:
        element.get_by_text(text).first.wait_for()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("framework", "language"),
    [
        ("flask", "en"),
        pytest.param("django", "de", marks=pytest.mark.any_browser),
        pytest.param("fastapi", "en", marks=pytest.mark.any_browser),
        *(
            pytest.param(*pair, marks=pytest.mark.nightly)
            for pair in (("flask", "de"), ("django", "en"), ("fastapi", "de"))
        ),
    ],
)
def test_a_visitor_exports_orders(framework: str, language: str, tmp_path: Path, visitor: Visitor) -> None:
    pytest.importorskip(framework, reason=f"the site needs {framework}")
    visitor.expected = "404|/static/admin/|nosniff"  # no icon; gunicorn serves no static files
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
        page.get_by_role("link", name="Orders", exact=True).click()
        shown(page, "completed", words["completed"])
        link = page.get_by_role("link", name=words["file"].replace("{name}", "orders.csv"))
        with page.expect_download() as download:
            link.click()
        assert download.value.suggested_filename == "orders.csv"
        lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
        assert lines == [f"{row},{10 * row}" for row in range(ROWS)]

        (tmp_path / "fail").touch()
        page.goto(home)
        page.get_by_role("button", name="Export").click()
        shown(page, "failed", words["failed"], "No such customer")

        (tmp_path / "fail").unlink()
        page.goto(jobs)
        row = page.locator("tbody tr[data-status='failed']")
        assert "No such customer" in row.inner_text()
        row.get_by_role("button", name=words["run_again"]).click()
        page.wait_for_load_state()
        page.goto(jobs)
        assert page.locator("tbody tr").count() == 3
        page.get_by_role("link", name="Orders", exact=True).first.click()
        shown(page, "completed", words["completed"])
