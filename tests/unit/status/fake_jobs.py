"""The status routes over jobs in memory: no store, no engine."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any, BinaryIO

from attrs import define, evolve, field

from backjob.errors import InvalidRequest, JobNotFound, StoreUnavailable
from backjob.model import Headers, JobState, Output, Query, Request, Status
from backjob.status.endpoints import Endpoints, StatusResponse, Visit
from backjob.status.links import Right
from backjob.status.source import CannotList
from backjob.status.streaming.broadcast import Broadcast
from tests.unit.core import bench

__all__ = ["CHUNK", "HTML", "NOON", "SAME_ORIGIN", "FakeJobs", "a_state", "fake_jobs", "fetch"]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HTML: Headers = (("Accept", "text/html,application/xhtml+xml,*/*;q=0.8"),)
SAME_ORIGIN: Headers = (("Sec-Fetch-Site", "same-origin"),)
CHUNK = 65_536
RIGHTS: tuple[Right, ...] = ("view", "cancel", "manage")


def a_state(**changes: Any) -> JobState:
    state = JobState(
        id="job1",
        status=Status.IN_PROGRESS,
        progress=40,
        status_text="Chugging along",
        start_time=NOON,
        updated_time=NOON,
        end_time=None,
        result=None,
        owner="ann",
        scope="",
    )
    return evolve(state, **changes)


@define
class FakeJobs:
    """The operations that the routes use, in memory; ``reads`` counts reads of the store."""

    states: dict[str, JobState] = field(factory=dict)
    outputs: dict[str, bytes] = field(factory=dict)
    truncated: bool = False
    tails: dict[str, str] = field(factory=dict)
    down: bool = False
    reads: int = 0
    cancelled: list[str] = field(factory=list)
    deleted: list[str] = field(factory=list)
    again: list[str] = field(factory=list)
    queries: list[Query] = field(factory=list)
    refusal: str = ""
    needs_owner: bool = False
    can_list: bool = True
    trusted_origins: tuple[str, ...] = ()
    page_template: str | None = None
    public: str | None = None
    files: dict[str, bytes] = field(factory=dict)
    show_errors: bool = False
    streams: bool = True
    page: str | None = None
    broadcast: Broadcast = field(factory=lambda: bench().engine.broadcast)

    def open_file(self, job_id: str) -> BinaryIO | None:
        return io.BytesIO(self.files[job_id]) if job_id in self.files else None

    def page_path(self) -> str | None:
        return self.page

    def has_streams(self) -> bool:
        return self.streams

    def status_url(self, job_id: str, cancel: bool = False) -> str:
        return f"/backjob/{self.reference(job_id, 'cancel' if cancel else 'view')}"

    def status(self, job_id: str) -> JobState:
        self.reads += 1
        if self.down:
            raise StoreUnavailable("locked")
        if job_id not in self.states:
            raise JobNotFound(job_id)
        return self.states[job_id]

    def output(self, job_id: str, offset: int = 0) -> Output:
        self.reads += 1
        chunk = self.outputs.get(job_id, b"")[offset : offset + CHUNK]
        tail = "" if self.outputs.get(job_id, b"")[offset + CHUNK :] else self.tails.get(job_id, "")
        return Output(chunk.decode("utf-8", "surrogatepass"), offset + len(chunk), self.truncated, tail)

    def tail(self, job_id: str) -> tuple[int, Output]:
        start = max(0, len(self.outputs.get(job_id, b"")) - CHUNK)
        return start, self.output(job_id, start)

    def cancel(self, job_id: str) -> bool:
        if self.status(job_id).status.is_final:
            return False
        self.cancelled.append(job_id)
        self.states[job_id] = evolve(self.states[job_id], status=Status.CANCELLED, end_time=NOON)
        return True

    def delete(self, job_id: str) -> bool:
        self.deleted.append(job_id)
        return self.states.pop(job_id, None) is not None

    def run_again(self, job_id: str) -> str:
        if self.refusal:
            raise InvalidRequest("job_id", self.refusal)
        self.again.append(job_id)
        self.states["again"] = evolve(self.states[job_id], id="again", status=Status.STARTED, end_time=None)
        return "again"

    def runs_without_owner(self, job_id: str) -> bool:
        return not self.needs_owner

    def listed(self, query: Query) -> list[JobState]:
        if not self.can_list:
            raise CannotList("a cache alone")
        self.queries.append(query)
        found = [state for state in self.states.values() if query.owner in (None, state.owner)]
        return found[: query.limit]

    def rights(self, job_id: str, token: str) -> Right | None:
        granted: dict[str, Right] = {f"{right}-{job_id}": right for right in RIGHTS}
        return granted.get(token)

    def reference(self, job_id: str, right: Right) -> str:
        return f"{job_id}.{right}-{job_id}"

    def public_mount(self) -> str | None:
        return self.public


def fake_jobs() -> FakeJobs:
    """Jobs of ann, of bob, and of nobody."""
    unowned = a_state(id="unowned", owner=None)
    return FakeJobs(
        states={"job1": a_state(), "job2": a_state(id="job2", owner="bob"), "unowned": unowned},
        outputs={"job1": "first\nsecond ä\n".encode()},
    )


def fetch(
    jobs: FakeJobs,
    path: str,
    *,
    method: str = "GET",
    query: str = "",
    headers: Headers = (),
    owner: str | None = None,
    mount: str = "/backjob",
    sees_all: bool = False,
    manages_all: bool = False,
) -> StatusResponse:
    request = Request(method, f"{mount}{path}?{query}", headers)
    visit = Visit(request, path, owner, mount, sees_all, manages_all=manages_all, origin="https://shop.example")
    return Endpoints(jobs, "/backjob").respond(visit)
