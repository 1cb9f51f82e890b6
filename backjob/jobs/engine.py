"""The engine behind a `BackJob`: the store, the threads, and the operations that all parts of the package share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from typing_extensions import override

from backjob.delivery.dispatching import Dispatcher
from backjob.delivery.monitor import Monitor
from backjob.delivery.parts import DeliveryParts, Retention
from backjob.draining import Draining
from backjob.errors import MissingExtra, StoreUnavailable
from backjob.http.listening import Listener
from backjob.http.serving import Serving, page_path, serving
from backjob.jobs.callbacks import Callbacks
from backjob.jobs.concluding import Concluding
from backjob.jobs.inheritance import Inheritance
from backjob.jobs.keeping import refusal_of
from backjob.jobs.observing import observers_of
from backjob.jobs.options import Options, attach
from backjob.jobs.own import OwnJobs
from backjob.model import Credentials, Job, Request
from backjob.process import Outage, PerProcess
from backjob.protocols import Store
from backjob.signing.rows import RowKeys
from backjob.signing.sealing import Sealer
from backjob.status.streaming.broadcast import Broadcast
from backjob.status.streaming.feed import Source
from backjob.worker.batches import write_together
from backjob.worker.claiming import Worker
from backjob.worker.files import Keeping
from backjob.worker.leases import Leases
from backjob.worker.replies import WorkerRequest
from backjob.worker.running import Running, current

_CLOSING: Final = 5.0  # s


class Engine(Concluding):
    """Everything that one application's jobs need, in this process. Thread-safe, and safe across fork.

    ``jobs`` is the `BackJob` whose actions this engine runs. Adapters override methods, above all those of `Adapting`.
    """

    def __init__(self, options: Options, jobs: object) -> None:
        super().__init__(options)
        keys = RowKeys(options.signer)
        self.row_keys = keys
        self.own_jobs = OwnJobs(options.store, keys, options.clock)
        self.store: Store = self.own_jobs
        self.signer = options.signer
        self.clock = options.clock
        self.observers = observers_of(options, lambda: self.own_jobs, self.release)
        self.files = self.default_files() if options.files is None else options.files
        self.keeping = Keeping(
            options.max_result, options.max_file, self.files, refusal_of(options), self.is_stock_message
        )
        self.retention = Retention(options.completed_retention_days, options.retention_days, self.files)
        self.sealer = Sealer(options.signer) if options.seal else None
        self._faults = Outage(options.clock)
        self.outage = Outage(options.clock)  # of the store: one warning of a process, whichever thread notices it
        self.inheritance = Inheritance(options)
        self.draining = Draining(lambda: self.worker.is_busy, options.drain_time)
        self.monitors = PerProcess(lambda: Monitor(self.delivery_parts))
        self.broadcasts = PerProcess(lambda: Broadcast(self.stream_source, options.streams))
        self.callbacks = PerProcess(lambda: Callbacks(self.release))
        self.dispatches = PerProcess(self._new_dispatches)
        self.dispatcher = Dispatcher(
            options.engines,
            self.store,
            lambda queue: self.dispatches.get()[queue],
            options.redispatch_after,
            options.clock,
        )
        self.lease_keepers = PerProcess(
            lambda: Leases(options.store, options.clock, options.run_lease, self.release, self.outage)
        )
        self.worker = Worker(
            options.store,
            options.signer,
            options.clock,
            max_body=options.max_body,
            max_output=options.max_output,
            capture=options.capture,
            run_lease=options.run_lease,
            leases=lambda: self.leases,
            is_draining=lambda: self.draining.is_on,
            write_later=self._write_later,
            settle=self._settle,
            announce=self.announce,
            run_ended=self._run_ended,
            max_running=self.max_running,
            queues=options.limits,
            is_authentic=keys.is_authentic_with,
            inheritance=self.inheritance,
            owner=jobs,
            keeping=self.keeping,
            observers=self.observers,
        )
        attach(options.engines.values(), jobs)

    def _new_dispatches(self) -> dict[str, Callbacks]:
        """Return what calls the engine of each queue: one that blocks must not delay the others."""
        what, thread = "the dispatch to an engine", "backjob-dispatch"
        return {queue: Callbacks(self.release, what, thread) for queue in self.options.engines}

    def _write_later(self, running: Running) -> None:
        self.monitor.write_later(running)

    def _settle(self, job_id: str, conclude: Callable[[], None]) -> None:
        self.monitor.settle(job_id, conclude)

    def _run_ended(self, job: Job) -> None:
        self.monitor.run_ended(job)

    def _tend_leases(self) -> float | None:
        return self.leases.tend()

    def _may_reap(self) -> bool:
        return self.leases.may_reap()

    @property
    def leases(self) -> Leases:
        """The run leases of this process."""
        return self.lease_keepers.get()

    @property
    def monitor(self) -> Monitor:
        """The monitor of this process."""
        return self.monitors.get()

    @property
    def broadcast(self) -> Broadcast:
        """The event streams of this process."""
        return self.broadcasts.get()

    def page_path(self) -> str | None:
        """Return the path of the page that is being served, with its query, or None if there is none to lead back to."""
        here = None if current.get() is not None else self.here()
        return None if here is None else page_path(here)

    def has_streams(self) -> bool:
        """Return whether the server of the request being served has event streams; outside of a request, whether it may."""
        here = self.here()
        return self.broadcast.limit(in_thread=here is not None and here.in_thread) > 0

    @property
    @override
    def delivery_parts(self) -> DeliveryParts:
        """The parts for a `Monitor` of these jobs, or for a carrier."""
        return DeliveryParts(
            store=self.store,
            outage=self.outage,
            signer=self.signer,
            clock=self.clock,
            addresses=lambda: self.addresses,
            base_url_setting=self.base_url_setting(),
            status_prefix=self.status_prefix,
            announce=self.announce,
            leave=self.release,
            retention=self.retention,
            delivery_timeout=float(self.options.delivery_timeout),
            run_lease=float(self.options.run_lease),
            may_reap=self._may_reap,
            max_running=self.max_running,
            queues=self.options.limits,
            unseal=self._unseal,
            is_authentic=self.row_keys.is_authentic,
            relabel=lambda: self.own_jobs.relabel(self._opener),
            write_together=partial(write_together, self.store),
            is_busy=lambda: self.worker.is_busy,
            close_idle=self._close_idle,
            tend_leases=self._tend_leases,
            is_draining=lambda: self.draining.is_on,
            delivers=lambda: self.delivered_queues,
            dispatcher=self.dispatcher,
        )

    def opens(self, job: Job) -> bool:
        """Return whether this process can open the sealed credentials of a job."""
        return self._unseal(job) is not None

    def _close_idle(self) -> None:
        store = self.options.store
        store = getattr(store, "store", store)  # the store behind a cache
        close_idle = getattr(store, "close_idle", None)
        if close_idle is not None:
            close_idle()

    def _unseal(self, job: Job) -> Credentials | None:
        opener = None if job.sealed is None else self._opener()
        if opener is None or job.sealed is None:
            return None
        return opener.open(job.sealed, self.row_keys.binding(job, job.label))

    def _opener(self) -> Sealer | None:
        """The sealer, also for jobs from before ``seal`` was turned off. None if cryptography is not installed."""
        with suppress(MissingExtra):
            return self.sealer or Sealer(self.signer)
        return None

    @property
    def show_errors(self) -> bool:
        """Whether visitors see the texts of exceptions and of 5xx responses."""
        return self.options.show_errors

    def show_all(self) -> None:
        """Read and end the jobs of all applications in the store: for a command that has a store and no key."""
        self.store = self.options.store

    @property
    def stream_source(self) -> Source:
        """The source for a `Broadcast` of these jobs."""
        return Source(self.job, self.state, self.store.output, self.release, self.offload, self.clock, self.show_errors)

    def request_arrived(self, listener_of: Callable[[], Listener], threads: float | None = None) -> None:
        """Start the monitor, and learn the server's address: middleware calls this for each request.

        ``listener_of()`` may raise `AddressUnknown`; `start` raises it later, if a job needs the address. ``threads`` is how
        many requests the server handles at once: infinite for an event loop, None if it does not show that. Raises
        nothing: no page must fail because of it.
        """
        try:
            self._threads = threads
            monitor = self.begin_serving()
            if self.addresses.show(listener_of):
                monitor.address_shown()
        except Exception as error:
            self._faults.warn("jobs may have to wait, for this failed at a request: %r", error)

    @override
    def begin_serving(self) -> Monitor:
        """Start the threads of a process that serves requests, unless they run."""
        monitor = self.monitor
        monitor.serves_requests = True
        monitor.note_request()
        self.leases.ensure_running()
        return monitor

    def worker_request(
        self, forms: Callable[[], tuple[Request, ...]], listener_of: Callable[[], Listener]
    ) -> WorkerRequest | None:
        """Return the worker request that a middleware received, or None for an ordinary request. Raises `Reply`.

        ``forms()`` returns the request as `Worker.open` takes it. If that fails, it is not one of ours.
        """
        try:
            requests = forms()
        except Exception as error:
            self._faults.warn("a request was passed on without a look for a signature: %r", error)
            return None
        return self.worker.open(*requests, listener_of=listener_of)

    def sender(self) -> Monitor:
        """Return the monitor, ready to send.

        If this process serves no requests, the transport's thread starts now: it may end soon, and then no thread starts.
        """
        monitor = self.monitor
        if not monitor.serves_requests:
            start = getattr(self.transport, "ensure_running", None)
            if start is not None:
                start()
        return monitor

    def leave(self) -> None:
        """Have others deliver what this process could not deliver yet: its server shuts down, perhaps without exit handlers."""
        self.monitor.give_leases_back()
        until = self.clock.monotonic() + _CLOSING
        for calls in self.dispatches.get().values():
            calls.flush(max(0.0, until - self.clock.monotonic()))

    def close(self) -> None:
        """Write what is pending, and close threads, connections and the store. Calling it twice does no harm."""
        self.broadcast.close()
        for carrier in self.carriers:
            carrier.close()
        self.monitor.close()
        until = self.clock.monotonic() + _CLOSING
        for calls in self.dispatches.get().values():
            calls.close(max(0.0, until - self.clock.monotonic()))
        self.leases.close(_CLOSING)
        self.callbacks.get().close(_CLOSING)
        self.addresses.close()
        self.store.close()

    # --- deleting jobs, and running them again ------------------------------------------------------------------------

    def delete(self, job_id: str) -> bool:
        """See `BackJob.delete`."""
        self.cancel(job_id)
        job = self.find(job_id)
        if job is not None and job.file is not None and self.files is not None:
            try:
                self.files.delete(job_id)  # first: without its row, nothing would find it
            except Exception as error:
                raise StoreUnavailable(f"the file of job {job_id} can't be deleted now: {error}") from error
        return self.store.delete(job_id)

    def run_again(self, job_id: str) -> str:
        """See `BackJob.run_again`."""
        from backjob.jobs.again import run_again  # noqa: PLC0415 - it starts jobs, which needs this module

        return run_again(self, job_id)

    def runs_without_owner(self, job_id: str) -> bool:
        """Return whether someone else than its owner can run the job again: it ran without its user's login."""
        job = self.store.get(job_id, body=True)
        return job is not None and self.row_keys.credentials_of(job) in ("as_owner", "none")


class UsesEngine:
    """Base of the classes that `BackJob` is composed of."""

    @property
    def _engine(self) -> Engine:
        """The engine of the current application."""
        raise NotImplementedError

    def _here(self) -> Serving | None:
        """The request that this thread or task is serving."""
        return serving.get()
