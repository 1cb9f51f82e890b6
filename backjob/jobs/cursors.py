"""The cursor of a job: the value that the action saved, and the positions of its resumable loops, in one stored value."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from copy import deepcopy
from typing import Any, Final, Protocol, TypeAlias, cast

from attrs import define, frozen

from backjob.errors import InvalidRequest
from backjob.http.values import json_text
from backjob.model import JsonValue
from backjob.worker.running import Running

__all__ = ["Keyed", "Loop", "Place", "Positions", "Resume", "checked_cursor", "checked_resume", "positions_of"]

_LARGEST: Final = 1 << 16
_LONGEST_NAME: Final = 100
_MOST_LOOPS: Final = 100

_Within: TypeAlias = tuple[tuple[str, int], ...]
"""The items of the enclosing loops, outermost first: each loop's name, and how many were done."""


class Keyed(Protocol):
    """A query whose rows have a unique key, for a loop that continues after a key instead of a number of rows."""

    def count(self) -> int:
        """Return how many rows there are."""
        ...

    def page(self, after: JsonValue) -> Sequence[tuple[JsonValue, Any]]:
        """Return the next rows after a key (None: the first ones), each with its key, in the order of the keys."""
        ...


@define(eq=False, repr=False)
class Place:
    """The position of a loop: how many items are done, of how many; the key of the last one; whether the loop is over.

    ``within`` are the items of the enclosing loops to which the place belongs.
    """

    at: int = 0
    of: int | None = None
    after: JsonValue = None
    is_over: bool = False
    within: _Within = ()

    def as_json(self) -> JsonValue:
        """Return the place for the store."""
        return [self.at, self.of, self.after, self.is_over, [list(item) for item in self.within] or None]

    @classmethod
    def of_json(cls, value: Any) -> Place:
        """Return the place that `as_json` was made from."""
        at, of, after, is_over, within = value
        if within and isinstance(within[0], str):  # an earlier version stored only the innermost of these items
            within = [within]
        return cls(at, of, after, is_over, tuple([(name, done) for name, done in within or ()]))


def checked_cursor(cursor: object) -> JsonValue:
    """Return a copy of the cursor as JSON will have it. Raises `InvalidRequest`."""
    text = json_text("cursor", cursor)
    if len(text) > _LARGEST:
        raise InvalidRequest(
            "cursor", f"its JSON has {len(text)} bytes, more than {_LARGEST}; keep the data elsewhere and its key here"
        )
    return cast("JsonValue", json.loads(text))


class Positions:
    """The user's cursor and the places of all loops, in one run. Thread-safe."""

    def __init__(self, running: Running) -> None:
        # Weak: the entry of this run in `_positions` must not keep it alive.
        self._running = weakref.ref(running)
        self._lock = threading.Lock()
        self._cursor, self._places = _unpacked(running.cursor)
        self._begun: dict[str, _Within] = {}
        self.has_moved = False
        """Whether a loop has completed an item in this run."""

    @property
    def cursor(self) -> JsonValue:
        """A copy of the latest cursor of the user, which the action may change; None at first."""
        return deepcopy(self._cursor)

    def set_cursor(self, cursor: JsonValue) -> None:
        """Save the user's cursor with the next report."""
        with self._lock:
            self._cursor = cursor
            self._save()

    def begin(self, name: str, within: _Within) -> Place:
        """Return the place from which a loop continues. Raises `InvalidRequest` if this run had a loop of that name."""
        with self._lock:
            if self._begun.get(name) == within or any(name == enclosing for enclosing, _ in within):
                shown = f"called {name!r}" if name else "without a name"
                raise InvalidRequest(
                    "resume", f'this action has a loop {shown} already; give each its own name, as in resume="invoices"'
                )
            self._begun[name] = within
            place = self._places.get(name)
            if place is None and len(self._places) >= _MOST_LOOPS:
                raise InvalidRequest("resume", f"an action can't have more than {_MOST_LOOPS} resumable loops")
        return place if place is not None and place.within == within else Place(within=within)

    def done(self, name: str, place: Place, after: JsonValue) -> None:
        """Count one more item of a loop as done, and forget the loops within that item."""
        with self._lock:
            place.at += 1
            place.after = after
            if len(self._places) > 1 or name not in self._places:
                self._forget_within(name)
            self._places[name] = place
            self.has_moved = True
            self._save()

    def _forget_within(self, name: str) -> None:
        for inner in [key for key, one in self._places.items() if any(name == loop for loop, _ in one.within)]:
            del self._places[inner]

    def over(self, name: str, place: Place) -> None:
        """Mark a loop as over."""
        with self._lock:
            place.is_over = True
            self._places[name] = place
            self._save()

    def _save(self) -> None:
        running = self._running()
        if running is not None:
            places = {name: place.as_json() for name, place in self._places.items()}
            running.set_cursor({"cursor": self._cursor, "loops": places} if places else {"cursor": self._cursor})


def _unpacked(stored: JsonValue) -> tuple[JsonValue, dict[str, Place]]:
    if not isinstance(stored, Mapping):
        return None, {}
    places = cast("Mapping[str, Any]", stored.get("loops") or {})
    return stored.get("cursor"), {name: Place.of_json(place) for name, place in places.items()}


_positions: Final[weakref.WeakKeyDictionary[Running, Positions]] = weakref.WeakKeyDictionary()


def positions_of(running: Running) -> Positions:
    """Return the positions of a run, made at the first use."""
    found = _positions.get(running)
    return _positions.setdefault(running, Positions(running)) if found is None else found


class Loop:
    """One resumable loop in one run. It calls neither the store nor the loop's iterable.

    ``is_in_use()`` returns False once nothing can ask for its next item any more.
    """

    def __init__(
        self, running: Running, name: str, total: float | None, is_in_use: Callable[[], bool] = lambda: True
    ) -> None:
        self.running = running
        self.positions = positions_of(running)
        self.parent: Loop | None = _enclosing(self.positions)
        self.name = name
        parent = self.parent
        within = () if parent is None else (*parent.place.within, (parent.name, parent.place.at))
        self.place: Place = self.positions.begin(name, within)
        self.total = total
        self._is_closed = False
        self._is_in_use = is_in_use
        _innermost.set(self)

    @property
    def is_open(self) -> bool:
        """Whether an item of the loop is in hand."""
        return not self._is_closed and self._is_in_use()

    def set_length(self, length: int | None) -> None:
        """Remember the number of items, for the next runs and for the progress."""
        self.place.of = length
        if self.total is None:
            self.total = length

    def done(self, after: JsonValue = None) -> None:
        """Count the item in hand as done. Raises `JobEnded`."""
        self.positions.done(self.name, self.place, after)

    def over(self) -> None:
        """Note that no item is left. Raises `JobEnded`."""
        self.positions.over(self.name, self.place)

    def note_progress(self) -> bool:
        """Note the progress, or a sign of life if there is no total. Returns whether a write is due. Raises `JobEnded`.

        Within another loop the progress is that one's.
        """
        if not self.total or self.parent is not None:
            return self.running.note_life()
        return self.running.note_progress(max(0, min(100, int(self.place.at * 100 // self.total))))

    def close(self) -> None:
        """Forget that the loop is the innermost one: it has ended, or was left."""
        self._is_closed = True
        if _innermost.get() is self:
            _innermost.set(self.parent)


_innermost: Final[ContextVar[Loop | None]] = ContextVar("backjob_loop", default=None)


def _enclosing(positions: Positions) -> Loop | None:
    loop = _innermost.get()
    while loop is not None and not (loop.is_open and loop.positions is positions):
        loop = loop.parent
    return loop


@frozen(eq=False, repr=False)
class Resume:
    """The name of a resumable loop, and whether each item is saved before the next one."""

    name: str = ""
    is_each: bool = False


def checked_resume(resume: object) -> Resume:
    """Return what the argument ``resume`` means. Raises `InvalidRequest`."""
    if resume is True:
        return Resume()
    if not isinstance(resume, str) or not resume:
        raise InvalidRequest("resume", f'must be True, "each" or the name of the loop, not {resume!r}')
    is_each = resume == "each" or resume.startswith("each:")
    name = resume.removeprefix("each").removeprefix(":") if is_each else resume
    if len(name) > _LONGEST_NAME:
        raise InvalidRequest("resume", f"a name has at most {_LONGEST_NAME} characters")
    return Resume(name, is_each)
