"""The tasks, and how a web application uses them: Huey, which has no progress, but stores values by name."""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import os
from typing import Any, Final

from huey import RedisHuey, SqliteHuey

from tests.benchmarks.notes import END, FIRST_LINE, NotesWriter

_NAME: Final = os.environ["PEER_NAME"]
_store: Final = os.environ["PEER_STORE"]
_notes: Final = NotesWriter(os.environ["PEER_NOTES"])

# Without fsync a task survives the end of a process, but not that of the machine: the other contenders on SQLite promise as much.
huey: Final[Any] = (
    SqliteHuey(_NAME, filename=_store.removeprefix("sqlite:///"), fsync=False)
    if _store.startswith("sqlite")
    else RedisHuey(_NAME, url=_store, blocking=True)
)


@huey.task()
def nothing() -> bool:
    _notes.note(FIRST_LINE)
    return True


@huey.task()
def reports(count: int) -> bool:
    _notes.note(FIRST_LINE)
    for number in range(count):
        huey.put("progress", number)
    _notes.note(END)
    return True


def start() -> str:
    return str(nothing().id)


def start_reports(count: int) -> None:
    reports(count)


def status(task_id: str) -> object:
    return huey.result(task_id, preserve=True)
