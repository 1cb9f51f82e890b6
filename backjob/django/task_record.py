"""What is known of a task beside its job: kept as the job's result, because the job's request is erased at its end.

Whoever watches the job sees of it the return value alone: arguments and tracebacks are for the site.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import asdict, evolve, field, frozen

from backjob.lifecycle import End
from backjob.model import Job, JobState, JsonValue, Status

__all__ = ["TaskRecord", "completed_record", "shown"]

_MARK: Final = "backjob.django task"


@frozen(kw_only=True)
class TaskRecord:
    """A task as JSON has it. ``path`` leads to the task, ``started_at`` and ``run_after`` are in ISO 8601.

    ``over`` says that the task's function has ended, and that `task_finished` was sent.
    """

    path: str
    backend: str
    priority: int
    queue_name: str
    run_after: str | None
    args: list[Any] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)
    started_at: str | None = None
    worker_ids: list[str] = field(factory=list)
    errors: list[dict[str, str]] = field(factory=list, repr=False)
    return_value: Any = field(default=None, repr=False)
    over: bool = False

    @classmethod
    def of(cls, result: JsonValue) -> TaskRecord | None:
        """The record that a job has as its result, or None: then the job is no task."""
        if not isinstance(result, Mapping) or _MARK not in result:
            return None
        kept: Any = result[_MARK]
        return cls(**kept)

    def as_json(self) -> JsonValue:
        """What is written as the job's result."""
        return {_MARK: asdict(self)}


def shown(state: JobState) -> JobState:
    """The state of a job as whoever watches it may see it: of a task's record only the return value."""
    record = TaskRecord.of(state.result)
    return state if record is None else evolve(state, result=record.return_value)


def completed_record(job: Job, end: End) -> End:
    """The end of a job that is completed from outside; a task's result is its return value then."""
    record = TaskRecord.of(job.result)
    if record is None or end.status is not Status.COMPLETED:
        return end
    return evolve(end, result=evolve(record, return_value=end.result).as_json())
