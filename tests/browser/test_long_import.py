"""An import in slices, through kills and deployments: each row once, and a bar that never goes back."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backjob import Status
from backjob.lifecycle import history_of
from backjob.model import Job
from backjob.stores import open_store
from tests.faults.killing import HerdKind, herd
from tests.faults.surviving import busy_workers
from tests.scenarios.servers import gunicorn
from tests.scenarios.sites import KEY, store_url

if TYPE_CHECKING:
    from tests.browser.conftest import Visitor

SLICE = 2  # s
KILL_EVERY = 3.0  # s
DEATH = "the process that ran it ended"
DEPLOYMENTS = (1, 3)  # after so many kills
PATIENCE = 900.0  # s

pytestmark = pytest.mark.timeout(1000)

GUNICORN = HerdKind(
    "gunicorn sync",
    gunicorn("--workers=2", "--timeout=5", "--graceful-timeout=30", "-c", "tests/faults/draining_gunicorn.py"),
)

WATCH = """() => {
    window.values = [];
    window.words = [];
    const note = (list, value) => list.at(-1) !== value && list.push(value);
    const look = () => {  // at what each frame shows
        note(values, document.querySelector("progress").value);
        note(words, document.querySelector("[part=status]").textContent);
        requestAnimationFrame(look);
    };
    look();
}"""


# The second site has ATOMIC_REQUESTS, and its query shrinks with each row that is done.
SITES = ("tests.faults.import_app", "tests.faults.import_django_app")


def done_in(job: Job) -> int:
    """How many rows are done according to the cursor in the store."""
    cursor: Any = job.cursor
    return 0 if cursor is None else int(cursor["loops"][""][0])


def reasons(job: Job) -> Counter[str]:
    """Why the runs of a job have ended, of at most a hundred."""
    return Counter(str(entry["reason"]) for entry in history_of(job))


def committed(connection: sqlite3.Connection) -> int:
    """How many rows are done."""
    (count,) = connection.execute("SELECT count(*) FROM rows WHERE times > 0").fetchone()
    return int(count)


@pytest.mark.parametrize("site", SITES, ids=["range", "queryset"])
@pytest.mark.parametrize(
    ("rows", "most_kills"),
    [
        pytest.param(1_500, 4, id="short", marks=pytest.mark.nightly),
        pytest.param(10_000, 1000, id="long", marks=pytest.mark.nightly),
    ],
)
def test_an_import_survives_kills_and_deployments(
    visitor: Visitor, tmp_path: Path, site: str, rows: int, most_kills: int
) -> None:
    database = tmp_path / "rows.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, times INTEGER NOT NULL)")
        connection.executemany("INSERT INTO rows VALUES (?, 0)", ((number,) for number in range(rows)))
        connection.commit()
    environment = {
        "BACKJOB_STORE": store_url(tmp_path),
        "BACKJOB_KEY": KEY,
        "BACKJOB_RUN_LEASE": "2",
        "BACKJOB_SLICE_TIME": str(SLICE),
        "ROWS": str(rows),
        "ROWS_DB": str(database),
        "SITE": site,
        "RUNS": str(tmp_path / "runs"),
    }
    visitor.expected = "Failed to load resource|NetworkError|ERR_"  # a worker may die while it answers the page
    deployments = 0
    page = visitor.page()  # a browser may take longer to start than the job takes
    with herd(GUNICORN, site, tmp_path, environment) as server:
        url = server.client.get("/start").text
        job_id = url.rpartition("/")[2].partition(".")[0]
        host, port = server.listening.getsockname()
        page.goto(f"http://{host}:{port}{url}")
        page.locator("backjob-progress[data-status=in_progress]").wait_for()
        page.evaluate(WATCH)
        with closing(open_store(store_url(tmp_path))) as store, closing(sqlite3.connect(database)) as connection:
            began = time.monotonic()
            next_kill = began + KILL_EVERY
            while (job := store.get(job_id)) is not None and not job.status.is_final:
                assert time.monotonic() < began + PATIENCE, f"{job}\n{server.tail()}"
                page.wait_for_timeout(100)  # the pace of the kills is the fault itself
                if time.monotonic() < next_kill or (server.kills >= most_kills and DEATH in reasons(job)):
                    continue
                next_kill += KILL_EVERY
                with server.stopped():
                    job = store.get(job_id)
                    assert job is not None
                    assert done_in(job) <= committed(connection)  # the cursor does not run ahead of committed rows
                    # Every second kill hits the worker with the job; the others leave some runs time for a whole slice.
                    server.kill_one(busy_workers(server, tmp_path) if server.kills % 2 == 0 else [])
                if server.kills in DEPLOYMENTS:
                    assert server.process is not None
                    server.process.send_signal(signal.SIGHUP)
                    deployments += 1
        page.locator("backjob-progress[data-status=completed]").wait_for()
        values, words = page.evaluate("values"), page.evaluate("words")
    assert job is not None
    assert (job.status, job.progress) == (Status.COMPLETED, 100), job.status_text
    ends = reasons(job)
    assert set(ends) == {DEATH, "continued"}
    assert deployments == len(DEPLOYMENTS)
    with closing(sqlite3.connect(database)) as connection:
        times = Counter(count for (count,) in connection.execute("SELECT times FROM rows"))
    print(
        f"{rows} rows, {server.kills} kills, {job.run} runs: {dict(ends)}; {times[2]} rows twice; bar {values}, {words}"
    )
    assert set(times) <= {1, 2}  # none is left out
    assert times.total() == rows
    assert times[2] <= ends[DEATH]  # the row in hand of each killed worker
    assert values == sorted(values)
    lost = "Connection lost; reconnecting …"  # for a moment, when the worker that answers the page is killed
    assert {text.partition(":")[0] for text in words} <= {"Running", "Retrying", "Done", lost}, words
    assert not any("waiting" in text.lower() for text in words), words
