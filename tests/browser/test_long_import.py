"""An import in slices, through kills and deployments: each row once, and a bar that never goes back."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backjob import Status
from backjob.stores import open_store
from tests.browser.test_element import part
from tests.faults.killing import HerdKind, herd
from tests.scenarios.servers import gunicorn
from tests.scenarios.sites import KEY, store_url

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Visitor

ROWS = 10_000
SLICE = 2  # s
KILL_EVERY = 3.0  # s
PATIENCE = 150.0  # s

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

GUNICORN = HerdKind(
    "gunicorn sync",
    gunicorn("--workers=2", "--timeout=5", "--graceful-timeout=30", "-c", "tests/faults/draining_gunicorn.py"),
)


class Bar:
    """What the visitor sees, looked at again and again."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.values: list[int] = []
        self.states: list[str] = []

    def look(self) -> None:
        value = self._page.locator("progress").first.get_attribute("value", timeout=5000)
        state = part(self._page, "state").text_content(timeout=5000) or ""
        self.values.append(-1 if value is None else int(value))
        if state not in self.states[-1:]:
            self.states.append(state)


def test_an_import_survives_kills_and_deployments(visitor: Visitor, tmp_path: Path) -> None:
    worker, rows = tmp_path / "worker", tmp_path / "rows.db"
    environment = {
        "BACKJOB_STORE": store_url(tmp_path),
        "BACKJOB_KEY": KEY,
        "BACKJOB_RUN_LEASE": "2",
        "BACKJOB_SLICE_TIME": str(SLICE),
        "ROWS": str(ROWS),
        "ROWS_DB": str(rows),
        "WORKER": str(worker),
        "SITE": "tests.faults.import_app",
    }
    visitor.expected = "Failed to load resource|NetworkError|ERR_"  # while the last worker is dead
    kills = deployments = 0
    with herd(GUNICORN, "tests.faults.import_app", tmp_path, environment) as server:
        url = server.client.get("/start").text
        job_id = url.rpartition("/")[2].partition(".")[0]
        host, port = server.client.address
        bar = Bar(visitor.open(f"http://{host}:{port}{url}"))
        with closing(open_store(store_url(tmp_path))) as store:
            began = time.monotonic()
            next_kill = began + KILL_EVERY
            while (job := store.get(job_id)) is not None and not job.status.is_final:
                assert time.monotonic() < began + PATIENCE, f"{job}\n{server.tail()}"
                bar.look()
                if time.monotonic() >= next_kill:
                    next_kill += KILL_EVERY
                    with suppress(ProcessLookupError):
                        os.kill(int(worker.read_text()), signal.SIGKILL)
                    kills += 1
                    if kills in (2, 4):
                        assert server.process is not None
                        server.process.send_signal(signal.SIGHUP)
                        deployments += 1
        bar_at_end = part(visitor_page := bar._page, "state")
        bar_at_end.get_by_text("Completed").wait_for()
        bar.look()
        assert visitor_page.title()
    assert job is not None
    assert (job.status, job.progress) == (Status.COMPLETED, 100), job.status_text
    assert kills >= 3
    assert deployments == 2
    with closing(sqlite3.connect(rows)) as database:
        times = Counter(count for (count,) in database.execute("SELECT times FROM rows"))
        (found,) = database.execute("SELECT count(*) FROM rows").fetchone()
    assert found == ROWS
    assert set(times) <= {1, 2}
    assert times[2] <= kills  # the row in hand of each killed worker
    assert job.run > kills + 1  # slices, too
    assert bar.values == sorted(bar.values)
    assert not any("aiting" in state for state in bar.states), bar.states
