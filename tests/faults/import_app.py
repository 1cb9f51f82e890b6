"""A site that imports rows in slices. It counts in a database of its own how often it has worked on each row.

The settings come from the environment, as in the scenarios. ``ROWS`` is the number of rows, ``ROWS_DB`` the database, and
``WORKER`` a file with the process id of the worker that runs the import.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backjob.wsgi import BackJobMiddleware
from tests.scenarios.apps.plain import make_jobs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["app", "jobs"]

ROWS: Final = int(os.environ["ROWS"])
_SECONDS_EACH: Final = float(os.environ.get("SECONDS_EACH", "0.001"))

jobs: Final = make_jobs()


def import_rows() -> None:
    """Work on each row, in a transaction for each."""
    Path(os.environ["WORKER"]).write_text(str(os.getpid()), encoding="utf-8")
    with closing(sqlite3.connect(os.environ["ROWS_DB"], isolation_level=None, timeout=60)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, times INTEGER NOT NULL)")
        for row in jobs.track(range(ROWS), "Importing", resume="each"):
            time.sleep(_SECONDS_EACH)
            database.execute("INSERT INTO rows VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET times = times + 1", (row,))


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    text = "ok"
    if path == "/import":
        import_rows()
    elif path == "/start":
        job_id = jobs.start("/import", as_current_user=False, retries=5, retry_delay=0.2)
        text = jobs.status_url(job_id)
    elif path == "/favicon.ico":
        start_response("204 No Content", [])
        return []
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(text)))])
    return [text.encode()]


app: WSGIApplication = BackJobMiddleware(site, jobs)
