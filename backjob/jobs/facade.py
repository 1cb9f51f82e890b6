"""`BackJob`: what an application holds. Starts jobs, tells of them, ends them, and keeps the parts together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from types import EllipsisType, TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict, TypeVar, Unpack

from attrs import evolve

from backjob.clock import SystemClock
from backjob.delivery.deliveries import LEASE
from backjob.delivery.monitor import Monitor
from backjob.delivery.parts import DeliveryParts, Retention
from backjob.errors import (
    AddressUnknown,
    InvalidRequest,
    JobExit,
    JobNotFound,
    NoCurrentRequest,
    StoreError,
    StoreUnavailable,
    TooDeep,
)
from backjob.http.arguments import (
    MAX_HEADERS,
    Limits,
    build_request,
    check_delay,
    check_label,
    check_merge,
    check_number,
    check_size,
    check_value,
    with_those_of,
)
from backjob.http.origins import URL, is_url, local_target
from backjob.http.serving import Serving
from backjob.jobs.inside import Action
from backjob.jobs.outside import Watching
from backjob.lifecycle import End, cancelled, ended, waits_until_sent
from backjob.model import Caller, Changes, Credentials, Draft, Expect, Job, JobState, Request, Status
from backjob.process import PerProcess
from backjob.protocols import Capability, Clock, Signer, Store, Transport, lacks
from backjob.signing.sealing import Sealer
from backjob.signing.tokens import Access, Right, new_job_id, reference
from backjob.status.streaming.broadcast import Broadcast
from backjob.status.streaming.feed import Source
from backjob.worker.claiming import Worker
from backjob.worker.running import Running, current

__all__ = ["BackJob", "Merge"]

_MonitorKind = TypeVar("_MonitorKind", bound=Monitor)
_BroadcastKind = TypeVar("_BroadcastKind", bound=Broadcast)

Merge: TypeAlias = Literal["never", "pending", "unfinished"]

_SHORTEST_TIMEOUT: Final = 0.001

_log = logging.getLogger("backjob")


class BackJob(Action, Watching):
    """Background jobs of one application, by requests to itself.

    ``store`` keeps the jobs, ``transport`` carries worker requests, ``signer`` makes them provably ours. Given a function
    for a transport, as `SocketTransport` itself is, it is called with the base URL once the middleware has learnt that
    from the server's own socket.
    ``owner(request)`` names the user of a request, or None. ``error_timeout`` (s) bounds a job's silence,
    ``delivery_timeout`` (s) its wait for a worker. Retention is in days, 0 for ever; ``max_output`` and ``max_body`` in
    bytes. ``user_agent`` None forwards the starting request's. ``on_end(state)`` is called in the process that wrote a
    job's end. ``seal`` stores credentials encrypted until the claim, so that any process can deliver. ``streams`` is how
    many event streams a process serves at once; None: 1000 under ASGI, none under WSGI, where each occupies a thread.

    Raises `InvalidRequest` for a refused setting. Thread-safe, and safe across fork.
    """

    def __init__(
        self,
        store: Store,
        transport: Transport | Callable[[str], Transport],
        signer: Signer,
        *,
        owner: Callable[[Any], str | None] | None = None,
        status_prefix: str = "/backjob",
        error_timeout: float = 60,
        delivery_timeout: float = 600,
        completed_retention_days: float = 30,
        retention_days: float = 60,
        max_output: int = 1 << 20,
        max_body: int = 1 << 20,
        max_headers: int = MAX_HEADERS,
        max_depth: int = 32,
        user_agent: str | None = None,
        on_end: Callable[[JobState], object] | None = None,
        seal: bool = False,
        streams: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        for name, value, least in (
            ("error_timeout", error_timeout, _SHORTEST_TIMEOUT),
            ("delivery_timeout", delivery_timeout, 1),
            ("completed_retention_days", completed_retention_days, 0),
            ("retention_days", retention_days, 0),
        ):
            check_number(name, value, least)
        for name, value in (
            ("max_output", max_output),
            ("max_body", max_body),
            ("max_headers", max_headers),
            ("max_depth", max_depth),
        ):
            check_number(name, value, 0, whole=True)
        if streams is not None:
            check_number("streams", streams, 0, whole=True)
        if user_agent is not None:
            check_value("user_agent", "User-Agent", user_agent)
        if not status_prefix.startswith("/") or status_prefix.endswith("/"):
            raise InvalidRequest("status_prefix", f"{status_prefix!r} does not begin with a slash, or ends with one")
        self.store = store
        self.transport: Transport | None = None if callable(transport) else transport
        self._make_transport = transport if callable(transport) else None
        self._learning = threading.Lock()
        self.signer = signer
        self.status_prefix = status_prefix
        self._owner_hook = owner
        self._error_timeout = float(error_timeout)
        self._delivery_timeout = float(delivery_timeout)
        self._retention = Retention(completed_retention_days, retention_days)
        self._limits = Limits(max_body, max_headers)
        self._max_depth = max_depth
        self._user_agent = user_agent
        self._on_end = on_end
        self._clock = clock or SystemClock()
        self._sealer = Sealer(signer) if seal else None
        self._access = Access(signer)
        self.monitors = PerProcess(lambda: self.make_monitor(Monitor))
        self.broadcasts = PerProcess(lambda: self.make_broadcast(Broadcast, streams))
        self.worker = Worker(
            store,
            signer,
            self._clock,
            max_body=max_body,
            max_output=max_output,
            write_later=self._write_later,
            settle=self._settle,
            announce=self._announce,
            owner=self,
        )

    def of(self, application: object = None) -> BackJob:  # noqa: ARG002 - an adapter's object has several
        """The `BackJob` that has the store and the threads: itself, unless one object serves several applications.

        For those that hold one of an adapter: ``application`` is the framework's, None the current one.
        """
        return self

    def make_monitor(self, kind: type[_MonitorKind]) -> _MonitorKind:
        """Return a new monitor of this `BackJob`. For `backjob.testing`."""
        return kind(
            DeliveryParts(
                store=self.store,
                signer=self.signer,
                clock=self._clock,
                transport=lambda: self.transport,
                announce=self._announce,
                leave=self._release,
                retention=self._retention,
                error_timeout=self._error_timeout,
                sealer=self._sealer,
            )
        )

    def make_broadcast(self, kind: type[_BroadcastKind], streams: int | None) -> _BroadcastKind:
        """Return new event streams of this `BackJob`. For tests."""
        source = Source(self._job, self._state, self.store.output, self._release, self._offload, self._clock)
        return kind(source, streams)

    @property
    def broadcast(self) -> Broadcast:
        """The event streams of this process."""
        return self.broadcasts.get()

    def _release(self) -> None:
        """An adapter lets go of what it holds for this thread, which ends, or will not use the store for long."""

    def _write_later(self, running: Running) -> None:
        self.monitor.write_later(running)

    def _settle(self, running: Running, end: End) -> None:
        self.monitor.settle(running, end)

    # --- starting ---------------------------------------------------------------------------------------------------

    def start(
        self,
        path: str | URL,
        query: Mapping[str, Any] | None = None,
        *,
        method: str = "GET",
        form: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        json: Any = None,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        as_current_user: bool = True,
        delay: float | timedelta | datetime = 0,
        scope: str = "",
        owner: str | EllipsisType | None = ...,
        merge: Merge = "never",
        error_timeout: float | None = None,
    ) -> str:
        """Accept a job: run the route at ``path`` in the background. Returns the job's id; never waits for the network.

        ``path`` may carry a query of its own; ``query`` is added to it (lists repeat, None is left out). It may be an
        absolute URL too, as a framework builds it for a route, if scheme and host are those of the request being served or
        of the base URL; where it goes is the base URL's affair all the same. ``method`` is 1 to 20 upper-case characters; at most one of ``form``, ``json`` and ``body``, and none with GET. As the current
        user, the ``Cookie`` and ``Authorization`` of the request being served go along. ``delay`` is in seconds, a
        timedelta, or an aware datetime. ``owner`` is the owner hook's answer unless given. ``merge`` joins an identical
        job that waits ("pending": not sent yet; the newest start time counts) or has not ended ("unfinished").

        When it returns, the job is durable. Raises `InvalidRequest` naming the argument, `NoCurrentRequest`,
        `AddressUnknown`, `TooDeep` or `StoreError`; then nothing is stored and nothing sent. (One exception: where the
        connection to the store is lost between its commit and its answer, and it stays away, `StoreUnavailable` is
        raised for a job that may be there.)
        """
        here = self._here()
        if self.transport is None:
            raise AddressUnknown("where this application listens is not known: set the base URL")
        wire_path, caller = self._addressed(path, here)
        request, credentials = build_request(
            wire_path, query, method=method, form=form, json=json, body=body, headers=headers, limits=self._limits
        )
        if as_current_user:
            if here is None:
                raise NoCurrentRequest(
                    "starting as the current user needs the request being served, and none passed the middleware; "
                    "as_current_user=False starts as anonymous"
                )
            credentials = with_those_of(here.request, credentials)
        due = check_delay(delay, self._clock.now())
        if due != 0 and Capability.RETENTION in lacks(self.store):
            raise InvalidRequest("delay", "this store may drop jobs to make room, and would forget one that waits")
        timeout = self._error_timeout if error_timeout is None else error_timeout
        check_number("error_timeout", timeout, _SHORTEST_TIMEOUT)
        scope = check_label("scope", scope)
        owner = self.current_owner() if isinstance(owner, EllipsisType) else owner
        if owner is not None:
            owner = check_label("owner", owner)
        is_user = as_current_user or bool(credentials)
        check_merge(merge, owner, is_user=is_user)
        request = self._with_user_agent(request)
        if self.signer.claims(request):
            raise InvalidRequest("query", "carries parameters or fields that are the signer's own")
        check_size(request.headers + credentials.headers, self._limits.headers)
        running = current.get()
        depth = 0 if running is None else running.job.depth + 1
        if depth > self._max_depth:
            raise TooDeep(depth)
        # A lease for what this process must deliver, or delivers now; what comes later without credentials, anybody may.
        ours = due == 0.0 or (bool(credentials) and self._sealer is None)
        draft = Draft(
            id=new_job_id(),
            request=request,
            caller=caller,
            owner=owner,
            scope=scope,
            due=due,
            delivery_timeout=self._delivery_timeout,
            error_timeout=float(timeout),
            lessee=self.monitor.lessee if ours else None,
            lease=LEASE if ours else 0.0,
            held=bool(credentials) and self._sealer is None,
            sealed=self._sealer.seal(credentials) if self._sealer is not None and credentials else None,
            depth=depth,
        )
        if merge == "never":
            job = self._create(draft)
        else:
            user = "user" if is_user else "anonymous"
            key = f"{merge}:{self._access.merge_key(user, owner, request, scope)}"
            job = self._create_or_join(draft, key, credentials or None)
        if job.id == draft.id:
            written = self._clock.monotonic()
            accept = partial(self.monitor.accept, job, credentials or None, written)
            self._when_committed(job.id, accept, is_new=True)
        return job.id

    def learn_address(self, base_url: str) -> None:
        """Make the transport for the application's own address, if there is none yet. For adapters."""
        with self._learning:
            if self.transport is None and self._make_transport is not None:
                self.transport = self._make_transport(base_url)
                _log.info("worker requests go to %s, learnt from the server's socket", base_url)

    def _addressed(self, path: object, here: Serving | None) -> tuple[object, Caller | None]:
        """The path for the wire, and who calls, who may know how much of it is the mount."""
        caller = None if here is None else here.caller
        if not is_url(path):
            return path, caller
        target, mount = local_target(path, here, getattr(self.transport, "base_url", None))
        return target, None if caller is None else evolve(caller, mount=mount)

    def _with_user_agent(self, request: Request) -> Request:
        if request.header("user-agent") is not None:
            return request
        here = self._here()
        agent = self._user_agent or (None if here is None else here.request.header("user-agent")) or "backjob"
        try:
            check_value("user_agent", "User-Agent", agent)
        except InvalidRequest:
            agent = "backjob"  # the client sent what no client may send on
        return evolve(request, headers=(*request.headers, ("User-Agent", agent)))

    def _create(self, draft: Draft, key: str | None = None) -> Job:
        try:
            return self.store.create(draft, key)
        except StoreUnavailable:
            job = self.store.get(draft.id)  # it may be there, and only the answer was lost
            if job is None:
                raise
            return job

    def _create_or_join(self, draft: Draft, key: str, credentials: Credentials | None) -> Job:
        while True:
            job = self._create(draft, key)
            if job.id == draft.id or not waits_until_sent(key):
                return job
            changes = Changes(due=draft.due, delivery_timeout=draft.delivery_timeout)
            if draft.lessee is not None and (draft.held or not job.held):
                # We can deliver it as well as its lessee, who would hear of the new time only when it renews its lease.
                changes = evolve(changes, lessee=draft.lessee, lease=draft.lease)
            moved = self.store.change(job.id, Expect(status=Status.STARTED, version=job.version), changes)
            if moved is not None:
                self._when_committed(job.id, partial(self.monitor.reschedule, moved, credentials))
                return moved

    # --- ending, and looking after ----------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> bool:
        """End a job CANCELLED: True if this call did it. A running action learns of it at its next report.

        Raises `JobNotFound`.
        """
        return self._end_from_outside(job_id, cancelled())

    def _end_from_outside(self, job_id: str, end: End) -> bool:
        while True:
            job = self._found(job_id)
            if job is None:
                raise JobNotFound(job_id)
            if job.status.is_final:
                return False
            kept = self._as_kept(job, end)
            # What was added to it stands upon what the job was when it was read.
            version = None if kept is end else job.version
            changed = self.store.change(
                job_id, Expect(status=job.status, token=job.token, version=version), ended(kept)
            )
            if changed is not None:
                self._when_committed(job_id, partial(self._conclude, changed))
                return True

    def _as_kept(self, job: Job, end: End) -> End:  # noqa: ARG002 - for adapters
        """An end from outside as it is written: an adapter may keep more as this job's result."""
        return end

    def cleanup(self) -> int:
        """Remove jobs past their retention age; returns how many. The monitor does it every hour."""
        return self._retention.purge(self.store)

    def close(self) -> None:
        """Write what is pending, and let go of threads, connections and the store. Calling it twice does no harm."""
        self.broadcast.close()
        self.monitor.close()
        if self.transport is not None:
            self.transport.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _announce(self, job: Job) -> None:
        if self._on_end is None:
            return
        try:
            try:
                state = self._state(job)
            except StoreError:  # its output can't be read just now; the end is told once, and not later
                state = self._state(evolve(job, output_size=0))
            self._on_end(state)
        except (Exception, JobExit):
            _log.exception("on_end failed for job %s", job.id)

    # --- who may see what -------------------------------------------------------------------------------------------

    def status_url(self, job_id: str, cancel: bool = False) -> str:
        """The path of the job's status for whoever is given it, with the right to cancel if asked. Lasts until the purge."""
        here = self._here()
        mount = "" if here is None else here.mount
        return f"{mount}{self.status_prefix}/{reference(job_id, self._access.token(job_id, cancel=cancel))}"

    def rights(self, job_id: str, token: str) -> Literal["view", "cancel"] | None:
        """What a token from `status_url` allows with this job: to view it, to cancel it as well, or nothing."""
        right = self._access.rights(job_id, token)
        if right is None:
            return None
        return "cancel" if right is Right.CANCEL else "view"

    def owner_of(self, request: Any) -> str | None:
        """The owner hook's answer for a request, or None without a hook."""
        return None if self._owner_hook is None else self._owner_hook(request)

    def current_owner(self) -> str | None:
        """The owner of the request being served, or None."""
        here = self._here()
        return None if here is None else self.owner_of(here.request)

    # --- for async handlers -----------------------------------------------------------------------------------------

    async def astart(
        self, path: str | URL, query: Mapping[str, Any] | None = None, **options: Unpack[StartOptions]
    ) -> str:
        """`start` that leaves the event loop alone."""
        return await self._offload(self.start, path, query, **options)

    async def acancel(self, job_id: str) -> bool:
        """`cancel` that leaves the event loop alone."""
        return await self._offload(self.cancel, job_id)


class StartOptions(TypedDict, total=False):
    """The keyword arguments of `BackJob.start`."""

    method: str
    form: Mapping[str, Any] | Iterable[tuple[str, Any]] | None
    json: Any
    body: bytes | str | None
    headers: Mapping[str, str] | None
    as_current_user: bool
    delay: float | timedelta | datetime
    scope: str
    owner: str | EllipsisType | None
    merge: Merge
    error_timeout: float | None
