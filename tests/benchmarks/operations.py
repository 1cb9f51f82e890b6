"""What each operation of a store costs: ``python -m tests.benchmarks.operations [store…]`` prints a table for each kind.

Statements, rows and bytes are exact, and the same on every machine. Times are of this one.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import pymysql
import pytest
import redis
from attrs import frozen

from backjob.lifecycle import claimed, completed, ended
from backjob.model import Draft, Expect, Query, Report, Request, Status
from backjob.protocols import Store
from backjob.stores import open_store
from tests.benchmarks.metered import METERED, MeteredStore, metered_store
from tests.contracts.counted import Counter, counter

__all__ = ["Cost", "costs", "growth", "main"]

_TIMES: Final = 200
_LEASE: Final = 600.0
_BACKLOGS: Final = (100, 10_000)
_RUNNING: Final = (1, 100, 1_000)
_LABEL: Final = "application"
_LABELS: Final = frozenset({_LABEL})
"""Every application searches for its own jobs alone, and the indices begin with their label."""
_NOT_IN_SCRIPTS: Final = {"cmdstat_evalsha", "cmdstat_info", "cmdstat_client|setinfo"}
_TCP_BYTES: Final = 120
"""Where in Linux's `tcp_info` the two numbers of bytes are: acknowledged and received."""


@frozen
class Cost:
    """The cost of one call: ``sent`` and ``received`` are in bytes, times in seconds. None: the store has no such figure."""

    what: str
    statements: float
    rows: float | None
    sent: float | None
    received: float | None
    in_store: float | None
    in_process: float
    latency: float


def costs(name: str) -> list[Cost]:
    """The cost of each step of a job's life, and of what processes do regularly, in an otherwise empty store."""
    with _measured(name) as measured:
        store, cost = measured.store, measured.cost
        ids = [secrets.token_urlsafe(18) for _ in range(_TIMES)]
        running = ids[-1]
        found = [cost("create", [partial(store.create, _draft(job_id)) for job_id in ids])]
        measured.gather()
        found += [
            cost("take one due job", _takes(store)),
            cost("claim", [partial(store.change, job_id, *_claim()) for job_id in ids]),
            cost("report progress", [partial(store.report, running, "token", _PROGRESS) for _ in ids]),
            cost("report output", [partial(store.report, running, "token", _OUTPUT) for _ in ids]),
            cost("read", [partial(store.get, running) for _ in ids]),
            cost("end", [partial(store.change, job_id, *_end()) for job_id in ids]),
            cost("find no due job", [partial(store.take_due, "monitor", _LEASE, 8, _LABELS) for _ in ids]),
            cost("find no overdue job", [partial(store.find, _OVERDUE) for _ in ids]),
            cost("does any job run", [partial(store.count, _RUNS) for _ in ids]),
        ]
    return found


def growth(name: str) -> list[Cost]:
    """The cost of what may grow: with the jobs that wait, and with those that run."""
    found = []
    for backlog in _BACKLOGS:
        with _measured(name) as measured:
            for _ in range(backlog):
                measured.store.create(_draft(secrets.token_urlsafe(18)))
            measured.gather()
            found.append(measured.cost(f"take one of {backlog:,} due jobs", _takes(measured.store)))
    for count in _RUNNING:
        with _measured(name) as measured:
            store = measured.store
            tokens = {secrets.token_urlsafe(18): "token" for _ in range(count)}
            for job_id in tokens:
                store.create(_draft(job_id))
                store.change(job_id, *_claim())
            measured.gather()
            beat = partial(store.beat, tokens, _LEASE, frozenset[str]())
            found.append(measured.cost(f"renew {count:,} leases", [beat] * max(20, _TIMES // count)))
            found.append(measured.cost(f"find no overdue job, {count:,} run", [partial(store.find, _OVERDUE)] * _TIMES))
    return found


def _takes(store: Store) -> list[Callable[[], object]]:
    """Calls that take a due job. Each lease is over at once, so that no call reads past jobs that an earlier one has leased."""
    return [partial(store.take_due, f"monitor {number}", 1e-6, 1, _LABELS) for number in range(_TIMES)]


def _draft(job_id: str) -> Draft:
    return Draft(id=job_id, request=Request("GET", "/work?id=5"), label=_LABEL)


def _claim() -> tuple[Expect, Any]:
    return claimed("token", 1, _LEASE)


def _end() -> tuple[Expect, Any]:
    return Expect(token="token"), ended(completed())


_PROGRESS: Final = Report(progress=50, text="row 50")
_OUTPUT: Final = Report(progress=50, output="x" * 99 + "\n")
_OVERDUE: Final = Query(overdue=True, limit=100, labels=_LABELS)
_RUNS: Final = Query(status=Status.IN_PROGRESS, limit=1, labels=_LABELS)


# --- measuring ------------------------------------------------------------------------------------------------------


@frozen
class _Measured:
    store: Store
    place: MeteredStore
    counts: Counter

    def cost(self, what: str, calls: Sequence[Callable[[], object]]) -> Cost:
        """The average cost of the calls, without the first five of them."""
        for call in calls[:5]:
            call()
        made = calls[5:]
        self.settle()
        before = (self._rows(), *_bytes(self.place.url), self.place.processor_time())
        own, wall = time.process_time(), time.perf_counter()
        with self.counts.counted() as statements:
            for call in made:
                call()
        own, wall = time.process_time() - own, time.perf_counter() - wall
        sent, received, in_store = (*_bytes(self.place.url), self.place.processor_time())
        self.settle()
        after = (self._rows(), sent, received, in_store)
        rows, sent_each, received_each, in_store_each = (
            None if old is None or new is None or self.place.name == "SQLite" else (new - old) / len(made)
            for old, new in zip(before, after, strict=True)
        )
        return Cost(
            what,
            len(statements) / len(made),
            rows,
            sent_each,
            received_each,
            in_store_each,
            own / len(made),
            wall / len(made),
        )

    def gather(self) -> None:
        """Have the server gather statistics about its tables, as it otherwise does within a minute."""
        if self.place.name == "PostgreSQL":
            self._query("ANALYZE")
        elif self.place.name == "MariaDB":
            self._query("ANALYZE TABLE backjob")

    def settle(self) -> None:
        """Have PostgreSQL add up what its processes have counted: each does so at most once a second, in a transaction."""
        if self.place.name == "PostgreSQL":
            time.sleep(1.1)
            self.store.get("nobody")

    def _rows(self) -> float | None:
        """How many rows the server has read so far; of Redis, how many commands its scripts have run."""
        if self.place.name == "PostgreSQL":
            return self._query("SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables")
        if self.place.name == "MariaDB":
            return self._query(
                "SELECT sum(variable_value) FROM information_schema.global_status WHERE variable_name IN "
                "('HANDLER_READ_KEY', 'HANDLER_READ_NEXT', 'HANDLER_READ_PREV', 'HANDLER_READ_FIRST', 'HANDLER_READ_RND')"
            )
        if self.place.name == "Redis":
            with closing(redis.Redis.from_url(self.place.url)) as client:
                info: Any = client.info("commandstats")
                return float(sum(one["calls"] for name, one in info.items() if name not in _NOT_IN_SCRIPTS))
        return None

    def _query(self, statement: str) -> float:
        """Run a statement on a connection of its own. Returns the number that it finds, or 0."""
        port = urlsplit(self.place.url).port or 0
        if self.place.name == "PostgreSQL":
            with psycopg.connect(
                host="127.0.0.1", port=port, user="postgres", dbname="postgres", autocommit=True
            ) as connection:
                done = connection.execute(statement.encode())
                return float(done.fetchall()[0][0]) if done.description else 0.0
        with (
            closing(pymysql.connect(host="127.0.0.1", port=port, user="root", database="test")) as connected,
            connected.cursor() as cursor,
        ):
            cursor.execute(statement)
            found = cursor.fetchall()[0][0]
            return 0.0 if isinstance(found, str) else float(found)


@contextmanager
def _measured(name: str) -> Iterator[_Measured]:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        counts = counter(patch)
        with metered_store(name, Path(directory)) as place, closing(open_store(place.url)) as store:
            store.get("nobody")
            yield _Measured(store, place, counts)


def _bytes(url: str) -> tuple[float, float]:
    """The bytes that this process has sent to and received from the server at this URL, on the connections that are open."""
    port, sent, received = urlsplit(url).port, 0, 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not stat.S_ISSOCK(entry.stat().st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as copy:
                if copy.family == socket.AF_INET and copy.getpeername()[1] == port:
                    info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    acknowledged, got = struct.unpack_from("QQ", info, _TCP_BYTES)
                    sent, received = sent + acknowledged, received + got
        except OSError:  # it was closed meanwhile, or is not connected
            continue
    return float(sent), float(received)


# --- the table ------------------------------------------------------------------------------------------------------


def table(found: Iterable[Cost]) -> str:
    """The costs as a table in Markdown."""
    lines = [
        "| operation | statements | rows read | bytes sent | bytes received | processor time: store | here | latency |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cost in found:
        cells = [f"{cost.statements:.1f}", _number(cost.rows, 1), _number(cost.sent), _number(cost.received)]
        cells += ["" if cost.in_store is None else f"{1e6 * cost.in_store:.0f} µs"]
        cells += [f"{1e6 * cost.in_process:.0f} µs", f"{1e6 * cost.latency:.0f} µs"]
        lines.append("| " + " | ".join([cost.what, *cells]) + " |")
    return "\n".join(lines)


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def main(names: Iterable[str]) -> None:
    """Print the tables."""
    for name in names:
        print(f"\n{name}, load {os.getloadavg()[0]:.1f}\n")
        print(table([*costs(name), *growth(name)]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or METERED)
