"""Jobs in Redis or Valkey: for applications on many hosts. The extra ``redis`` brings the driver, redis-py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from backjob.errors import InvalidRequest, StoreError
from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report, Status
from backjob.protocols import Clock, Store
from backjob.stores.redis import scripts
from backjob.stores.redis.scripts import Script
from backjob.stores.redis.server import Redis, RedisCluster, Server
from backjob.stores.redis.values import Offset, expecting, job_of, lookup, parted, setting
from backjob.stores.rows import assignments, conditions, draft_row, microseconds, moment, span
from backjob.stores.steps import kept_for, new_job
from backjob.stores.urls import StoreURL
from backjob.stores.values import LOOKAHEAD, output_bytes, output_piece

__all__ = ["RedisStore", "from_url"]

# How many a script takes at once: nobody else is served while it runs.
_PURGED_AT_ONCE: Final = 100
_SWEPT_AT_ONCE: Final = 200
_BEATEN_AT_ONCE: Final = 500
_LOOKED_AT_AT_ONCE: Final = 2000
_MOST_DUE: Final = 1000

_LONGEST_OUTPUT: Final = 1 << 40  # bytes: what a string of Redis can't reach, and its range command still takes
_SLACK: Final = 3_600_000  # ms after its age that an ended job stays where nobody purges
_SCHEMES: Final = {"valkey": "redis", "valkeys": "rediss"}
_PREFIX: Final = re.compile(r"[^{}]+|[^{}]*\{[^{}]+\}[^{}]*")
_FINAL: Final = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


def from_url(url: StoreURL, clock: Clock | None) -> Store:
    """Open ``redis://host:6379/0``, ``rediss://…``, ``unix:///path`` or, the same, ``valkey://…`` and ``valkeys://…``.

    The option ``prefix`` is the constructor's, all others are those of redis-py's own URLs.
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
    """Jobs in a Redis 7 or Valkey server, or a Cluster of them, under keys that begin with ``prefix``.

    ``client_or_url``: a URL of redis-py's forms, or the application's own `redis.Redis` or `redis.cluster.RedisCluster`,
    which `close` leaves open. Nothing is sent before the first call.

    All keys share one hash tag, the part of ``prefix`` in braces, or else the whole of it: one store lies in one slot of
    a Cluster, and each call is one script, atomic over all that it touches. Time is the server's own, or ``clock``'s.

    What is accepted is as durable as the server makes it (``appendonly``, replication). Where it evicts keys that have
    no expiry, jobs get lost; that is logged as a warning. Once `purge` was called, ended jobs expire by themselves an
    hour after the ages that it was given, even where nobody purges any more.

    Raises `InvalidRequest` for an argument, and for a client with ``decode_responses=True``.
    """

    def __init__(
        self, client_or_url: str | Redis | RedisCluster, *, clock: Clock | None = None, prefix: str = "backjob"
    ) -> None:
        if not prefix.isprintable() or not _PREFIX.fullmatch(prefix):
            raise InvalidRequest(
                "prefix", 'expected is a name such as "backjob", or one with its hash tag in braces: "shop:{jobs}"'
            )
        self._clock = clock
        self._server = Server(client_or_url, prefix if "{" in prefix else f"{{{prefix}}}")
        self._told_of_eviction = False

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        row = draft_row(draft, merge_key, Offset())
        if draft.request.body:
            row["body"] = draft.request.body
        now, outcome, holder = self._run(
            scripts.CREATE,
            draft.id,
            int(merge_key is not None),
            merge_key or "",
            *setting(row),
        )
        if outcome == b"held":
            return job_of(holder, now)
        if outcome == b"exists":
            raise InvalidRequest("id", "a job with this id exists already")
        if not self._told_of_eviction:
            self._tell_of_eviction()
        return new_job(draft, merge_key, moment(int(now)))

    def get(self, job_id: str) -> Job | None:
        now, row = self._run(scripts.GET, job_id)
        return job_of(row, now) if row else None

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        offset = max(offset, 0)
        first = min(offset, _LONGEST_OUTPUT)
        last = first + min(limit, _LONGEST_OUTPUT) + LOOKAHEAD - 1
        truncated, data = self._run(scripts.OUTPUT, job_id, first, last)
        return output_piece(data, offset, limit, truncated=truncated == b"1")

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        columns = assignments(changes, Offset())
        if changes.end:
            columns["body"] = None
        now, row = self._run(scripts.CHANGE, job_id, expecting(conditions(expect)), *setting(columns))
        return job_of(row, now) if row else None

    def report(self, job_id: str, token: str, report: Report) -> bool:
        added = output_bytes(report.output)
        progress = "" if report.progress is None else report.progress
        written = self._run(scripts.REPORT, job_id, token, progress, lookup(report.text), added, int(report.truncated))
        return bool(written)

    def take_due(self, lessee: str, lease: float, limit: int) -> list[Job]:
        most = max(0, min(limit, _MOST_DUE))
        now, *rows = self._run(scripts.DUE, lessee, *parted(span(lease)), most)
        return [job_of(row, now) for row in rows]

    def beat(self, tokens: Mapping[str, str]) -> None:
        beating = list(tokens.items())
        for start in range(0, len(beating), _BEATEN_AT_ONCE):
            pairs = beating[start : start + _BEATEN_AT_ONCE]
            self._run(scripts.BEAT, *[part for pair in pairs for part in pair])

    def find(self, query: Query) -> list[Job]:
        found: list[Job] = []
        status = None if query.status is None else str(int(query.status))
        asked = [lookup(query.scope), lookup(status), lookup(query.owner)]
        before = lookup(query.before)
        if not query.limit:
            return found
        if query.overdue:
            now, *rows = self._run(scripts.OVERDUE, *asked, query.limit, before)
            return [job_of(row, now) for row in rows]
        below = b""
        while True:
            left = query.limit - len(found)
            now, below, *rows = self._run(scripts.FIND, *asked, left, before, below, _LOOKED_AT_AT_ONCE)
            found += [job_of(row, now) for row in rows]
            if not below or len(found) == query.limit:
                return found
            before = ""

    def purge(self, completed_age: float, ended_age: float) -> int:
        completed, ended = _age(completed_age), _age(ended_age)
        ages = (completed, ended, _SLACK)
        changed = self._run(scripts.RETENTION, "set", *ages)
        removed = 0
        for status in _FINAL:
            if age := kept_for(status, completed, ended):
                removed += self._purge(status, age)
        if changed:
            for status in _FINAL:
                self._sweep(status)
            self._run(scripts.RETENTION, "swept", *ages)
        return removed

    def close(self) -> None:
        """Close idle connections, unless the client is the application's own. A later call still works: it opens one."""
        self._server.close()

    def _run(self, script: Script, *arguments: Any) -> Any:
        now = ("", "") if self._clock is None else parted(microseconds(self._clock.now()))
        encoded = [part.encode() if isinstance(part, str) else part for part in arguments]  # the client may say Latin-1
        return self._server.run(script, *now, *encoded)

    def _purge(self, status: Status, age: int) -> int:
        removed = 0
        while True:
            met, gone = self._run(scripts.PURGE, int(status), *parted(-age), _PURGED_AT_ONCE)
            removed += int(gone)
            if met < _PURGED_AT_ONCE:
                return removed

    def _sweep(self, status: Status) -> None:
        """Set the expiry of all jobs that ended so, by the ages that stand now."""
        cursor = b"0"
        while True:
            cursor = self._run(scripts.SWEEP, int(status), cursor, _SWEPT_AT_ONCE)
            if cursor == b"0":
                return

    def _tell_of_eviction(self) -> None:
        """Warn once if the server drops what it was not told to; one that does not say is not asked again."""
        self._told_of_eviction = True
        try:
            lines = self._run(scripts.MEMORY).decode().split()
        except StoreError:
            return
        known = dict(line.split(":", 1) for line in lines if ":" in line)
        policy = known.get("maxmemory_policy", "")
        if policy.startswith("allkeys") and known.get("maxmemory") != "0":
            self._server.warn("its maxmemory-policy %s may drop jobs that have not ended; set noeviction", policy)


def _age(seconds: float) -> int:
    """An age in microseconds; 0 keeps for ever."""
    return max(1, span(seconds)) if seconds > 0 else 0
