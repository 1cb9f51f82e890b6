"""The contract of a store, as a pytest suite. Subclass it, and say how your store is made::

class TestMyStore(StoreContract):
    def make_store(self, clock: Clock) -> Store:
        return MyStore(self.directory / f"{uuid4()}.db", clock=clock)

A store that says it ``lacks`` something takes the parts that it keeps::

class TestMyCache(StoreBasics, MergesJobs, DelaysJobs, FindsSilentJobs):
    ...

A store that processes share has a second suite, `SharesJobs`::

class TestMyStoreShared(SharesJobs):
    opener = "mypackage.stores:open_mine"

    def address(self) -> str:
        return f"{self.directory}/jobs.db"
"""

from __future__ import annotations

from backjob.testing._stores.any_race import AnyRace
from backjob.testing._stores.changing import ChangeCalls
from backjob.testing._stores.creating import CreateCalls
from backjob.testing._stores.delaying import DelaysJobs
from backjob.testing._stores.finding import FindsJobs, FindsSilentJobs
from backjob.testing._stores.forks import ForkCalls
from backjob.testing._stores.merging import MergesJobs
from backjob.testing._stores.purging import PurgesJobs
from backjob.testing._stores.races import Races
from backjob.testing._stores.reporting import OutputCalls, ReportCalls
from backjob.testing._stores.sequences import AnySequence
from backjob.testing._stores.sharing import SharesJobs
from backjob.testing._stores.texts import TextCalls

__all__ = [
    "DelaysJobs",
    "FindsJobs",
    "FindsSilentJobs",
    "MergesJobs",
    "PurgesJobs",
    "SharesJobs",
    "StoreBasics",
    "StoreContract",
]


class StoreBasics(
    CreateCalls, ChangeCalls, ReportCalls, OutputCalls, TextCalls, ForkCalls, Races, AnyRace, AnySequence
):
    """What every store promises: ``create``, ``get``, ``change``, ``report``, ``beat``, ``output``, ``close``.

    Each method, any text, races between threads, a fork, and generated sequences and races. The generated ones use
    what the other parts of the suite are about (`MergesJobs`, `DelaysJobs`, `FindsJobs`, `PurgesJobs`) where the
    subclass has these too. See `StoreContract` for what a subclass must and may say.
    """


class StoreContract(StoreBasics, MergesJobs, DelaysJobs, FindsJobs, PurgesJobs):
    """Every promise of the `Store` protocol: each method, its boundaries to the microsecond, races, any sequence of calls.

    Override ``make_store(clock)``: it returns a new, empty store at each call, several times in one test, whose time is
    ``clock``, a `FakeClock`. (A store whose time is its server's takes, for this, its now from the clock.)
    ``self.directory`` is an empty directory of the test's own. Each store is closed by the suite.

    To go deeper or to be quicker, override ``examples`` and ``steps`` (generated sequences of calls, and their length),
    ``race_examples`` (generated races), ``racers`` (threads in a race) and ``patience`` (seconds until calls that race
    count as a deadlock). A failure names the promise that was broken in its first line; so does an error that the
    store raises, and a value that is not of the protocol's type.

    A store that ``lacks`` `Capability.LISTING` subclasses the parts instead: `StoreBasics`, `MergesJobs`, `DelaysJobs`
    and `FindsSilentJobs`, without `FindsJobs` and `PurgesJobs`.

    Needs pytest and hypothesis.
    """
