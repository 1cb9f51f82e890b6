"""Jobs in Redis or Valkey, for applications on several hosts. The extra ``redis`` installs the driver, redis-py."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final
from urllib.parse import urlencode

from attrs import evolve

from backjob.errors import InvalidRequest, SlotTaken, StoreUnusable
from backjob.model import UNSET, Changes, Draft, Expect, Job, Output, Query, Report, Status
from backjob.protocols import Clock, Store
from backjob.stores.redis import scripts, searches
from backjob.stores.redis.lua import Script
from backjob.stores.redis.server import Redis, RedisCluster, Server
from backjob.stores.redis.values import expecting, job_of, listing, lookup, parted, pointing, searching, setting
from backjob.stores.rows import After, assignments, conditions, draft_row, microseconds, moment, span
from backjob.stores.steps import kept_for, new_job
from backjob.stores.urls import StoreURL
from backjob.stores.values import LOOKAHEAD, output_bytes, output_piece

# The most jobs for one script, because the server serves no other client while it runs.
_PURGE_BATCH: Final = 100
_BEAT_BATCH: Final = 1000
_SEARCH_BATCH: Final = 2000
_DUE_LIMIT: Final = 1000

_LONGEST_OUTPUT: Final = 1 << 40  # bytes: more than a string in Redis can have, and still valid for GETRANGE
_SCHEMES: Final = {"valkey": "redis", "valkeys": "rediss"}
_PREFIX: Final = re.compile(r"[^{}]+|[^{}]*\{[^{}]+\}[^{}]*")


def from_url(url: StoreURL, clock: Clock | None) -> Store:
    """Open a store at ``redis://host:6379/0``, ``rediss://…``, ``unix:///path``, ``valkey://…`` or ``valkeys://…``.

    The option ``prefix`` is the constructor's. All others are those of redis-py's URLs.
    """
    options = dict(url.options)
    prefix = options.pop("prefix", "backjob")
    query = f"?{urlencode(options)}" if options else ""
    try:
        return RedisStore(f"{_SCHEMES.get(url.scheme, url.scheme)}:{url.location}{query}", clock=clock, prefix=prefix)
    except InvalidRequest as error:
        if error.argument != "client_or_url":
            raise
        raise InvalidRequest("store", error.reason) from None


class RedisStore:
    """Jobs in a Redis 7 or Valkey server, or in a Cluster, under keys that begin with ``prefix``.

    ``client_or_url`` is a URL in one of redis-py's forms, or the application's `redis.Redis` or
    `redis.cluster.RedisCluster`, which `close` leaves open. The store does not connect before the first call.

    All keys have the same hash tag: the part of ``prefix`` in braces, or else the whole prefix. So a store is in one slot
    of a Cluster, and each call is one atomic script. The store's time is the server's, or that of ``clock``.

    An accepted job is as durable as the server's settings (``appendonly``, replication) make it. A server that evicts
    keys without an expiry loses jobs; `backjob doctor` checks that.

    Raises `InvalidRequest` for an argument, and for a client with ``decode_responses=True``.
    """

    def __init__(
        self, client_or_url: str | Redis | RedisCluster, *, clock: Clock | None = None, prefix: str = "backjob"
    ) -> None:
        if not prefix.isprintable() or not _PREFIX.fullmatch(prefix):
            raise InvalidRequest(
                "prefix", 'must be a name such as "backjob", or one with its hash tag in braces: "shop:{jobs}"'
            )
        self._clock = clock
        self._server = Server(client_or_url, prefix if "{" in prefix else f"{{{prefix}}}")

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        row = draft_row(draft, merge_key, After())
        if draft.request.body:
            row["body"] = draft.request.body
        is_merging = int(merge_key is not None)
        now, outcome, other = self._run(scripts.CREATE, draft.id, is_merging, merge_key or "", *setting(row))
        if outcome == b"merged":
            return job_of(other, now)
        if outcome == b"exists":
            raise InvalidRequest("id", "a job with this id exists already")
        return new_job(draft, merge_key, moment(int(now)))

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        now, row = self._run(scripts.GET, job_id, int(body))
        return job_of(row, now) if row else None

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        offset = max(offset, 0)
        first = min(offset, _LONGEST_OUTPUT)
        last = first + min(limit, _LONGEST_OUTPUT) + LOOKAHEAD - 1
        truncated, data, size, tail = self._run(scripts.OUTPUT, job_id, first, last)
        chunk = output_piece(data, offset, limit, truncated=truncated == b"1")
        return evolve(chunk, tail=tail.decode()) if tail is not None and chunk.next_offset >= int(size) else chunk

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        columns = assignments(changes, After())
        if changes.erases_body:
            columns["body"] = None
        flags = int(expect.unclaimed), int(expect.lease_over)
        now, row = self._run(scripts.CHANGE, job_id, expecting(conditions(expect)), *flags, *setting(columns))
        if row == b"taken":
            raise SlotTaken(str(changes.slot))
        return job_of(row, now) if row else None

    def report(self, job_id: str, token: str, report: Report) -> bool:
        added = output_bytes(report.output)
        progress = "" if report.progress is None else report.progress
        columns = progress, lookup(report.text), pointing(report.cursor)
        tail = "" if report.tail is UNSET else lookup(report.tail or None) or "-"
        return bool(self._run(scripts.REPORT, job_id, token, *columns, added, int(report.truncated), tail))

    def take_due(
        self,
        lessee: str,
        lease: float,
        limit: int,
        labels: frozenset[str] | None = None,
        full: frozenset[str] = frozenset(),
        *,
        queues: frozenset[str] | None = None,
    ) -> list[Job]:
        limit = max(0, min(limit, _DUE_LIMIT))
        arguments = *parted(span(lease)), limit, listing(labels), listing(full), listing(queues)
        now, *rows = self._run(scripts.DUE, lessee, *arguments)
        return [job_of(row, now) for row in rows]

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        each = [(job_id, token, int(job_id in alive)) for job_id, token in tokens.items()]
        stale: set[str] = set()
        for start in range(0, len(each), _BEAT_BATCH):
            parts = chain.from_iterable(each[start : start + _BEAT_BATCH])
            ids = self._run(scripts.BEAT, *parted(span(lease)), *parts, apart=True)
            stale.update(job_id.decode() for job_id in ids)
        return frozenset(stale)

    def find(self, query: Query) -> list[Job]:
        found: list[Job] = []
        for now, rows in self._search(query, counts=False):
            found += [job_of(row, now) for row in rows]
        return found

    def count(self, query: Query) -> int:
        return sum(sum(numbers) for _, numbers in self._search(query, counts=True))

    def _search(self, query: Query, *, counts: bool) -> Iterator[tuple[bytes, list[Any]]]:
        """The answers of the scripts that search: now, and rows or their number."""
        script = searches.OVERDUE if query.overdue else searches.FIND
        wanted, below, remaining = searching(query), b"", query.limit
        while remaining > 0:
            now, below, *found = self._run(script, wanted, remaining, below, _SEARCH_BATCH, int(counts))
            yield now, found
            remaining -= sum(found) if counts else len(found)
            if not below:
                return

    def delete(self, job_id: str) -> bool:
        return bool(self._run(scripts.DELETE, job_id))

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        ages = kept_for(completed_age, ended_age).items()
        each: Iterable[str | bytes] = self._run(scripts.LABELS) if labels is None else labels
        return sum(self._purge(status, age, label) for status, age in ages for label in each)

    def _purge(self, status: Status, age: float, label: str | bytes) -> int:
        removed, entries, ended_since = 0, _PURGE_BATCH, parted(-max(1, span(age)))
        while entries == _PURGE_BATCH:
            entries, jobs = self._run(scripts.PURGE, int(status), *ended_since, _PURGE_BATCH, label)
            removed += int(jobs)
        return removed

    def close(self) -> None:
        """Close idle connections, unless the client is the application's. A later call opens a new one."""
        self._server.close()

    def eviction_policy(self) -> str:
        """The server's ``maxmemory-policy``, or "" if the server does not show it. Raises `StoreUnavailable`."""
        try:
            found = re.search(rb"^maxmemory_policy:([\w-]+)", self._run(scripts.MEMORY), re.MULTILINE)
        except StoreUnusable:  # this user may not call INFO
            return ""
        return found[1].decode() if found else ""

    def _run(self, script: Script, *arguments: Any, apart: bool = False) -> Any:
        now = ("", "") if self._clock is None else parted(microseconds(self._clock.now()))
        # Encoded here, because the application's client may have another encoding than UTF-8.
        encoded = [part.encode() if isinstance(part, str) else part for part in arguments]
        return self._server.run(script, *now, *encoded, apart=apart)
