"""A store under observation: whatever it raises or returns against the protocol is told as a broken promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, get_args, get_type_hints

from attrs import fields

from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report
from backjob.protocols import Store

__all__ = ["METHODS", "WatchedStore"]

METHODS: Final = (
    "create", "get", "output", "change", "report", "take_due", "beat", "find", "purge", "close",
)  # fmt: skip
_NONE: Final = type(None)


def _allowed(hint: Any) -> tuple[type, ...]:
    """The types that an annotation allows; a float may be an int."""
    types: tuple[type, ...] = get_args(hint) or (hint,)
    return (*types, int) if float in types else types


_TYPES: Final = {name: _allowed(hint) for name, hint in get_type_hints(Job).items() if name != "result"}


class WatchedStore:
    """Passes every call on to ``inner``, a store. Anything beyond the protocol is the inner store's own."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return _job("create", self._ask("create", draft, merge_key))

    def get(self, job_id: str) -> Job | None:
        return _job_or_none("get", self._ask("get", job_id))

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        piece: Output = _typed("output", self._ask("output", job_id, offset, limit), Output)
        _typed("output(…).text", piece.text, str)
        _typed("output(…).next_offset", piece.next_offset, int)
        _typed("output(…).truncated", piece.truncated, bool)
        return piece

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return _job_or_none("change", self._ask("change", job_id, expect, changes))

    def report(self, job_id: str, token: str, report: Report) -> bool:
        written: bool = _typed("report", self._ask("report", job_id, token, report), bool)
        return written

    def take_due(self, lessee: str, lease: float, limit: int) -> list[Job]:
        return _jobs("take_due", self._ask("take_due", lessee, lease, limit))

    def beat(self, tokens: Mapping[str, str]) -> None:
        _typed("beat", self._ask("beat", tokens), _NONE)

    def find(self, query: Query) -> list[Job]:
        return _jobs("find", self._ask("find", query))

    def purge(self, completed_age: float, ended_age: float) -> int:
        removed: int = _typed("purge", self._ask("purge", completed_age, ended_age), int)
        return removed

    def close(self) -> None:
        _typed("close", self._ask("close"), _NONE)

    def _ask(self, name: str, *arguments: object) -> Any:
        __tracebackhide__ = True
        method: Callable[..., object] = getattr(self.inner, name)
        try:
            return method(*arguments)
        except Exception as error:
            said = ", ".join([_shortly(argument) for argument in arguments])
            raise AssertionError(
                f"promise broken: {name} answers and does not raise; it raised {type(error).__name__}: {_shortly(error, str)}\n"
                f"  called: {name}({said})"
            ) from error


def _shortly(value: object, tell: Callable[[object], str] = repr) -> str:
    told = tell(value)
    return told if len(told) <= 300 else f"{told[:300]} …"


def _typed(what: str, value: Any, *types: type) -> Any:
    """The value, of exactly one of these types: a number is no truth, and a status no number."""
    __tracebackhide__ = True
    if type(value) not in types:
        expected = " or ".join("None" if kind is _NONE else kind.__name__ for kind in types)
        raise AssertionError(f"promise broken: {what} gives {expected}; it gave {_shortly(value)}")
    return value


def _job_or_none(method: str, value: Any) -> Job | None:
    __tracebackhide__ = True
    return None if value is None else _job(method, value, or_none=True)


def _jobs(method: str, value: Any) -> list[Job]:
    __tracebackhide__ = True
    return [_job(method, job) for job in _typed(method, value, list)]


def _job(method: str, value: Any, *, or_none: bool = False) -> Job:
    __tracebackhide__ = True
    job: Job = _typed(method, value, *((Job, _NONE) if or_none else (Job,)))
    for field in fields(Job):
        types = _TYPES.get(field.name)
        found = getattr(job, field.name)
        if types is not None:
            _typed(f"{method}: the job's {field.name}", found, *types)
        if isinstance(found, datetime) and found.tzinfo is not UTC:
            raise AssertionError(
                f"promise broken: {method}: the job's {field.name} is aware, and in UTC; it was {found!r}"
            )
    if job.request is not None:
        _typed(f"{method}: the job's request.headers", job.request.headers, tuple)
        _typed(f"{method}: the job's request.body", job.request.body, bytes)
    return job
