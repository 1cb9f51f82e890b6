"""The contract of a store, as a pytest suite. Subclass it and override ``make_store``::

class TestMyStore(StoreContract):
    def make_store(self, clock: Clock) -> Store:
        return MyStore(self.directory / f"{uuid4()}.db", clock=clock)

A store that ``lacks`` a capability subclasses the parts that it fulfils::

class TestMyCache(StoreBasics, MergesJobs, DelaysJobs, FindsSilentJobs):
    ...

A store that processes share also passes `SharesJobs`::

class TestMyStoreShared(SharesJobs):
    opener = "mypackage.stores:open_mine"

    def address(self) -> str:
        return f"{self.directory}/jobs.db"
"""

from __future__ import annotations

from backjob.testing._stores.any_race import AnyRace
from backjob.testing._stores.changing import ChangeCalls
from backjob.testing._stores.costs import CostCalls
from backjob.testing._stores.creating import CreateCalls
from backjob.testing._stores.delaying import DelaysJobs
from backjob.testing._stores.deleting import DeleteCalls
from backjob.testing._stores.finding import FindsJobs, FindsSilentJobs
from backjob.testing._stores.forks import ForkCalls
from backjob.testing._stores.keeping import ColumnCalls
from backjob.testing._stores.leasing import LeaseCalls
from backjob.testing._stores.merging import MergesJobs
from backjob.testing._stores.outages import OutageCalls
from backjob.testing._stores.purging import PurgesJobs
from backjob.testing._stores.races import Races
from backjob.testing._stores.reporting import OutputCalls, ReportCalls
from backjob.testing._stores.requeueing import RunCalls
from backjob.testing._stores.sequences import AnySequence
from backjob.testing._stores.sharing import SharesJobs
from backjob.testing._stores.slots import SlotCalls
from backjob.testing._stores.tails import TailCalls
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
    # pytest runs the tests of the last base first: generated ones come last, since a broken store keeps them busy for long.
    AnySequence,
    AnyRace,
    Races,
    CostCalls,
    OutageCalls,
    ForkCalls,
    TextCalls,
    TailCalls,
    OutputCalls,
    ReportCalls,
    DeleteCalls,
    SlotCalls,
    LeaseCalls,
    RunCalls,
    ColumnCalls,
    ChangeCalls,
    CreateCalls,
):
    """The promises of every store: ``create``, ``get``, ``change``, ``report``, ``beat``, ``output``, ``delete``, ``close``.

    It tests each method, runs, run leases, slots (unless the store ``lacks`` `Capability.SLOTS`), any text, errors, costs, a
    fork, races between threads, and generated sequences and races. The generated tests also cover `MergesJobs`,
    `DelaysJobs`, `FindsJobs` and `PurgesJobs` if the subclass has these parts. See `StoreContract` for what to override.
    """


class StoreContract(StoreBasics, MergesJobs, DelaysJobs, FindsJobs, PurgesJobs):
    """Every promise of the `Store` protocol: each method, its boundaries to the microsecond, races, sequences of calls.

    Override ``make_store(clock)``, which returns a new, empty store at each call; a test may call it several times. Its
    time is ``clock``, a `FakeClock`, even if the store otherwise uses its server's clock. ``self.directory`` is an empty
    directory for each test. The suite closes each store.

    Override ``outage()`` too, which returns a context in which ``self.store`` can't be reached; otherwise the test of the
    errors in an outage is skipped. ``secrets`` are texts that no error may show, such as the password in the store's URL.

    To test more or to be quicker, override ``examples`` and ``steps`` (generated sequences of calls, and their length),
    ``race_examples`` (generated races), ``shrinking`` (seconds to look for a shorter failing one), ``racers`` (threads in a
    race), ``purged_in_batches`` (jobs that one purge removes) and ``patience`` (seconds after which a call or a race that
    has not ended counts as a deadlock). The first line of a failure names the broken promise, also if the store raised an
    error, returned a value of a wrong type, or did not return.

    A store that ``lacks`` `Capability.LISTING` subclasses the parts instead: `StoreBasics`, `MergesJobs`, `DelaysJobs`
    and `FindsSilentJobs`, without `FindsJobs` and `PurgesJobs`.

    Needs pytest and hypothesis.
    """
