"""The parts from which an application's monitor is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen

from backjob.model import Job
from backjob.protocols import Clock, Signer, Store, Transport
from backjob.signing.sealing import Sealer

__all__ = ["DeliveryParts", "Retention"]

_DAY: Final = 86400.0


@frozen
class Retention:
    """How many days ended jobs are kept: COMPLETED ones, and all of them. 0 keeps them for ever."""

    completed_days: float = 30
    days: float = 60

    def purge(self, store: Store) -> int:
        """Remove the jobs past their age; returns how many."""
        return store.purge(self.completed_days * _DAY, self.days * _DAY)


@frozen(kw_only=True)
class DeliveryParts:
    """The parts that `Monitor` needs.

    ``transport`` returns the transport, or None while the application's address is unknown. ``announce`` is called with
    every job that the monitor ends. ``leave`` is the last call in the monitor's thread: it closes what an adapter keeps
    for each thread. ``error_timeout`` is in seconds; ``sealer`` is None unless credentials are stored.
    """

    store: Store
    signer: Signer
    clock: Clock
    transport: Callable[[], Transport | None]
    announce: Callable[[Job], None]
    leave: Callable[[], None]
    retention: Retention
    error_timeout: float
    sealer: Sealer | None = None
