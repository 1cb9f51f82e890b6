"""The list of unfinished jobs, for a cache that can't list its keys: one value, a chain of versions like each job.

A lost list heals: each process remembers the unfinished jobs that it has read, and lists them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from backjob.errors import StoreUnavailable
from backjob.stores.cache.chain import FULL, LINGER, PATIENCE, Chain, Kept, Link
from backjob.stores.caches import FOREVER, Entries

_KEPT: Final = Kept(FOREVER, LINGER, FOREVER)
_MOST_OVER: Final = 32
"""Ended jobs in the list before a process that only reads it removes them."""


class Index:
    """The list as one process sees it: job id → when it was listed (microseconds since 1970). Callable from any thread."""

    def __init__(self, entries: Entries) -> None:
        self._chain = Chain(entries, "living")
        self._remembered: dict[str, int] = {}
        self._over: set[str] = set()
        self._latest: tuple[Link | None, dict[str, int]] = None, {}

    def add(self, job_id: str, since: int) -> int:
        """List a job. Returns its place in the order of creation."""
        self._over.discard(job_id)
        refused, before = 0, ""
        while True:
            newest, listed = self._read()
            mark = "none" if newest is None else newest.mark
            refused = refused + 1 if mark == before else 0
            if refused == PATIENCE:
                raise StoreUnavailable(FULL)
            written = self._write(newest, {**self._without_over(listed), job_id: since})
            if written is not None:
                self._remembered[job_id] = since
                return written.number
            before = mark

    def read(self) -> dict[str, int]:
        """Return the jobs that may be unfinished: the listed ones, and those that this process remembers."""
        self._latest = self._read()
        self._remembered = self._without_over({**self._remembered, **self._latest[1]})
        return dict(self._remembered)

    def over(self, job_ids: Iterable[str]) -> None:
        """Note that these jobs have ended, or were never made."""
        for job_id in job_ids:
            self._over.add(job_id)
            self._remembered.pop(job_id, None)

    def tidy(self) -> None:
        """After a `read`, and after reading its jobs: list those again that the list has lost, and remove ended ones."""
        newest, listed = self._latest
        wanted = self._without_over({**self._remembered, **listed})
        if wanted.keys() - listed.keys() or len(listed.keys() - wanted.keys()) > _MOST_OVER:
            self._write(newest, wanted)  # if another process was faster, the next time will do

    def _without_over(self, jobs: dict[str, int]) -> dict[str, int]:
        return {job_id: since for job_id, since in jobs.items() if job_id not in self._over}

    def _read(self) -> tuple[Link | None, dict[str, int]]:
        newest = self._chain.newest() or self._chain.newest_from_the_start()
        try:
            entries = {} if newest is None else json.loads(newest.text)
            listed = {str(job_id): int(since) for job_id, since in entries.items()}
        except (ValueError, TypeError, AttributeError):  # another program wrote it
            listed = {}
        self._over &= listed.keys()
        return newest, listed

    def _write(self, newest: Link | None, jobs: dict[str, int]) -> Link | None:
        text = json.dumps(jobs, separators=(",", ":"))
        return self._chain.start(text, FOREVER) if newest is None else self._chain.follow(newest, text, _KEPT)
