"""Test suites for implementations of the protocols, a fake clock, and jobs without a server.

- `StoreContract`: the promises of a store. Its parts, for a store that ``lacks`` a capability: `StoreBasics`, `MergesJobs`
  (merge keys), `DelaysJobs` (due times and leases), `FindsJobs` (or `FindsSilentJobs` for a store that lists no ended
  jobs) and `PurgesJobs`. `SharesJobs`: the promises to several processes.
- `TransportContract`, `SignerContract`, `FilesContract`: the promises of a transport, a signer, and a place for files.
  `DeliveryContract`: those of a transport that need no sockets. The parts of both, for a transport to which not all
  apply: `SendsRequests`, `SendsOverHTTP`, `GivesOutcomes`, `KeepsConnections` and `ForksAndExits`.
- `FakeClock`: a clock that moves only when a test moves it.
- `immediate`, `recorded`: jobs without a server; `dies_at`: a run whose process dies.

Each name is imported at its first use. The suites need pytest and hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from backjob.errors import MissingExtra

if TYPE_CHECKING:
    from backjob.testing.clock import FakeClock
    from backjob.testing.deliveries import DeliveryContract, ForksAndExits, GivesOutcomes, SendsRequests
    from backjob.testing.dying import dies_at
    from backjob.testing.files import FilesContract
    from backjob.testing.inline import immediate, recorded
    from backjob.testing.signers import SignerContract
    from backjob.testing.stores import (
        DelaysJobs,
        FindsJobs,
        FindsSilentJobs,
        MergesJobs,
        PurgesJobs,
        SharesJobs,
        StoreBasics,
        StoreContract,
    )
    from backjob.testing.transports import KeepsConnections, SendsOverHTTP, TransportContract

__all__ = [
    "DelaysJobs",
    "DeliveryContract",
    "FakeClock",
    "FilesContract",
    "FindsJobs",
    "FindsSilentJobs",
    "ForksAndExits",
    "GivesOutcomes",
    "KeepsConnections",
    "MergesJobs",
    "PurgesJobs",
    "SendsOverHTTP",
    "SendsRequests",
    "SharesJobs",
    "SignerContract",
    "StoreBasics",
    "StoreContract",
    "TransportContract",
    "dies_at",
    "immediate",
    "recorded",
]

_HOMES: Final = {
    "DelaysJobs": "backjob.testing.stores",
    "DeliveryContract": "backjob.testing.deliveries",
    "FakeClock": "backjob.testing.clock",
    "FilesContract": "backjob.testing.files",
    "FindsJobs": "backjob.testing.stores",
    "FindsSilentJobs": "backjob.testing.stores",
    "ForksAndExits": "backjob.testing.deliveries",
    "GivesOutcomes": "backjob.testing.deliveries",
    "KeepsConnections": "backjob.testing.transports",
    "MergesJobs": "backjob.testing.stores",
    "PurgesJobs": "backjob.testing.stores",
    "SendsOverHTTP": "backjob.testing.transports",
    "SendsRequests": "backjob.testing.deliveries",
    "SharesJobs": "backjob.testing.stores",
    "SignerContract": "backjob.testing.signers",
    "StoreBasics": "backjob.testing.stores",
    "StoreContract": "backjob.testing.stores",
    "TransportContract": "backjob.testing.transports",
    "dies_at": "backjob.testing.dying",
    "immediate": "backjob.testing.inline",
    "recorded": "backjob.testing.inline",
}


if not TYPE_CHECKING:  # type checkers should see only the imports above

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return getattr(import_module(home), name)
        except ModuleNotFoundError as error:
            if error.name in ("pytest", "hypothesis"):
                raise MissingExtra(f"backjob.testing.{name}", "testing") from error
            raise


def __dir__() -> list[str]:
    return sorted(__all__)
