"""Takes one of the slots of a queue. The store lets no two jobs have the same."""

from __future__ import annotations

import random
from collections.abc import Callable

from backjob.errors import SlotTaken
from backjob.model import Job


def take_slot(queue: str, limit: int, change: Callable[[str], Job | None]) -> tuple[Job | None, bool]:
    """Take a free one of the ``limit`` slots by ``change(slot)``. Returns what that returned, and whether a slot was free."""
    first = random.randrange(limit)  # noqa: S311 - so that processes do not all try the same one first
    for number in range(limit):
        try:
            return change(f"{queue}/{(first + number) % limit}"), True
        except SlotTaken:
            continue
    return None, False
