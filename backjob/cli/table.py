"""A list of jobs as a table that fits the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

from attrs import frozen

from backjob.cli.console import last_line
from backjob.cli.widths import fitted, width_of
from backjob.model import DEFAULT_QUEUE, JobState
from backjob.status.languages import ENGLISH, Language
from backjob.status.times import age_text, clock_text, run_seconds
from backjob.status.words import text_of_state, with_notes, word_of

_GAP: Final = "  "
_LONGEST_TITLE: Final = 40
_SHORTEST_TITLE: Final = 12
_SHORTEST_TEXT: Final = 16
_FEWEST: Final = 3
_AS_IT_IS: Final = ("ID", "%")
_NOTHING: Final = "-"


@frozen
class _Column:
    heading: str
    cells: tuple[str, ...]
    is_number: bool = False

    @property
    def width(self) -> int:
        return max(width_of(text) for text in (self.heading, *self.cells))

    @property
    def is_empty(self) -> bool:
        return all(cell in ("", _NOTHING) for cell in self.cells)


def job_table(
    states: Sequence[JobState], now: datetime, columns: int | None = None, language: Language = ENGLISH
) -> Iterator[str]:
    """Yield the lines of a table: headings, then a line for each job. No line is wider than ``columns``, if given.

    A table for 80 columns has id, state, progress, age, duration and title, a narrower one leaves out duration and then
    age, and a wider one has more.
    """
    shown = _shown(states, now, columns, language)
    for row in zip(*((column.heading, *column.cells) for column, _ in shown), strict=True):
        parts = [_padded(text, size, right=column.is_number) for text, (column, size) in zip(row, shown, strict=True)]
        line = _GAP.join(parts).rstrip()
        yield line if columns is None else fitted(line, columns)


def _shown(
    states: Sequence[JobState], now: datetime, columns: int | None, language: Language
) -> list[tuple[_Column, int]]:
    """Choose the columns, each with its width."""

    def column(
        heading: str, cell: Callable[[JobState], str], *, is_number: bool = False, empty: str = _NOTHING
    ) -> _Column:
        heading = heading if heading in _AS_IT_IS else language.say(heading).upper()
        return _Column(heading, tuple(cell(state) or empty for state in states), is_number)

    fixed = [
        column("ID", lambda state: last_line(state.id)),
        column("state", lambda state: word_of(state.status, state.attempt, language)),
        column("%", lambda state: str(state.progress), is_number=True),
        column("age", lambda state: _age(state, now), is_number=True),
        column("duration", lambda state: _duration(state, now), is_number=True),
    ]
    title = column("job_title", lambda state: last_line(state.title))
    text = column("text", lambda state: _text(state, language), empty="")
    extra = [
        column("queue", lambda state: "" if state.queue == DEFAULT_QUEUE else last_line(state.queue)),
        column("scope", lambda state: last_line(state.scope)),
        column("owner", lambda state: last_line(state.owner or "")),
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


def _text(state: JobState, language: Language) -> str:
    text = with_notes(last_line(text_of_state(state, language)), state, language)
    return "" if text.lower() == word_of(state.status, state.attempt, language).lower() else text


def _age(state: JobState, now: datetime) -> str:
    return "" if state.created_time is None else age_text((now - state.created_time).total_seconds())


def _duration(state: JobState, now: datetime) -> str:
    seconds = run_seconds(state, now)
    return "" if seconds is None else clock_text(seconds)


def _padded(text: str, columns: int, *, right: bool) -> str:
    text = fitted(text, columns)
    padding = " " * (columns - width_of(text))
    return padding + text if right else text + padding
