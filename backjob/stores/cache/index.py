"""The jobs that may still be alive, on a cache that can't list its keys: numbered places, one job's id in each.

A new job takes the next free place by ``add``. A hint says where the living begin and which place is next; it may lag,
so readers look past its end. Nobody moves the beginning past a place that is empty: it is filled first, so that nobody
can take it behind the readers' backs. Whoever took a place that the readers have passed takes another one.

A hint that is lost begins a new era, with places of its own; the jobs that a process remembers move on to it.
"""

from __future__ import annotations

import json
import re
import secrets
from datetime import datetime
from typing import Final

from attrs import Factory, define, evolve, frozen

from backjob.errors import StoreUnavailable
from backjob.stores.cache.chain import FULL, LINGER, PATIENCE
from backjob.stores.caches import FOREVER, Entries
from backjob.stores.rows import microseconds

__all__ = ["Index", "Place"]

_YEAR: Final = 366 * 86400
_SPREAD: Final = 64
"""Places that the living may be spread over, twice their number aside, before the oldest ones move up."""
_HINT: Final = re.compile(r'\["([0-9a-f]{8})",([0-9]{1,15}),([0-9]{1,15})\]')
_GONE: Final = '["",0]'


@frozen
class Place:
    """A place in the index, the job that has it, and when it took it (microseconds since 1970)."""

    era: str
    number: int
    job_id: str
    since: int


@frozen
class _Hint:
    era: str
    first: int
    next: int

    def __str__(self) -> str:
        return f'["{self.era}",{self.first},{self.next}]'


@define
class _Memory:
    """What this process knows of an era. A place's content never changes, so it is read once."""

    hint: _Hint
    places: dict[int, Place] = Factory(dict)
    passed: set[int] = Factory(set)
    """The places that nobody need look at any more."""


class Index:
    """The places of one store, as this process sees them. Callable from any thread."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._hint_key = entries.key("living")
        self._memory = _Memory(_Hint("", 0, 0))

    def append(self, job_id: str, now: datetime) -> Place:
        """Take a place for a job. To take two does no harm."""
        return self._append(self._current(), job_id, microseconds(now))

    def leave(self, place: Place) -> None:
        """Give up a place whose job was never made."""
        self._entries.set(self._key(place.era, place.number), _GONE, LINGER)

    def places(self) -> list[Place]:
        """The places of jobs that may be alive, the oldest first."""
        hint = self._current()
        memory = self._memory
        memory.hint = hint
        found = []
        number = hint.first
        while True:
            if number not in memory.passed:
                place = memory.places.get(number) or self._read(hint.era, number)
                if place is None:
                    if number >= hint.next:
                        break
                    # An empty place among others: the cache dropped it, or somebody is about to take it.
                    if not self._entries.add(self._key(hint.era, number), _GONE, LINGER):
                        place = self._read(hint.era, number)
                if place is None or not place.job_id:
                    memory.passed.add(number)
                else:
                    memory.places[number] = place
                    found.append(place)
            number += 1
        return found

    def over(self, place: Place) -> None:
        """A place whose job has ended, or has another place as well: this process reads it no more."""
        memory = self._memory
        if place.era == memory.hint.era:
            memory.passed.add(place.number)
            memory.places.pop(place.number, None)

    def tidy(self) -> None:
        """Move the beginning past the places that are over, and single old jobs that keep it back up to the end."""
        memory = self._memory
        hint = memory.hint
        first = hint.first
        while first < hint.next:
            if first not in memory.passed:
                place = memory.places.get(first)
                if place is None or hint.next - first <= _SPREAD + 2 * len(memory.places):
                    break
                self._append(hint, place.job_id, place.since)
                self.over(place)
            first += 1
        if first == hint.first:
            return
        latest = self._read_hint()
        if latest is None or latest.era != hint.era:
            return
        if latest.first < first:
            self._entries.set(self._hint_key, str(evolve(latest, first=first)), FOREVER)
            for number in range(latest.first, first):
                self._entries.set(self._key(hint.era, number), _GONE, LINGER)
        memory.passed = {number for number in memory.passed if number >= first}

    def _append(self, hint: _Hint, job_id: str, since: int) -> Place:
        text = json.dumps((job_id, since), separators=(",", ":"))
        number, refused = hint.next, 0
        while True:
            if self._entries.add(self._key(hint.era, number), text, _YEAR):
                latest = self._read_hint() or hint
                if latest.era == hint.era and latest.first <= number:
                    if latest.next <= number:
                        self._entries.set(self._hint_key, str(evolve(latest, next=number + 1)), FOREVER)
                    return Place(hint.era, number, job_id, since)
                hint, number = latest, latest.next
            elif self._entries.get(self._key(hint.era, number)) is None:
                refused += 1
                if refused == PATIENCE:
                    raise StoreUnavailable(FULL)
            else:
                number, refused = number + 1, 0

    def _current(self) -> _Hint:
        """The hint; where it was lost, or none was ever written, that of a new era."""
        hint = self._read_hint()
        if hint is None:
            begun = _Hint(secrets.token_hex(4), 0, 0)
            self._entries.add(self._hint_key, str(begun), FOREVER)
            hint = self._read_hint() or begun
        memory = self._memory
        if memory.hint.era != hint.era:
            for place in list(memory.places.values()):
                self._append(hint, place.job_id, place.since)
            self._memory = _Memory(hint)
        return hint

    def _read_hint(self) -> _Hint | None:
        found = _HINT.fullmatch(self._entries.get(self._hint_key) or "")
        return None if found is None else _Hint(found[1], int(found[2]), int(found[3]))

    def _read(self, era: str, number: int) -> Place | None:
        """What stands at a place, None if nothing does; what is not ours is no job's."""
        text = self._entries.get(self._key(era, number))
        if text is None:
            return None
        try:
            job_id, since = json.loads(text)
            return Place(era, number, str(job_id), int(since))
        except (ValueError, TypeError):
            return Place(era, number, "", 0)

    def _key(self, era: str, number: int) -> str:
        return self._entries.key("l", era, str(number))
