"""A site that imports rows in slices.

The settings come from the environment, as in the scenarios. ``ROWS`` is the number of rows. ``ROWS_DB`` is a database of the
test, with a table ``rows (id, times)``, where ``times`` is how often a row was worked on, 0 at first. Each run is recorded in
the file ``RUNS``.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Final

from backjob.wsgi import BackJobMiddleware
from tests.faults.recording import recorded
from tests.scenarios.apps.plain import make_jobs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["app", "jobs"]

ROWS: Final = int(os.environ["ROWS"])
_SECONDS_EACH: Final = 0.003

jobs: Final = make_jobs()


def import_rows() -> None:
    """Work on each row, in a transaction for each."""
    with closing(sqlite3.connect(os.environ["ROWS_DB"], isolation_level=None, timeout=60)) as database:
        database.execute("PRAGMA synchronous = OFF")  # processes die here, no machine
        for row in jobs.track(range(ROWS), "Importing", resume="each"):
            time.sleep(_SECONDS_EACH)
            database.execute("UPDATE rows SET times = times + 1 WHERE id = ?", (row,))


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    text = "ok"
    if path == "/import":
        with recorded():
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
