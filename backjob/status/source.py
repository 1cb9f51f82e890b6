"""The operations of the engine that the status routes use."""

from __future__ import annotations

from collections.abc import Collection
from typing import BinaryIO, Protocol

from backjob.errors import StoreUnusable
from backjob.model import JobState, Output, Query
from backjob.status.links import Right
from backjob.status.streaming.broadcast import Broadcast


class StatusSource(Protocol):
    """The operations of the engine that the status routes use."""

    @property
    def broadcast(self) -> Broadcast: ...

    @property
    def show_errors(self) -> bool: ...

    @property
    def page_template(self) -> str | None: ...

    @property
    def trusted_origins(self) -> Collection[str]: ...

    def status(self, job_id: str) -> JobState: ...

    def listed(self, query: Query) -> list[JobState]: ...

    def output(self, job_id: str, offset: int = 0) -> Output: ...

    def tail(self, job_id: str) -> tuple[int, Output]: ...

    def open_file(self, job_id: str) -> BinaryIO | None: ...

    def cancel(self, job_id: str) -> bool: ...

    def delete(self, job_id: str) -> bool: ...

    def run_again(self, job_id: str) -> str: ...

    def runs_without_owner(self, job_id: str) -> bool: ...

    def rights(self, job_id: str, token: str) -> Right | None: ...

    def reference(self, job_id: str, right: Right) -> str: ...

    def public_mount(self) -> str | None: ...


class CannotList(StoreUnusable):
    """The store can't list its jobs."""
