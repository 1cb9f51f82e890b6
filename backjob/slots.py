"""Takes one of the slots of a queue. The store lets no two jobs have the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Final

from backjob.errors import SlotTaken
from backjob.model import Job

_BLIND: Final = 8
"""Slots that are tried without a look at which ones are taken."""


def take_slot(
    queue: str,
    limit: int,
    change: Callable[[str], Job | None],
    taken: Callable[[], Collection[str]] = frozenset,
) -> tuple[Job | None, bool]:
    """Take a free one of the ``limit`` slots by ``change(slot)``. Returns what that returned, and whether a slot was free.

    ``taken()`` returns slots that need not be tried: each try is a write.
    """
    first = random.randrange(limit)  # noqa: S311 - so that processes do not all try the same one first
    known: Collection[str] = ()
    for tried in range(limit):
        slot = f"{queue}/{(first + tried) % limit}"
        if tried == _BLIND:
            known = taken()
        if slot in known:
            continue
        try:
            return change(slot), True
        except SlotTaken:
            continue
    return None, False
