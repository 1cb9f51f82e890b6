"""A shorter lease of jobs that wait, for sites whose processes are killed: what those had leased waits for its end."""

from __future__ import annotations

import os
import sys

from backjob.lifecycle import DELIVERY_LEASE

__all__ = ["shorten_delivery_leases"]


def shorten_delivery_leases() -> None:
    """Have this process lease jobs that it delivers for as many seconds as the environment variable DELIVERY_LEASE says.

    Call it when the modules that use leases are imported.
    """
    seconds = float(os.environ.get("DELIVERY_LEASE", DELIVERY_LEASE))
    for name, module in list(sys.modules.items()):
        for constant in ("DELIVERY_LEASE", "LEASE") if name.startswith("backjob.") else ():
            if vars(module).get(constant) == DELIVERY_LEASE:
                vars(module)[constant] = seconds
