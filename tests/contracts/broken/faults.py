"""The list of broken stores. Each names the test of the published suite that must notice it, and the broken promise."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from attrs import field, frozen

from backjob.model import Changes, Expect, Job, Query
from backjob.protocols import Store
from backjob.stores.memory import MemoryStore

__all__ = [
    "FAULTS",
    "MICROSECOND",
    "NONE",
    "AltersWhatIsExpected",
    "CountsWhatItFinds",
    "Fault",
    "Labels",
    "Tokens",
    "breaks",
    "let_others_run",
    "meet_another",
]

Labels: TypeAlias = "frozenset[str] | None"
Tokens: TypeAlias = Mapping[str, str]
MICROSECOND: Final = 0.000001
NONE: Final = frozenset[str]()


@frozen
class Fault:
    """A broken store, the test of the suite that must notice it, and the promise that the failure must name.

    ``attributes`` are those of the suite, and the arguments of a parametrized test.
    """

    store: type[Any]
    test: str
    promise: str
    attributes: dict[str, Any] = field(factory=dict)

    @property
    def module(self) -> str:
        return self.store.__module__.rpartition(".")[2]

    def __str__(self) -> str:
        return f"{self.store.__name__}-{self.test}"


FAULTS: Final[list[Fault]] = []


def breaks(test: str, promise: str, **attributes: Any) -> Any:
    """Add the store to the list."""

    def add(store: type[Store]) -> type[Store]:
        FAULTS.append(Fault(store, test, promise, attributes))
        return store

    return add


def let_others_run() -> None:
    time.sleep(0)


_LONGEST_MEETING: Final = 0.5  # s


class _Meeting:
    """The first two threads that come wait for each other. Later ones pass."""

    def __init__(self) -> None:
        self._turns = count()
        self._both = threading.Barrier(2)

    def attend(self) -> None:
        if next(self._turns) < 2:
            with suppress(threading.BrokenBarrierError):
                self._both.wait(_LONGEST_MEETING)


_MEETINGS: Final[WeakKeyDictionary[object, _Meeting]] = WeakKeyDictionary()
_ADDING: Final = threading.Lock()


def meet_another(store: object) -> None:
    """Between a store's read and its write: once, two threads have both read before one of them writes.

    In the main thread it does nothing, since no other one comes.
    """
    if threading.current_thread() is threading.main_thread():
        return
    with _ADDING:
        meeting = _MEETINGS.setdefault(store, _Meeting())
    meeting.attend()


class AltersWhatIsExpected(MemoryStore):
    """Changes a job under another condition than it was given."""

    def altered(self, expect: Expect, job: Job | None) -> Expect:
        raise NotImplementedError

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return super().change(job_id, self.altered(expect, self._jobs.get(job_id)), changes)


class CountsWhatItFinds(MemoryStore):
    def count(self, query: Query) -> int:
        return len(self.find(query))
