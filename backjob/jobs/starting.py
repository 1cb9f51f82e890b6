"""The first steps of `BackJob.start`: the request with its credentials, and the draft of the job."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import EllipsisType
from typing import Any, Final

from attrs import Factory, evolve, field, frozen

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
from backjob.model import DEFAULT_QUEUE, Caller, Credentials, Draft, Headers, Query, Request, Seconds, check_duration
from backjob.protocols import Capability, lacks
from backjob.signing.tokens import new_job_id
from backjob.worker.running import current

_DEFAULT_AGENT: Final = "backjob"


def _joined(work: Prepared) -> Credentials:
    return Credentials(work.given.headers + work.inherited.headers) if work.inherited else work.given


@frozen(eq=False, repr=False)
class Prepared:
    """A worker request, not signed yet. ``inherited`` is None unless it is sent as the current user.

    ``credentials`` are all of them, given and inherited.
    """

    request: Request
    given: Credentials
    inherited: Credentials | None
    caller: Caller | None
    credentials: Credentials = field(init=False, default=Factory(_joined, takes_self=True))


def prepared(
    engine: Engine, path: str | URL, query: Mapping[str, Any] | None, content: Content, *, as_current_user: bool
) -> Prepared:
    """Build the worker request from arguments of ``start()``. Raises `InvalidRequest`, `NoCurrentRequest`."""
    limits = Limits(engine.options.max_body, engine.options.max_headers)
    here = engine.here()
    served = None if here is None else here.request  # once: an adapter translates it at each access
    wire_path = local_target(path, here, getattr(engine.transport, "base_url", None)) if is_url(path) else path
    inheritance = engine.inheritance
    request, given = build_request(wire_path, query, content, limits, inheritance.names)
    inherited: Credentials | None = None
    if as_current_user:
        if served is None:
            raise NoCurrentRequest(
                "as_current_user=True needs the request being served, and no request passed the middleware; "
                "pass as_current_user=False to start as anonymous"
            )
        inherited = inheritance.credentials(served, given, engine.changed_cookies)
    headers = with_user_agent(engine, request.headers, served)
    if served is not None:
        headers += inheritance.context_of(served, headers)
    mount = engine.mount() if here is None else here.mount
    caller = None if here is None else evolve(here.caller, mount=mount)
    request = Request(
        request.method, request.target, headers, request.body, mount=_mount(engine, request.path, mount, served)
    )
    if engine.signer.claims(request):
        raise InvalidRequest("query", "contains parameters or header fields that are reserved for the signer")
    work = Prepared(request, given, inherited, caller)
    check_size(headers + inheritance.packed("", work.credentials).headers, limits.headers)
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


def _mount(engine: Engine, path: str, mount: str, served: Request | None) -> str:
    """Return the beginning of a path on the wire that the server does not pass on as the path to route."""
    if not mount:
        return ""
    if served is not None and path_below(served.path, mount) is None:
        return ""  # a proxy strips it
    added = prefix_of(getattr(engine.transport, "base_url", None))
    if added:  # by the transport
        below = path_below(mount, added)
        mount = mount if below is None else below
    return mount if path_below(path, mount) is not None else ""


def with_user_agent(engine: Engine, headers: Headers, served: Request | None) -> Headers:
    """Return the fields with the User-Agent of the request being served, unless they have one."""
    if any(name.lower() == "user-agent" for name, _ in headers):
        return headers
    agent = engine.options.user_agent or (None if served is None else served.header("user-agent")) or _DEFAULT_AGENT
    try:
        check_value("user_agent", "User-Agent", agent)
    except InvalidRequest:
        agent = _DEFAULT_AGENT  # the client sent a value that no client may send
    return (*headers, ("User-Agent", agent))


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
    due = check_delay(terms.delay, engine.clock.now())
    if due != 0 and Capability.RETENTION in lacks(engine.store):
        raise InvalidRequest("delay", "this store may drop a waiting job to make room: keep delayed jobs in a database")
    expires = _expiry(engine, terms.expires, due)
    timeout = engine.options.error_timeout if terms.error_timeout is None else check_error_timeout(terms.error_timeout)
    check_number("retries", terms.retries, 0, whole=True)
    retry_delay = check_duration("retry_delay", terms.retry_delay)
    if terms.retries and Capability.RETENTION in lacks(engine.store):
        raise InvalidRequest("retries", "this store may drop a waiting job to make room: keep such jobs in a database")
    queue = check_queue(terms.queue)
    monitor = engine.monitor
    is_ours = monitor.delivers(queue)
    if is_ours:
        require_address(engine)
    scope = check_label("scope", terms.scope)
    owner = engine.current_owner() if isinstance(terms.owner, EllipsisType) else terms.owner
    owner = None if owner in (None, "") else check_label("owner", owner)
    title = None if terms.title is None else check_label("title", text_of("title", terms.title)) or None
    if terms.as_owner:
        _check_as_owner(work, owner)
    if terms.keep_request:
        _check_keep_request(work)
    depth, root = _chain(engine)
    job_id = new_job_id()
    credentials = engine.inheritance.packed(job_id, work.credentials)
    held = bool(credentials) and engine.sealer is None
    if held and not is_ours:
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
    lessee = monitor.lessee_of(queue, is_held=held, is_due=due == 0.0)
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
        depth=depth,
        root=root,
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


def _chain(engine: Engine) -> tuple[int, str | None]:
    """Return the depth of a new job, and the first job of the chain that it continues, or None.

    Concurrent starts may exceed the limit of the chain by a few jobs. Raises `TooDeep` and `TooManyJobs`.
    """
    running = current.get()
    if running is None:
        return 0, None
    depth = running.job.depth + 1
    if depth > engine.options.max_depth:
        raise TooDeep(depth)
    root = running.job.root or running.job.id
    limit = engine.options.max_chain
    # The first job has no root itself.
    if Capability.LISTING not in lacks(engine.store) and engine.store.count(Query(root=root, limit=limit)) + 1 >= limit:
        raise TooManyJobs(limit)
    return depth, root
