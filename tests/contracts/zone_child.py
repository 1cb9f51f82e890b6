"""A process in its own time zone (TZ in its environment): ``python -m tests.contracts.zone_child URL``.

It reads a step per line, as JSON: the step's name, a job id, and further arguments. It prints each result as a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from typing import Any, Final

from attrs import asdict

from backjob.lifecycle import claimed, completed, ended
from backjob.model import Changes, Draft, Expect, Job, Query, Report, Request
from backjob.protocols import Store
from backjob.stores import open_store


def times(job: Job | None) -> dict[str, Any]:
    """Every moment of a job, with its zone; all but ``read_time`` should be the same in every process."""
    fields = asdict(job, recurse=False) if job is not None else {}
    moments = {name: value.isoformat() for name, value in fields.items() if isinstance(value, datetime)}
    return moments | {"zones": sorted({str(value.tzinfo) for value in fields.values() if isinstance(value, datetime)})}


def create(store: Store, job_id: str, due: str | float = 0.0) -> dict[str, Any]:
    moment = datetime.fromisoformat(due) if isinstance(due, str) else due
    draft = Draft(id=job_id, request=Request("GET", "/work"), due=moment, expires=moment or 3600.0, error_timeout=3600)
    return times(store.create(draft))


def get(store: Store, job_id: str) -> dict[str, Any]:
    return times(store.get(job_id))


def take(store: Store, job_id: str) -> dict[str, Any]:
    """Lease the due jobs; return the moments of this one if it is among them."""
    taken = {job.id: job for job in store.take_due("me", 3600.000001, 10)}
    return times(taken.get(job_id)) | {"taken": sorted(taken)}


def move(store: Store, job_id: str, due: str) -> dict[str, Any]:
    return times(store.change(job_id, Expect(), Changes(due=datetime.fromisoformat(due))))


def claim(store: Store, job_id: str) -> dict[str, Any]:
    return times(store.change(job_id, *claimed("token", 1, 3600)))


def report(store: Store, job_id: str) -> dict[str, Any]:
    store.report(job_id, "token", Report(output="out"))
    store.beat({job_id: "token"}, 3600.000001, frozenset((job_id,)))
    return times(store.get(job_id))


def overdue(store: Store, job_id: str) -> dict[str, Any]:
    return {"overdue": [job.id for job in store.find(Query(overdue=True))]}


def end(store: Store, job_id: str) -> dict[str, Any]:
    return times(store.change(job_id, Expect(token="token"), ended(completed())))


def purge(store: Store, job_id: str) -> dict[str, Any]:
    """Purge jobs that ended half an hour ago: there is none, but a zone that is off by an hour would find one."""
    return {"purged": store.purge(1800, 1800)} | get(store, job_id)


STEPS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    step.__name__: step for step in (create, get, take, move, claim, report, overdue, end, purge)
}


def main(url: str) -> None:
    print(json.dumps({"zone": time.strftime("%z")}), flush=True)
    with closing(open_store(url)) as store:
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            print(json.dumps(STEPS[name](store, *arguments)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
