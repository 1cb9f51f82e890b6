"""A task's data, which backjob keeps as the job's result because it erases the job's request at the end.

Status pages show only the return value; arguments and tracebacks are for the site's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import asdict, field, frozen

from backjob.model import JsonValue

_MARK: Final = "backjob.django task"


@frozen(kw_only=True)
class TaskRecord:
    """A task as JSON. ``path`` is the task's dotted path; ``started_at`` and ``run_after`` are in ISO 8601.

    ``worker_ids`` has one for each attempt. ``errors`` has, for each of the last failed attempts, the number of its
    run and the fields of a `TaskError`. ``over``: the task's function has ended, and `task_finished` was sent.
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
    errors: list[dict[str, Any]] = field(factory=list, repr=False)
    return_value: Any = field(default=None, repr=False)
    over: bool = False

    @classmethod
    def of(cls, result: JsonValue) -> TaskRecord | None:
        """Return the record in a job's result, or None if the job is not a task."""
        kept: Any = result.get(_MARK) if isinstance(result, Mapping) else None
        return None if kept is None else cls(**kept)

    def as_json(self) -> JsonValue:
        """Return the record as the job's result."""
        return {_MARK: asdict(self)}
