"""A list of jobs as a table that fits the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

from attrs import frozen

from backjob.cli.console import last_line
from backjob.model import DEFAULT_QUEUE, JobState
from backjob.status.times import age_text, clock_text, run_seconds
from backjob.status.words import with_notes, word_of

_GAP: Final = "  "
_LONGEST_TITLE: Final = 40
_SHORTEST_TITLE: Final = 12
_SHORTEST_TEXT: Final = 16
_FEWEST: Final = 3
_NOTHING: Final = "-"


@frozen
class _Column:
    heading: str
    cells: tuple[str, ...]
    is_number: bool = False

    @property
    def width(self) -> int:
        return max(width(text) for text in (self.heading, *self.cells))

    @property
    def is_empty(self) -> bool:
        return all(cell in ("", _NOTHING) for cell in self.cells)


def job_table(states: Sequence[JobState], now: datetime, columns: int | None = None) -> Iterator[str]:
    """Yield the lines of a table: headings, then a line for each job. No line is wider than ``columns``, if given.

    A table for 80 columns has id, state, progress, age, duration and title, a narrower one leaves out duration and then
    age, and a wider one has more.
    """
    shown = _shown(states, now, columns)
    for row in zip(*((column.heading, *column.cells) for column, _ in shown), strict=True):
        parts = [_padded(text, size, right=column.is_number) for text, (column, size) in zip(row, shown, strict=True)]
        line = _GAP.join(parts).rstrip()
        yield line if columns is None else fitted(line, columns)


def _shown(states: Sequence[JobState], now: datetime, columns: int | None) -> list[tuple[_Column, int]]:
    """Choose the columns, each with its width."""

    def column(
        heading: str, cell: Callable[[JobState], str], *, is_number: bool = False, empty: str = _NOTHING
    ) -> _Column:
        return _Column(heading, tuple(cell(state) or empty for state in states), is_number)

    fixed = [
        column("ID", lambda state: last_line(state.id)),
        column("STATE", lambda state: word_of(state.status, state.attempt)),
        column("%", lambda state: str(state.progress), is_number=True),
        column("AGE", lambda state: _age(state, now), is_number=True),
        column("DURATION", lambda state: _duration(state, now), is_number=True),
    ]
    title = column("TITLE", lambda state: last_line(state.title))
    text = column("TEXT", _text, empty="")
    extra = [
        column("QUEUE", lambda state: "" if state.queue == DEFAULT_QUEUE else last_line(state.queue)),
        column("SCOPE", lambda state: last_line(state.scope)),
        column("OWNER", lambda state: last_line(state.owner or "")),
    ]
    chosen = [(one, one.width) for one in fixed]
    extra = [one for one in extra if not one.is_empty]
    if columns is None:
        every = [title, *extra, *([] if text.is_empty else [text])]
        return chosen + [(one, one.width) for one in every]
    while (left := columns - sum(size + len(_GAP) for _, size in chosen)) < _SHORTEST_TITLE and len(chosen) > _FEWEST:
        chosen.pop()
    title_width = min(title.width, _LONGEST_TITLE)
    rest = left - title_width
    added: list[tuple[_Column, int]] = []
    for one in extra:
        if one.width + len(_GAP) <= rest:
            added.append((one, one.width))
            rest -= one.width + len(_GAP)
    if not text.is_empty and rest >= _SHORTEST_TEXT + len(_GAP):
        added.append((text, min(text.width, rest - len(_GAP))))
        rest -= added[-1][1] + len(_GAP)
    title_width = max(_SHORTEST_TITLE, min(title.width, title_width + rest))
    return [*chosen, (title, title_width), *added]


def _text(state: JobState) -> str:
    text = with_notes(last_line(state.status_text), state)
    return "" if text.lower() == word_of(state.status, state.attempt).lower() else text


def _age(state: JobState, now: datetime) -> str:
    return "" if state.created_time is None else age_text((now - state.created_time).total_seconds())


def _duration(state: JobState, now: datetime) -> str:
    seconds = run_seconds(state, now)
    return "" if seconds is None else clock_text(seconds)


def width(text: str) -> int:
    """Return how many columns of a terminal a text occupies."""
    return sum(_width(character) for character in text)


def fitted(text: str, columns: int) -> str:
    """Return the text, cut off with an ellipsis if it is wider than this many columns."""
    if width(text) <= columns:
        return text
    kept, left = "", columns - 1
    for character in text:
        left -= _width(character)
        if left < 0:
            break
        kept += character
    return f"{kept}…"


def _padded(text: str, columns: int, *, right: bool) -> str:
    text = fitted(text, columns)
    padding = " " * (columns - width(text))
    return padding + text if right else text + padding


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
