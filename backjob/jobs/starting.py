"""The first steps of `BackJob.start`: the request with its credentials, and the draft of the job."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import EllipsisType
from typing import Any, Final

from attrs import evolve, frozen

from backjob.delivery.keeping import LEASE
from backjob.errors import AddressUnknown, InvalidRequest, NoCurrentRequest, TooDeep, TooManyJobs
from backjob.http.arguments import (
    Content,
    Limits,
    build_request,
    check_delay,
    check_label,
    check_number,
    check_size,
    check_value,
)
from backjob.http.listening import TEST_CLIENT
from backjob.http.origins import URL, is_url, local_target, prefix_of
from backjob.http.targets import path_below
from backjob.http.values import text_of
from backjob.jobs.engine import Engine
from backjob.jobs.options import check_error_timeout, check_queue
from backjob.lifecycle import DISPATCHED
from backjob.model import DEFAULT_QUEUE, Caller, Credentials, Draft, Query, Request, Seconds, check_duration
from backjob.protocols import Capability, lacks
from backjob.signing.tokens import new_job_id
from backjob.worker.running import current

_DEFAULT_AGENT: Final = "backjob"


@frozen(eq=False, repr=False)
class Prepared:
    """A worker request, not signed yet. ``inherited`` is None unless it is sent as the current user."""

    request: Request
    given: Credentials
    inherited: Credentials | None
    caller: Caller | None

    @property
    def credentials(self) -> Credentials:
        """All credentials, given and inherited."""
        return Credentials(self.given.headers + (() if self.inherited is None else self.inherited.headers))


def prepared(
    engine: Engine, path: str | URL, query: Mapping[str, Any] | None, content: Content, *, as_current_user: bool
) -> Prepared:
    """Build the worker request from arguments of ``start()``. Raises `InvalidRequest`, `NoCurrentRequest`."""
    limits = Limits(engine.options.max_body, engine.options.max_headers)
    wire_path, caller = _address(engine, path)
    inheritance = engine.inheritance
    request, given = build_request(wire_path, query, content, limits, inheritance.names)
    mount = _mount(engine, request.path)
    if mount:
        request = evolve(request, mount=mount)
    here = engine.here()
    inherited: Credentials | None = None
    if as_current_user:
        if here is None:
            raise NoCurrentRequest(
                "as_current_user=True needs the request being served, and no request passed the middleware; "
                "pass as_current_user=False to start as anonymous"
            )
        inherited = inheritance.credentials(here.request, given, engine.changed_cookies)
    request = with_user_agent(engine, request)
    if here is not None:
        request = inheritance.with_context(request, here.request)
    if engine.signer.claims(request):
        raise InvalidRequest("query", "contains parameters or header fields that are reserved for the signer")
    work = Prepared(request, given, inherited, caller)
    check_size(request.headers + inheritance.packed("", work.credentials).headers, limits.headers)
    return work


def require_address(engine: Engine) -> None:
    """Raise `AddressUnknown`, with the remedy, if there is no address, or if a request of a test client would need one."""
    addresses, here = engine.addresses, engine.here()
    destinations = addresses.destinations
    if here is not None and here.is_test_client and (not destinations or destinations[0].needs_proof):
        tools = engine.testing_module
        raise AddressUnknown(
            f"{TEST_CLIENT}, and in tests nothing leaves the process: call start() within {tools}.immediate() or recorded()"
        )
    if not destinations:
        reason = addresses.problem or "no base URL is set, and no request has shown the server's address yet"
        raise AddressUnknown(f"{reason}: {engine.base_url_setting(unix=addresses.on_unix)}")


def _address(engine: Engine, path: str | URL) -> tuple[object, Caller | None]:
    """Return the path for the wire, and the caller, with the mount that it sees."""
    here = engine.here()
    caller = None if here is None else evolve(here.caller, mount=here.mount)
    if not is_url(path):
        return path, caller
    return local_target(path, here, getattr(engine.transport, "base_url", None)), caller


def _mount(engine: Engine, path: str) -> str:
    """Return the beginning of a path on the wire that the server does not pass on as the path to route."""
    here = engine.here()
    mount = engine.mount() if here is None else here.mount
    if here is not None and path_below(here.request.path, mount) is None:
        return ""  # a proxy strips it
    added = prefix_of(getattr(engine.transport, "base_url", None))
    if added:  # by the transport
        below = path_below(mount, added)
        mount = mount if below is None else below
    return mount if path_below(path, mount) is not None else ""


def with_user_agent(engine: Engine, request: Request) -> Request:
    """Return the request with the User-Agent of the request being served, unless it has one."""
    if request.header("user-agent") is not None:
        return request
    here = engine.here()
    agent = engine.options.user_agent or (None if here is None else here.request.header("user-agent"))
    try:
        check_value("user_agent", "User-Agent", agent or _DEFAULT_AGENT)
    except InvalidRequest:
        agent = None  # the client sent a value that no client may send
    headers = (*request.headers, ("User-Agent", agent or _DEFAULT_AGENT))
    return Request(request.method, request.target, headers, request.body, request.raw, request.mount)


@frozen(kw_only=True, eq=False, repr=False)
class Terms:
    """The arguments of ``start()`` that say when, how often and as whom a job runs."""

    delay: Seconds | datetime = 0
    expires: Seconds | datetime | None = None
    scope: str = ""
    owner: str | EllipsisType | None = ...
    as_owner: bool = False
    error_timeout: Seconds | None = None
    retries: int = 0
    retry_delay: Seconds = 10
    queue: str = DEFAULT_QUEUE
    title: str | None = None
    keep_request: bool = False


def drafted(engine: Engine, work: Prepared, terms: Terms) -> Draft:
    """Build the job to store. Raises `InvalidRequest`, `TooDeep` and `TooManyJobs`."""
    lacking = lacks(engine.store)
    due = check_delay(terms.delay, engine.clock.now())
    if due != 0 and Capability.RETENTION in lacking:
        raise InvalidRequest("delay", "this store may drop a waiting job to make room: keep delayed jobs in a database")
    expires = _expiry(engine, terms.expires, due)
    timeout = engine.options.error_timeout if terms.error_timeout is None else check_error_timeout(terms.error_timeout)
    check_number("retries", terms.retries, 0, whole=True)
    retry_delay = check_duration("retry_delay", terms.retry_delay)
    if terms.retries and Capability.RETENTION in lacking:
        raise InvalidRequest("retries", "this store may drop a waiting job to make room: keep such jobs in a database")
    queue = check_queue(terms.queue)
    if engine.monitor.delivers(queue):
        require_address(engine)
    scope = check_label("scope", terms.scope)
    owner = engine.current_owner() if isinstance(terms.owner, EllipsisType) else terms.owner
    owner = None if owner in (None, "") else check_label("owner", owner)
    title = None if terms.title is None else check_label("title", text_of("title", terms.title)) or None
    if terms.as_owner:
        _check_as_owner(work, owner)
    if terms.keep_request:
        _check_keep_request(work)
    job_id = new_job_id()
    credentials = engine.inheritance.packed(job_id, work.credentials)
    held = bool(credentials) and engine.sealer is None
    if held and not engine.monitor.delivers(queue):
        raise InvalidRequest(
            "queue",
            f"the jobs of {queue!r} are delivered by other processes, which have no credentials of this user: run the job "
            "as its owner (as_owner=True), have them stored sealed (SEAL), or pass as_current_user=False",
        )
    if held and terms.retries:
        raise InvalidRequest(
            "retries",
            "a retry may run in a process that has no credentials of this user: have them stored sealed (SEAL), "
            "run the job as its owner (as_owner=True), or pass as_current_user=False",
        )
    # Take the lease only if this process must deliver the job (it holds the credentials), or if the job is due now and
    # there is room to send it; otherwise any process that has room takes it.
    lessee = engine.monitor.lessee_of(queue, is_held=held, is_due=due == 0.0)
    leases = {None: 0.0, DISPATCHED: engine.dispatcher.after}
    draft = Draft(
        id=job_id,
        request=work.request,
        caller=work.caller,
        owner=owner,
        scope=scope,
        due=due,
        expires=expires,
        error_timeout=timeout,
        retries=terms.retries,
        retry_delay=retry_delay,
        queue=queue,
        as_owner=terms.as_owner,
        lessee=lessee,
        lease=leases.get(lessee, LEASE),
        held=held,
        depth=_depth(engine.options.max_depth),
        root=_root(engine),
        label=engine.row_keys.label,
        title=title,
        keep_request=terms.keep_request,
    )
    if engine.sealer is None or not credentials:
        return draft
    binding = engine.row_keys.binding(draft, draft.label)
    return evolve(draft, sealed=engine.sealer.seal(credentials, binding))


def _expiry(engine: Engine, expires: Seconds | datetime | None, due: datetime | float) -> datetime | float | None:
    if expires is None:
        return None
    now = engine.clock.now()
    try:
        moment = check_delay(expires, now)
    except InvalidRequest as error:
        raise InvalidRequest("expires", error.reason) from None
    if moment == 0:
        raise InvalidRequest("expires", f"{expires!r} is not in the future, so the job could never start")
    if _seconds_until(moment, now) <= _seconds_until(due, now):
        raise InvalidRequest("expires", f"{expires!r} is not after the delay, so the job could never start")
    return moment


def _seconds_until(moment: datetime | float, now: datetime) -> float:
    return (moment - now).total_seconds() if isinstance(moment, datetime) else moment


def _check_as_owner(work: Prepared, owner: str | None) -> None:
    """Raise `InvalidRequest` if a job can't run as its owner."""
    if owner is None:
        raise InvalidRequest(
            "as_owner",
            "needs an owner: start the job in the request of a user whom the owner hook names, or pass owner=",
        )
    if work.given:
        names = ", ".join(sorted({name for name, _ in work.given.headers}))
        raise InvalidRequest(
            "headers", f"{names}: with as_owner=True the job runs as its owner, without other credentials"
        )


def _check_keep_request(work: Prepared) -> None:
    """Raise `InvalidRequest` for a request with credentials of its own: they would be missing when it runs again."""
    if work.given:
        names = ", ".join(sorted({name for name, _ in work.given.headers}))
        raise InvalidRequest(
            "keep_request",
            f"credentials are never kept, so the request could not run again without {names}: pass as_owner=True, or a "
            "secret that the action itself looks up",
        )


def _depth(limit: int) -> int:
    running = current.get()
    depth = 0 if running is None else running.job.depth + 1
    if depth > limit:
        raise TooDeep(depth)
    return depth


def _root(engine: Engine) -> str | None:
    """Return the first job of the chain that this job continues. Concurrent starts may exceed the limit by a few jobs."""
    running = current.get()
    if running is None:
        return None
    root = running.job.root or running.job.id
    limit = engine.options.max_chain
    # The first job has no root itself.
    if Capability.LISTING not in lacks(engine.store) and engine.store.count(Query(root=root, limit=limit)) + 1 >= limit:
        raise TooManyJobs(limit)
    return root
