"""How many jobs a process runs, of which queues, and by which transports: the carriers of `BackJob.deliver`, and workers."""

from __future__ import annotations

from typing import Final

from attrs import evolve

from backjob.delivery.addresses import Addresses
from backjob.delivery.carrier import Carrier
from backjob.delivery.monitor import Monitor
from backjob.delivery.parts import DeliveryParts
from backjob.errors import InvalidRequest
from backjob.jobs.options import Options
from backjob.jobs.visitors import Visitors
from backjob.process import PerProcess
from backjob.protocols import Transport

_MANY: Final = 100
_UNKNOWN_THREADS: Final = 2
_UNLIMITED: Final = 1000


class Carrying(Visitors):
    """The part of an engine that knows what its process delivers and runs besides what the server's requests bring."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.addresses = Addresses(options.transport)
        self._carriers = PerProcess[dict[int, Carrier]](dict)
        self._queues = options.deliver
        self._queues_of_engines = frozenset(options.engines)
        self._in_process: Transport | None = None
        """The transport by which this process runs jobs without a server, if it does."""
        self._threads: float | None = None

    @property
    def transport(self) -> Transport | None:
        """The transport that sends worker requests, or None while the application's address is unknown."""
        return self.addresses.transport

    @property
    def delivered_queues(self) -> frozenset[str] | None:
        """The queues whose jobs this process delivers itself; None: all that no engine carries.

        Without an address, a process that runs single jobs leaves the jobs that these start to others.
        """
        is_for_others = self._in_process is not None and not self.addresses.destinations
        return frozenset() if is_for_others else self._queues

    def leaves(self, queue: str) -> bool:
        """Return whether this process leaves the jobs of a queue to others: it neither delivers them nor has an engine for them."""
        delivers = self.delivered_queues
        return delivers is not None and queue not in delivers and queue not in self._queues_of_engines

    @property
    def lacks_logins(self) -> bool:
        """Whether this process leaves queues to others that can't have the logins of users: ``DELIVER`` without ``SEAL``."""
        return self.options.deliver is not None and not self.options.seal

    def run_in_process(self, transport: Transport, queues: frozenset[str] | None) -> None:
        """Have this process run the jobs of these queues itself, by a transport that calls the application without a server.

        None: all queues that no engine carries. It runs as many at once as the transport does, whatever MAX_RUNNING says:
        it serves no pages. Call it before the first job. Raises `InvalidRequest` ("queue") for a queue with an engine.
        """
        both = sorted(self._queues_of_engines & (queues or frozenset()))
        if both:
            raise InvalidRequest("queue", f"an engine carries the jobs of {both[0]!r} (dispatch in QUEUES)")
        self._in_process, self._queues = transport, queues
        self.addresses = Addresses(transport)

    def max_running(self) -> int:
        """Return how many jobs this process may run at once, so that its server has threads left for pages."""
        if self._in_process is not None:
            capacity = self._in_process.capacity
            return _UNLIMITED if capacity is None else capacity
        if self.options.max_running is not None:
            return self.options.max_running
        threads = self._threads
        if threads is None:
            return _UNKNOWN_THREADS
        return max(1, int(min(threads / 2, _MANY)))

    def carrier(self, transport: Transport | None) -> Carrier:
        """Return what delivers the jobs that are given to this process, by this transport (None: the usual one)."""
        carriers = self._carriers.get()
        carrier = carriers.get(id(transport))  # which the carrier keeps alive; it need not be hashable
        if carrier is None:
            if transport is not None and getattr(transport, "in_process", False):
                self._in_process = transport if self._in_process is None else self._in_process
                self.begin_serving()  # the jobs run here, so they need their leases renewed
            addresses = None if transport is None else Addresses(transport)
            parts = evolve(
                self.delivery_parts,
                addresses=lambda: addresses or self.addresses,
                max_running=lambda: _UNLIMITED,
                keeps_leases=True,
            )
            carrier = carriers.setdefault(id(transport), Carrier(parts))
        return carrier

    @property
    def carriers(self) -> list[Carrier]:
        """The carriers that this process has."""
        return [*self._carriers.get().values()]

    # --- what the engine defines ------------------------------------------------------------------------------------

    @property
    def delivery_parts(self) -> DeliveryParts:
        """The parts for what delivers these jobs."""
        raise NotImplementedError

    def begin_serving(self) -> Monitor:
        """Start the threads of a process that runs jobs, unless they run."""
        raise NotImplementedError
