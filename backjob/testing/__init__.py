"""For tests: suites that show whether an implementation keeps a protocol's promises, a fake clock, and jobs without a server.

Each name is imported when it is first used: `FakeClock` needs nothing, the suites need pytest and hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from backjob.errors import MissingExtra

if TYPE_CHECKING:
    from backjob.testing.clock import FakeClock
    from backjob.testing.inline import immediate, recorded
    from backjob.testing.signers import SignerContract
    from backjob.testing.stores import StoreContract
    from backjob.testing.transports import TransportContract

__all__ = ["FakeClock", "SignerContract", "StoreContract", "TransportContract", "immediate", "recorded"]

_HOMES: Final = {
    "FakeClock": "backjob.testing.clock",
    "SignerContract": "backjob.testing.signers",
    "StoreContract": "backjob.testing.stores",
    "TransportContract": "backjob.testing.transports",
    "immediate": "backjob.testing.inline",
    "recorded": "backjob.testing.inline",
}


if not TYPE_CHECKING:  # a checker should see the imports above, and no others

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
