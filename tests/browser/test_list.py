"""The list of jobs in real browsers: narrow and wide, light and dark, and by its forms without JavaScript."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from datetime import timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from wsgiref.simple_server import make_server

import pytest
from attrs import frozen

from backjob import BackJob
from backjob.lifecycle import completed, failed
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.browser.conftest import Visitor
from tests.browser.test_accessibility import findings
from tests.unit.acting import Acting

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

pytestmark = pytest.mark.slow

LONG: Final = "Invoices-of-the-year-2026-without-a-single-space-" * 3


@frozen
class ListSite:
    jobs: BackJob
    url: str


def _nothing(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("404 Not Found", [("Content-Length", "0")])
    return [b""]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ListSite]:
    """A site whose every visitor is Ann, who has a failed, a running, a waiting and a completed job."""
    jobs = BackJob(
        SQLiteStore(tmp_path / "jobs.db"),
        SocketTransport,
        MessageSigner(secrets.token_urlsafe(32)),
        owner=lambda request: "ann",
    )
    Acting(jobs, owner="ann", title=LONG, keep_request=True).claim().end(failed, "The bank does not answer")
    Acting(jobs, owner="ann", title="Export").claim().report(progress=40, text="Half")
    Acting(jobs, owner="ann", due=3600.0)
    Acting(jobs, owner="ann", title="Import").claim().end(completed, "Imported")
    server = make_server("127.0.0.1", 0, BackJobMiddleware(_nothing, jobs))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield ListSite(jobs, f"http://127.0.0.1:{server.server_port}/backjob/")
    server.shutdown()
    server.server_close()
    thread.join()
    jobs.close()


@pytest.mark.any_browser
@pytest.mark.parametrize("width", [320, 768])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_list_is_accessible_and_fits_the_screen(
    site: ListSite, visitor: Visitor, modules: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    page = visitor.open(site.url, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.get_by_text("The bank does not answer").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert findings(page, modules) == []


@pytest.mark.any_browser
@pytest.mark.parametrize("language", ["it", "pl"])  # which have the longest words
def test_the_list_is_a_table_on_a_tablet(site: ListSite, visitor: Visitor, language: str) -> None:
    page = visitor.open(site.url, viewport={"width": 768, "height": 800}, locale=language)
    reason = page.locator(".backjob-text", has_text="The bank does not answer").bounding_box()
    assert reason is not None
    assert reason["width"] >= 140
    assert page.locator("tbody tr").first.evaluate("row => getComputedStyle(row).display") == "table-row"
    assert page.evaluate("document.documentElement.scrollWidth") <= 768


def test_times_are_in_the_visitors_zone_and_language(site: ListSite, visitor: Visitor) -> None:
    page = visitor.open(site.url, timezone_id="Asia/Tokyo", locale="de-DE")
    created = site.jobs.find(limit=1)[0].created_time
    assert created is not None
    there = created.astimezone(timezone(timedelta(hours=9)))
    shown = page.locator("time").first
    assert shown.inner_text() == f"{there:%d.%m.%Y, %H:%M}"
    assert shown.get_attribute("title") == f"{created:%Y-%m-%d %H:%M:%S} UTC"


@pytest.mark.any_browser
def test_the_list_is_filtered_and_a_job_is_deleted_without_javascript(site: ListSite, visitor: Visitor) -> None:
    page = visitor.open(site.url, java_script_enabled=False)
    page.get_by_label("State").select_option("Failed")
    page.get_by_role("button", name="Filter").click()
    assert page.get_by_role("row").count() == 2  # with the headings
    page.get_by_role("button", name="Delete").click()
    page.get_by_text("No job matches.").wait_for()
    assert page.url.startswith(f"{site.url}?status=failed")
    assert len(site.jobs.find()) == 3
