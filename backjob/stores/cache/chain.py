"""Compare-and-set on a cache that only has ``add``: a value is a chain of entries, each added once.

Each version of a value has its own slot, so exactly one of several writers can add version n + 1. The head is a hint
where to begin reading; the last slot from there on is the newest version. The writer of a new version overwrites the
previous slot with a trace, which names its successor and expires later.

A writer that stalled may find its slot free again, long after others added it, went on, and the slot expired. So a
writer that has added its slot checks the one before: the version counts only if that is still the version it read, or a
trace that names it as successor. A missing slot counts like one that names another successor, so traces may expire.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from typing import Final

from attrs import field, frozen

from backjob.errors import StoreUnavailable
from backjob.stores.caches import Entries

LINGER: Final = 3600
"""Seconds for which the cache keeps the trace of an outdated version. A writer that stalls for longer between the last
two steps of a write may leave a head that leads nowhere, so that the value is lost; two writers never both win."""
PATIENCE: Final = 3
"""A cache that refuses an entry so many times although its key is free counts as full."""
FULL: Final = "the cache takes no new entry: it may be full, or the entry too large"

_VERSION: Final = re.compile(r'\["([0-9a-f]{16})",(.+)\]', re.DOTALL)
_TRACE: Final = re.compile(r'\{"was":"([0-9a-f]{16})","next":"([0-9a-f]{16})"\}')
_HEAD: Final = re.compile(r'\[([0-9]{1,15}),"([0-9a-f]{16})"\]')


@frozen
class Kept:
    """How many seconds the cache keeps the entries of one write."""

    version: float
    trace: float
    head: float


@frozen
class Link:
    """One version of a value. ``text`` is JSON; ``mark`` is unique to this write."""

    number: int
    mark: str
    text: str = field(repr=False)
    unfinished: tuple[tuple[int, str], ...] = ()
    """Earlier slots that no writer has overwritten yet, with the trace that belongs there."""


@frozen
class _Trace:
    """The rest of a version that has a successor: its mark, and the successor's."""

    mark: str
    next: str


class Chain:
    """The versions of one value, from number 1 on. ``parts`` are its key."""

    def __init__(self, entries: Entries, *parts: str) -> None:
        self._entries = entries
        self._head = entries.key(*parts)
        self._slots = f"{self._head}:"

    def newest(self) -> Link | None:
        """Return the newest version, or None if there is none or the cache has dropped it."""
        head = self._read_head()
        while head is not None:
            link = self._walk(*head)
            if link is not None:
                return link
            before, head = head, self._read_head()
            if head == before:
                return None
        return None

    def key_after(self, link: Link) -> str:
        """The key of the next version. Without that entry, what was the newest version within the last hour still is, or is lost."""
        return f"{self._slots}{link.number + 1}"

    def newest_from_the_start(self) -> Link | None:
        """Return the newest version if there is no head: it is not published yet, or the cache has dropped the head."""
        return self._walk(1, None)

    def begin(self, text: str, seconds: float) -> Link | None:
        """Write version 1, which `newest` finds once it is published. Return None if there is, or recently was, one.

        Raises `StoreUnavailable` if the cache adds no entry at all.
        """
        link = Link(1, secrets.token_hex(8), text)
        if self._entries.add(f"{self._slots}1", _version(link.mark, text), seconds):
            return link
        if self._entries.get(f"{self._slots}1") is None:
            raise StoreUnavailable(FULL)
        return None

    def publish(self, link: Link, seconds: float) -> bool:
        """Write the head of version 1. Return False if there is a head already."""
        return self._entries.add(self._head, _head(link), seconds)

    def withdraw(self) -> None:
        """Remove a version 1 that was not published."""
        self._entries.delete(f"{self._slots}1")

    def start(self, text: str, seconds: float) -> Link | None:
        """Write and publish version 1. Return None if there is, or was, another one."""
        link = self.begin(text, seconds)
        if link is None:
            if self.newest() is None and self._walk(1, None) is None:
                self.withdraw()  # a trace whose successors the cache has dropped: the next attempt finds the slot free
            return None
        if self.publish(link, seconds):
            return link
        slot = self._slot(1)
        if isinstance(slot, _Trace) and slot.mark == link.mark:
            return link  # another version follows it already
        newest = self.newest()
        if newest is None or newest.mark == link.mark:
            self._entries.set(self._head, _head(link), seconds)  # the old head led nowhere
            return link
        self.withdraw()
        return None

    def follow(self, link: Link, text: str, kept: Kept) -> Link | None:
        """Write the version after ``link``. Return None if another writer did, or the cache has dropped ``link``."""
        new = Link(link.number + 1, secrets.token_hex(8), text)
        if not self._entries.add(f"{self._slots}{new.number}", _version(new.mark, text), kept.version):
            return None
        before = self._slot(link.number)
        if before is None or before.mark != link.mark or (isinstance(before, _Trace) and before.next != new.mark):
            self._entries.delete(f"{self._slots}{new.number}")
            return None
        trace = _trace(link.mark, new.mark)
        with suppress(StoreUnavailable):  # the version is written; the next writer does the rest
            # The head moves last, so that only traces are behind it.
            for number, older in link.unfinished:
                self._entries.set(f"{self._slots}{number}", older, kept.head)
            self._entries.set(f"{self._slots}{link.number}", trace, kept.trace)
            self._move_head(new, kept.head)
            return new
        return Link(new.number, new.mark, text, (*link.unfinished, (link.number, trace)))

    def _move_head(self, link: Link, seconds: float) -> None:
        """Point the head to this version. If that was late and has moved it back, point it to the newest."""
        newest: Link | None = link
        while newest is not None and not newest.unfinished:  # otherwise its writer has yet to move the head
            self._entries.set(self._head, _head(newest), seconds)
            if not isinstance(self._slot(newest.number), _Trace):
                break
            newest = self.newest()

    def _read_head(self) -> tuple[int, str] | None:
        head = _HEAD.fullmatch(self._entries.get(self._head) or "")
        return None if head is None else (int(head[1]), head[2])

    def _walk(self, number: int, mark: str | None) -> Link | None:
        """Return the last version from this number on. A slot without the expected mark is not part of this chain."""
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


def _version(mark: str, text: str) -> str:
    return f'["{mark}",{text}]'


def _trace(mark: str, follower: str) -> str:
    return f'{{"was":"{mark}","next":"{follower}"}}'


def _head(link: Link) -> str:
    return f'[{link.number},"{link.mark}"]'
