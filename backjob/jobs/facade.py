"""`BackJob`: the object that an application creates once. Starts, reads and ends jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import EllipsisType, TracebackType
from typing import Any, Self, Unpack

from backjob.http.arguments import MAX_HEADERS, Content
from backjob.http.origins import URL
from backjob.jobs.deleting import checked_owner, delete_all
from backjob.jobs.delivering import adeliver, deliver
from backjob.jobs.engine import Engine
from backjob.jobs.inside import Inside
from backjob.jobs.options import Hook, Options
from backjob.jobs.outside import Outside
from backjob.jobs.starting import Terms, prepared
from backjob.jobs.storing import Merge, StartOptions, started
from backjob.model import DEFAULT_QUEUE, JobState, Seconds
from backjob.protocols import Clock, Files, Signer, Store, Transport
from backjob.worker.offload import to_thread

__all__ = ["BackJob", "application_of", "engine_of", "set_up_for_command"]


class BackJob(Inside, Outside):
    """Background jobs of one application, run by requests to itself.

    ``store`` keeps the jobs, ``transport`` sends worker requests, ``signer`` signs and verifies them. ``transport`` may be
    a function of the base URL that returns one, such as the class `SocketTransport`: the middleware calls it once it has
    learnt the URL from the server's socket.
    ``owner(request)`` returns the user of a request, or None. ``may_see_all(request)`` says whether its user may see the jobs
    of everyone, ``may_manage_all(request)`` whether this user may also cancel, delete and run them again. Each of these hooks
    gets the framework's request, and may be async. ``public_url`` is the application's URL for its users, with the path
    under which it is mounted; ``trusted_origins`` are other origins, such as ``"https://app.example.com"``, whose pages may
    use the status routes. ``page_template`` is the path of the application's own template of a job's page.
    ``error_timeout`` (s; 0: none) limits the silence of a running job, ``delivery_timeout`` (s) how long a request may stay
    unclaimed after it was first sent. Retention is in days; 0 keeps
    jobs for ever. ``max_output`` and ``max_body`` are in bytes. ``max_headers`` are the bytes of all header fields,
    ``max_depth`` is how deep jobs that start jobs may be nested, and ``max_chain`` how many jobs the first of them may lead
    to. ``merge_cookies`` names the cookies that say whose a job without an owner is when jobs merge (None: "session").
    ``forward_headers`` names more header fields of the starting request for its action to see; ``credential_headers`` those
    that prove a login: they are treated like cookies. ``user_agent`` None forwards that of the request that starts the job.
    backjob calls ``on_end(state)`` in the process that wrote a job's end. ``seal`` stores credentials encrypted until the job
    ends, so that any process can deliver it. ``streams`` is the number of event streams that a process serves at once; None:
    1000 under ASGI, none under WSGI, where each occupies a thread.

    If a process does not renew a job's lease for ``run_lease`` (s), the job ends or is retried. ``max_running`` is how many
    jobs a process runs at once; None: half the server's threads, at least 1, and 2 if their number is unknown; 100 under ASGI.
    ``queues`` limits the jobs of a queue that run at once in all processes: ``{"exports": {"max_running": 2}}``; with
    ``{"exports": {"dispatch": function}}`` an engine carries them: the function gets the id of each job that is due, and
    again after ``redispatch_after`` (s) and twice that if it is still not delivered. ``deliver`` names the queues whose jobs
    this process delivers itself; None: all that no engine carries.
    ``slice_time`` (s) is after how long an action that can continue later hands over to its next request. ``drain_time`` (s)
    is how long a server that a signal would end at once waits for its jobs.

    ``capture_stderr`` makes what an action writes to stderr output too, and ``capture_logging`` its records of `logging` from
    this level on (``"INFO"``). ``timestamp_output`` begins each line of output with its time (UTC).

    ``opentelemetry`` makes spans and metrics of jobs with the providers that the application has set; ``prometheus`` keeps
    metrics in prometheus_client's default registry. Each needs its extra, or raises `MissingExtra`.

    Each number of seconds may also be a timedelta. Raises `InvalidRequest` for an invalid argument. Thread-safe, and safe
    across fork.
    """

    def __init__(
        self,
        store: Store,
        transport: Transport | Callable[[str], Transport],
        signer: Signer,
        *,
        owner: Hook[str | None] | None = None,
        may_see_all: Hook[bool] | None = None,
        may_manage_all: Hook[bool] | None = None,
        public_url: str | None = None,
        trusted_origins: Iterable[str] = (),
        page_template: str | os.PathLike[str] | None = None,
        status_prefix: str = "/backjob",
        error_timeout: Seconds = 3600,
        delivery_timeout: Seconds = 600,
        completed_retention_days: float = 30,
        retention_days: float = 60,
        max_output: int = 1 << 20,
        max_body: int = 1 << 20,
        max_headers: int = MAX_HEADERS,
        max_depth: int = 32,
        max_chain: int = 10_000,
        merge_cookies: Iterable[str] | None = None,
        forward_headers: Iterable[str] = (),
        credential_headers: Iterable[str] = (),
        user_agent: str | None = None,
        on_end: Callable[[JobState], object] | None = None,
        seal: bool = False,
        streams: int | None = None,
        run_lease: Seconds = 18,
        max_running: int | None = None,
        queues: Mapping[str, Mapping[str, Any]] | None = None,
        deliver: Iterable[str] | None = None,
        redispatch_after: Seconds = 600,
        slice_time: Seconds = 20,
        drain_time: Seconds = 25,
        files: Files | str | os.PathLike[str] | None = None,
        max_file: int = 1 << 30,
        max_result: int = 1 << 16,
        show_errors: bool = False,
        capture_stderr: bool = False,
        capture_logging: int | str | None = None,
        timestamp_output: bool = False,
        opentelemetry: bool = False,
        prometheus: bool = False,
        clock: Clock | None = None,
    ) -> None:
        # The adapters' subclasses don't call this: they keep their engines elsewhere.
        options = Options(
            store=store,
            transport=transport,
            signer=signer,
            owner=owner,
            may_see_all=may_see_all,
            may_manage_all=may_manage_all,
            public_url=public_url,
            trusted_origins=trusted_origins,
            page_template=page_template,
            status_prefix=status_prefix,
            error_timeout=error_timeout,
            delivery_timeout=delivery_timeout,
            completed_retention_days=completed_retention_days,
            retention_days=retention_days,
            max_output=max_output,
            max_body=max_body,
            max_headers=max_headers,
            max_depth=max_depth,
            max_chain=max_chain,
            merge_cookies=merge_cookies,
            forward_headers=forward_headers,
            credential_headers=credential_headers,
            user_agent=user_agent,
            on_end=on_end,
            seal=seal,
            streams=streams,
            run_lease=run_lease,
            max_running=max_running,
            queues={} if queues is None else queues,
            deliver=deliver,
            redispatch_after=redispatch_after,
            slice_time=slice_time,
            drain_time=drain_time,
            files=files,
            max_file=max_file,
            max_result=max_result,
            show_errors=show_errors,
            capture_stderr=capture_stderr,
            capture_logging=capture_logging,
            timestamp_output=timestamp_output,
            opentelemetry=opentelemetry,
            prometheus=prometheus,
            clock=clock,
        )
        self._only_engine = Engine(options, self)

    @property
    def _engine(self) -> Engine:
        return self._only_engine

    def _engine_for(self, application: object) -> Engine:  # noqa: ARG002 - for an adapter that has several
        """Return the engine of an application, which may not be the current one."""
        return self._engine

    @property
    def store(self) -> Store:
        """The store that keeps the jobs."""
        return self._engine.options.store

    @property
    def transport(self) -> Transport | None:
        """The transport that sends worker requests, or None while the application's address is unknown."""
        return self._engine.transport

    @property
    def signer(self) -> Signer:
        """The signer of worker requests."""
        return self._engine.signer

    @property
    def status_prefix(self) -> str:
        """The path below which the status routes are."""
        return self._engine.status_prefix

    def _application(self) -> Any:
        """Return the application of the jobs, for a process that runs it without a server; None: it must be named."""
        return None

    def _set_up_for_command(self) -> None:
        """Load what the jobs need in a process that has only imported this object. An adapter loads its framework."""

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
        as_owner: bool = False,
        delay: Seconds | datetime = 0,
        expires: Seconds | datetime | None = None,
        retries: int = 0,
        retry_delay: Seconds = 10,
        queue: str = DEFAULT_QUEUE,
        scope: str = "",
        owner: str | EllipsisType | None = ...,
        merge: Merge = "never",
        error_timeout: Seconds | None = None,
        title: str | None = None,
        key: str | None = None,
        keep_request: bool = False,
    ) -> str:
        """Run the route at ``path`` in the background. Returns the id of the job; never waits for the network.

        ``path`` may contain a query; ``query`` is added to it (lists repeat, None is left out). It may also be an absolute
        URL of this application, as frameworks build them: with scheme and host of the request being served or of the base
        URL. The worker request goes to the base URL in any case. ``method`` is 1 to 20 upper-case characters; pass at most
        one of ``form``, ``json`` and ``body``, and none with GET. As the current user, the job gets ``Cookie`` and
        ``Authorization`` of the request being served. With ``as_owner`` it gets neither, and the action runs as the job's owner,
        even if the login has expired. ``delay`` is in seconds, a timedelta, or an aware datetime; so is ``expires``: a job that
        is not claimed before then ends FAILED. ``owner`` defaults to the owner hook's result. If a run dies, raises, times out
        or responds with 408, 425, 429 or 5xx, another follows after ``retry_delay · 2ⁿ`` s, up to ``retries`` times. ``queue``
        names the queue whose limit applies. ``merge`` joins an identical job that is waiting ("pending": not sent yet; it takes
        the newest start time) or has not ended ("unfinished"). With a ``key`` the same key and owner return the same job until
        it is purged or deleted, even after its end; for another route the key is refused. ``title`` (at most 255 characters) is
        what people read in place of the path. With ``keep_request`` the request stays after the end, without credentials, so
        that `run_again` can start it once more.

        When it returns, the job is durable. Raises `InvalidRequest` naming the argument, `NoCurrentRequest`,
        `AddressUnknown`, `TooDeep`, `TooManyJobs` or `StoreError`; then nothing is stored and nothing sent. The one exception: if the
        connection to the store breaks during the commit and stays down, `StoreUnavailable` is raised for a job that may
        exist.
        """
        engine = self._engine
        content = Content(method, form, json, body, headers)
        work = prepared(engine, path, query, content, as_current_user=as_current_user and not as_owner)
        terms = Terms(
            delay=delay,
            expires=expires,
            scope=scope,
            owner=owner,
            as_owner=as_owner,
            error_timeout=error_timeout,
            retries=retries,
            retry_delay=retry_delay,
            queue=queue,
            title=title,
            keep_request=keep_request,
        )
        return started(engine, work, terms, merge, key).id

    async def astart(
        self, path: str | URL, query: Mapping[str, Any] | None = None, **options: Unpack[StartOptions]
    ) -> str:
        """`start` that does not block the event loop."""
        return await self._engine.offload(self.start, path, query, **options)

    def deliver(self, job_id: str, transport: Transport | None = None) -> JobState:
        """Deliver one job, wait for its end, and return its final state: for engines, such as Celery, that carry its id.

        It leases the job, waits until it is due, and delivers all its runs, by ``transport`` or else by the usual one. Any
        process of the application may call it; pass the same transport each time, since each has a thread. Raises
        `DeliveryRefused` if another call has the job, if it has ended, if this process can't have the credentials that it
        runs with, or shuts down; `JobNotFound`, `AddressUnknown`, and `InvalidRequest` in an action or a transaction. If an exception from outside interrupts the call, such
        as a time limit, other processes deliver the job, or its next run if it runs.
        """
        return deliver(self._engine, job_id, transport)

    async def adeliver(self, job_id: str, transport: Transport | None = None) -> JobState:
        """`deliver` that does not block the event loop. Cancelling it interrupts the delivery, as an exception does."""
        return await adeliver(self._engine, job_id, transport)

    # --- ending, and maintenance ------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> bool:
        """End a job CANCELLED. Returns whether this call did it. A running action learns of it at its next report.

        Raises `JobNotFound`.
        """
        return self._engine.cancel(job_id)

    async def acancel(self, job_id: str) -> bool:
        """`cancel` that does not block the event loop."""
        return await self._engine.offload(self.cancel, job_id)

    def run_again(self, job_id: str) -> str:
        """Start the request of an ended job again, as a new job. Returns its id. The old job must have had ``keep_request``.

        An anonymous job stays anonymous, and one that ran ``as_owner`` does so again. One that ran with its user's login, which
        is never kept, needs a request of its owner that is being served now. It joins an identical job that has not ended, as
        ``start(merge="unfinished")`` does. Raises `JobNotFound`, `InvalidRequest` with the reason, and what `start` raises.
        """
        return self._engine.run_again(job_id)

    async def arun_again(self, job_id: str) -> str:
        """`run_again` that does not block the event loop."""
        return await self._engine.offload(self.run_again, job_id)

    def delete(self, job_id: str) -> bool:
        """Cancel a job if it has not ended, and remove it with its output and its file. Returns whether this call did it.

        A running action learns of it at its next report, as with `cancel`. Raises `JobNotFound`.
        """
        return self._engine.delete(job_id)

    async def adelete(self, job_id: str) -> bool:
        """`delete` that does not block the event loop."""
        return await self._engine.offload(self.delete, job_id)

    def delete_all(self, *, owner: str) -> int:
        """`delete` all jobs of an owner, for example because the account is closed. Returns how many.

        Raises `InvalidRequest` for an empty owner, and `StoreUnusable` for a store that can't list its jobs.
        """
        return delete_all(self._engine, owner=checked_owner(owner))

    async def adelete_all(self, *, owner: str) -> int:
        """`delete_all` that does not block the event loop."""
        return await self._engine.offload(self.delete_all, owner=owner)

    def cleanup(self) -> int:
        """Remove the jobs past their retention age; returns how many. The monitor does it every hour."""
        return self._engine.retention.purge(self.store)

    async def acleanup(self) -> int:
        """`cleanup` that does not block the event loop."""
        return await self._engine.offload(self.cleanup)

    def close(self) -> None:
        """Write what is pending, and close threads, connections and the store. Calling it twice does no harm."""
        self._engine.close()

    async def aclose(self) -> None:
        """`close` that does not block the event loop."""
        await to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def engine_of(jobs: BackJob | Engine) -> Engine:
    """Return the engine of a `BackJob`, for other parts of this package."""
    return jobs if isinstance(jobs, Engine) else jobs._engine  # noqa: SLF001


def application_of(jobs: BackJob) -> Any:
    """Return the WSGI or ASGI application of the jobs, as far as an adapter knows it, or None."""
    return jobs._application()  # noqa: SLF001


def set_up_for_command(jobs: BackJob) -> None:
    """Make a `BackJob` usable that the command line has just imported. Raises `InvalidRequest` ("app") if it can't be."""
    jobs._set_up_for_command()  # noqa: SLF001
