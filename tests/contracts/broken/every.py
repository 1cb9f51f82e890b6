"""All broken stores, as the modules beside this one list them."""

from __future__ import annotations

import json
from typing import Final

from backjob.protocols import Store
from tests.contracts.broken import (
    atomicity,
    boundaries,
    changes,
    costs,
    deleting,
    errors,
    files,
    hangs,
    leases,
    listings,
    races,
    runs,
    slots,
    tails,
    together,
    values,
)
from tests.contracts.broken.faults import FAULTS

__all__ = ["IN_FILES", "OF_ONE", "RACED", "opened_badly"]

_SHARED: Final = (files.__name__, races.__name__)

OF_ONE: Final = tuple([fault for fault in FAULTS if fault.store.__module__ not in _SHARED])
"""Those that `StoreContract` must notice."""
IN_FILES: Final = tuple([fault for fault in FAULTS if fault.store.__module__ == files.__name__])
"""Those that `SharesJobs` must notice by processes that take turns."""
RACED: Final = tuple([fault for fault in FAULTS if fault.store.__module__ == races.__name__])
"""Those that `SharesJobs` must notice by a race."""
MODULES: Final = (
    atomicity,
    boundaries,
    changes,
    costs,
    deleting,
    errors,
    hangs,
    leases,
    listings,
    runs,
    slots,
    tails,
    together,
    values,
)


def opened_badly(address: str) -> Store:
    """The broken store at the address, which is JSON of its name and its path."""
    name, path = json.loads(address)
    store: Store = {fault.store.__name__: fault.store for fault in FAULTS}[name](path, busy_timeout=60)
    return store
