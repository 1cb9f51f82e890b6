"""The contract of a store, as a pytest suite. Subclass it, and say how your store is made::

class TestMyStore(StoreContract):
    def make_store(self, clock: Clock) -> Store:
        return MyStore(self.directory / f"{uuid4()}.db", clock=clock)
"""

from __future__ import annotations

from backjob.testing._store_calls import CreateCalls, WriteCalls
from backjob.testing._store_model import StoreSequences
from backjob.testing._store_races import StoreRaces
from backjob.testing._store_searches import FindCalls, OutputCalls, TimeCalls

__all__ = ["StoreContract"]


class StoreContract(CreateCalls, OutputCalls, WriteCalls, TimeCalls, FindCalls, StoreRaces, StoreSequences):
    """Every promise of the `Store` protocol: each method, its boundaries to the microsecond, races, any sequence of calls.

    Override ``make_store(clock)``: it returns a new, empty store at each call, several times in one test, whose time is
    ``clock``, a `FakeClock`. (A store whose time is its server's takes, for this, its now from the clock.)
    ``self.directory`` is an empty directory of the test's own. Each store is closed by the suite.

    To go deeper or to be quicker, override ``examples`` and ``steps`` (generated sequences of calls, and their length),
    ``race_examples`` (generated races) and ``racers`` (threads in a race). A failure names the promise that was broken.

    Needs pytest and hypothesis.
    """
