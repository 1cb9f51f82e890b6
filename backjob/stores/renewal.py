"""Renew the leases of many jobs in databases in which another transaction may have locked the row of one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

Renewed: TypeAlias = tuple[frozenset[str], frozenset[str]]
"""The ids that are stale, and those that were left out because their rows were locked."""

_PAUSES: Final = (0.005, 0.02, 0.1, 0.3)
"""Seconds before each retry. A report or an end locks a row for much less, a transaction of the application maybe for more."""


def renew_unlocked(tokens: Mapping[str, str], renew: Callable[[Mapping[str, str]], Renewed]) -> frozenset[str]:
    """Renew the leases of these jobs (id → token) by ``renew``, again for those that were locked; return the stale ids.

    A job that stays locked is not renewed. Waiting for it would let the leases of all the other jobs end.
    """
    left, stale = tokens, frozenset[str]()
    pauses = iter(_PAUSES)
    while left:
        newly_stale, locked = renew(left)
        stale |= newly_stale
        left = {job_id: tokens[job_id] for job_id in locked}
        pause = next(pauses, None)
        if pause is None or not left:
            break
        time.sleep(pause)
    return stale
