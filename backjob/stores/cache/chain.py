"""A value that changes, on a cache that can't compare and set: a chain of entries, each written once, by ``add``.

Version n of a value stands in a slot of its own, so of several writers of version n + 1 exactly one can ``add`` it. The
head is a hint where to begin reading: from there on, slot by slot, the last one is the newest. A slot that was left
behind is overwritten with a trace of it that names its successor, and goes some time later.

A writer that stalled may find its slot free again long after others wrote it, went on, and left it behind. So a writer
that has added its slot looks back: it counts only if its predecessor is still the one it read, or names it as the
successor. Traces need not last for that to hold: a predecessor that is gone means the same as one that names another.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from typing import Final

from attrs import field, frozen

from backjob.errors import StoreUnavailable
from backjob.stores.caches import Entries

__all__ = ["FULL", "LINGER", "PATIENCE", "Chain", "Kept", "Link"]

LINGER: Final = 3600
"""Seconds for which a slot that was left behind leads on, if many are. Who stalls for longer between the last two steps
of a write may leave a head that leads nowhere, and with it a value that is not found any more; never a second winner."""

PATIENCE: Final = 3
"""Times that a cache refuses an entry whose place is free until it counts as full."""

FULL: Final = "the cache takes no new entry: it may be full, or the entry too large"

_VERSION: Final = re.compile(r'\["([0-9a-f]{16})",(.+)\]', re.DOTALL)
_TRACE: Final = re.compile(r'\{"was":"([0-9a-f]{16})","next":"([0-9a-f]{16})"\}')
_HEAD: Final = re.compile(r'\[([0-9]{1,15}),"([0-9a-f]{16})"\]')


@frozen
class Kept:
    """For how many seconds the entries of one write are kept. A head is moved by many, and outlives them all."""

    version: float
    trace: float
    head: float


@frozen
class Link:
    """One version of a value. ``text`` is JSON; ``mark`` is unique to this writing of it."""

    number: int
    mark: str
    text: str = field(repr=False)
    unfinished: tuple[tuple[int, str], ...] = ()
    """Slots before this one that nobody has overwritten yet, with the trace that belongs there."""


@frozen
class _Trace:
    """What is left of a version that has a successor, and the successor's mark."""

    mark: str
    next: str


class Chain:
    """The versions of one value, from number 1 on. ``parts`` name it among the entries."""

    def __init__(self, entries: Entries, *parts: str) -> None:
        self._entries = entries
        self._head = entries.key(*parts)
        self._slots = f"{self._head}:"

    def newest(self) -> Link | None:
        """The newest version, or None if there is none, or it was dropped by the cache."""
        head = self._read_head()
        while head is not None:
            link = self._walk(*head)
            if link is not None:
                return link
            before, head = head, self._read_head()
            if head == before:
                return None
        return None

    def is_newest(self, link: Link) -> bool:
        """Whether a version that was the newest within the last hour is so still, or was dropped by the cache."""
        return self._slot(link.number + 1) is None

    def newest_from_the_start(self) -> Link | None:
        """The newest version where there is no head: it is not published yet, or the cache has dropped the head."""
        return self._walk(1, None)

    def begin(self, text: str, seconds: float) -> Link | None:
        """Write version 1, which nobody finds before it is published. None: there is one, or there was lately.

        Raises `StoreUnavailable` if the cache takes no entry at all.
        """
        link = Link(1, _new_mark(), text)
        if self._entries.add(f"{self._slots}1", _version(link.mark, text), seconds):
            return link
        if self._entries.get(f"{self._slots}1") is None:
            raise StoreUnavailable(FULL)
        return None

    def publish(self, link: Link, seconds: float) -> bool:
        """Let everybody find version 1; False if there is a head already."""
        return self._entries.add(self._head, _head(link), seconds)

    def withdraw(self) -> None:
        """Take back a version 1 that was not published."""
        self._entries.delete(f"{self._slots}1")

    def start(self, text: str, seconds: float) -> Link | None:
        """Write and publish version 1; None if there is, or was, another one."""
        link = self.begin(text, seconds)
        if link is None:
            if self.newest() is None and self._walk(1, None) is None:
                self.withdraw()  # a trace whose followers the cache has dropped: the next attempt finds the place free
            return None
        if self.publish(link, seconds):
            return link
        slot = self._slot(1)
        if isinstance(slot, _Trace) and slot.mark == link.mark:
            return link  # and followed already
        newest = self.newest()
        if newest is None or newest.mark == link.mark:
            self._entries.set(self._head, _head(link), seconds)  # what was there led nowhere
            return link
        self.withdraw()
        return None

    def follow(self, link: Link, text: str, kept: Kept) -> Link | None:
        """Write the version after ``link``; None if somebody else did, or the cache has dropped ``link``."""
        new = Link(link.number + 1, _new_mark(), text)
        if not self._entries.add(f"{self._slots}{new.number}", _version(new.mark, text), kept.version):
            return None
        before = self._slot(link.number)
        if before is None or before.mark != link.mark or (isinstance(before, _Trace) and before.next != new.mark):
            self._entries.delete(f"{self._slots}{new.number}")
            return None
        trace = _trace(link.mark, new.mark)
        with suppress(StoreUnavailable):  # the version counts; who comes next does what is missing
            # The head moves last: behind it there are only traces.
            for number, older in link.unfinished:
                self._entries.set(f"{self._slots}{number}", older, kept.head)
            self._entries.set(f"{self._slots}{link.number}", trace, kept.trace)
            self._move_head(new, kept.head)
            return new
        return Link(new.number, new.mark, text, (*link.unfinished, (link.number, trace)))

    def _move_head(self, link: Link, seconds: float) -> None:
        """Let the head say this version; and if that was late, and has moved it back, a newer one."""
        newest: Link | None = link
        while newest is not None and not newest.unfinished:  # else its writer has still to move the head
            self._entries.set(self._head, _head(newest), seconds)
            if not isinstance(self._slot(newest.number), _Trace):
                break
            newest = self.newest()

    def _read_head(self) -> tuple[int, str] | None:
        head = _HEAD.fullmatch(self._entries.get(self._head) or "")
        return None if head is None else (int(head[1]), head[2])

    def _walk(self, number: int, mark: str | None) -> Link | None:
        """The last version from this one on. What does not bear the mark that is expected of it is not of this chain."""
        found: Link | None = None
        unfinished: list[tuple[int, str]] = []
        while (slot := self._slot(number)) is not None and mark in (None, slot.mark):
            if found is not None:
                unfinished.append((found.number, _trace(found.mark, slot.mark)))
            found, mark = (slot, None) if isinstance(slot, Link) else (None, slot.next)
            number += 1
        return None if found is None else Link(found.number, found.mark, found.text, tuple(unfinished))

    def _slot(self, number: int) -> Link | _Trace | None:
        text = self._entries.get(f"{self._slots}{number}")
        if text is None:
            return None
        if full := _VERSION.fullmatch(text):
            return Link(number, full[1], full[2])
        trace = _TRACE.fullmatch(text)
        return None if trace is None else _Trace(trace[1], trace[2])


def _new_mark() -> str:
    return secrets.token_hex(8)


def _version(mark: str, text: str) -> str:
    return f'["{mark}",{text}]'


def _trace(mark: str, follower: str) -> str:
    return f'{{"was":"{mark}","next":"{follower}"}}'


def _head(link: Link) -> str:
    return f'[{link.number},"{link.mark}"]'
