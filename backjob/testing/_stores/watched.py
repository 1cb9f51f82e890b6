"""A wrapper that reports every error, every value of a wrong type and every call that never returns as a broken promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, get_args, get_type_hints

from attrs import evolve

from backjob.errors import SlotTaken
from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report
from backjob.protocols import Store, report_all_of
from backjob.testing._stores.deadline import Deadline
from backjob.testing._stores.differences import shown

METHODS: Final = (
    "create", "get", "output", "change", "report", "take_due", "beat", "find", "count", "delete", "purge", "close",
)  # fmt: skip
_NONE: Final = type(None)


def _allowed(hint: Any) -> tuple[type, ...]:
    """The types that an annotation allows; a float may be an int."""
    types: tuple[type, ...] = get_args(hint) or (hint,)
    return (*types, int) if float in types else types


_JSON: Final = ("result", "history", "cursor", "file")
_TYPES: Final = {name: _allowed(hint) for name, hint in get_type_hints(Job).items() if name not in _JSON}


class WatchedStore:
    """Passes every call to the store ``inner``. Attributes beyond the protocol are the inner store's.

    Drops the body of a request from results that need not have it.
    """

    def __init__(self, inner: Store, deadline: Deadline) -> None:
        self.inner = inner
        self._deadline = deadline

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return _checked("create", _result("create", self._call("create", draft, merge_key), Job))

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        if body:
            return _job_or_none("get", self._call("get", job_id, body=True))
        return _without_body(_job_or_none("get", self._call("get", job_id)))

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        chunk: Output = _result("output", self._call("output", job_id, offset, limit), Output)
        _typed("output(…).text", chunk.text, str)
        _typed("output(…).next_offset", chunk.next_offset, int)
        _typed("output(…).truncated", chunk.truncated, bool)
        _typed("output(…).tail", chunk.tail, str)
        return chunk

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return _without_body(_job_or_none("change", self._call("change", job_id, expect, changes)))

    def report(self, job_id: str, token: str, report: Report) -> bool:
        written: bool = _result("report", self._call("report", job_id, token, report), bool)
        return written

    @property
    def report_all(self) -> Callable[[Sequence[tuple[str, str, Report]]], list[bool]] | None:
        """The method of the store, watched; None if the store lacks it."""
        return None if report_all_of(self.inner) is None else self._report_all

    def _report_all(self, reports: Sequence[tuple[str, str, Report]]) -> list[bool]:
        answers = _result("report_all", self._call("report_all", reports), list, tuple)
        return [_result("report_all (each)", written, bool) for written in answers]

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
        return _jobs("take_due", self._call("take_due", lessee, lease, limit, labels, full, queues=queues))

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale: frozenset[str] = _result("beat", self._call("beat", tokens, lease, alive), frozenset)
        return stale

    def find(self, query: Query) -> list[Job]:
        return [_without_body(job) for job in _jobs("find", self._call("find", query))]

    def count(self, query: Query) -> int:
        found: int = _result("count", self._call("count", query), int)
        return found

    def delete(self, job_id: str) -> bool:
        removed: bool = _result("delete", self._call("delete", job_id), bool)
        return removed

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        removed: int = _result("purge", self._call("purge", completed_age, ended_age, labels), int)
        return removed

    def close(self) -> None:
        _result("close", self._call("close"), _NONE)

    def _call(self, name: str, *arguments: object, **named: object) -> Any:
        __tracebackhide__ = True
        method: Callable[..., object] = getattr(self.inner, name)
        try:
            return self._deadline.call(name, method, *arguments, **named)
        except SlotTaken as error:
            asked = [argument.slot for argument in arguments if isinstance(argument, Changes)]
            if asked != [error.slot]:
                raise AssertionError(
                    f"promise broken: only a change to a slot raises SlotTaken, with that slot; {name} raised {error!r}"
                ) from error
            raise
        except Exception as error:
            if str(error).startswith("promise broken: "):
                raise
            given = [*map(shown, arguments), *[f"{key}={shown(value)}" for key, value in named.items()]]
            raise AssertionError(
                f"promise broken: {name} must not raise this; it raised {type(error).__name__}: {_shortly(error, str)}\n"
                f"  called: {name}({', '.join(given)})"
            ) from error


T = TypeVar("T", Job, "Job | None")


def _without_body(job: T) -> T:
    """The job without the body of its request, which a store may return or not."""
    return job if job is None or job.request is None else evolve(job, request=evolve(job.request, body=b""))


def _shortly(value: object, show: Callable[[object], str] = repr) -> str:
    text = show(value)
    return text if len(text) <= 300 else f"{text[:300]} …"


def _typed(what: str, value: Any, *types: type) -> Any:
    """The value, if its type is exactly one of these: 1 is not True, and an int is not a Status."""
    __tracebackhide__ = True
    if type(value) not in types:
        expected = " or ".join("None" if kind is _NONE else kind.__name__ for kind in types)
        raise AssertionError(f"promise broken: {what} must be {expected}; it was {_shortly(value)}")
    return value


def _result(method: str, value: Any, *types: type) -> Any:
    __tracebackhide__ = True
    return _typed(f"the result of {method}", value, *types)


def _job_or_none(method: str, value: Any) -> Job | None:
    __tracebackhide__ = True
    return None if _result(method, value, Job, _NONE) is None else _checked(method, value)


def _jobs(method: str, value: Any) -> list[Job]:
    __tracebackhide__ = True
    return [_checked(method, _result(f"{method} (each)", job, Job)) for job in _result(method, value, list)]


def _checked(method: str, job: Job) -> Job:
    """The job, if each of its fields has the type of its annotation, and each moment is in UTC."""
    __tracebackhide__ = True
    for name, types in _TYPES.items():
        found = _typed(f"{method}: the job's {name}", getattr(job, name), *types)
        if isinstance(found, datetime) and found.tzinfo is not UTC:
            raise AssertionError(f"promise broken: {method}: the job's {name} must be in UTC; it was {found!r}")
    if job.request is not None:
        _typed(f"{method}: the job's request.headers", job.request.headers, tuple)
        _typed(f"{method}: the job's request.body", job.request.body, bytes)
    return job
