"""The steps of `BackJob.start`: the request and its credentials, the draft of the job, the stored job."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from types import EllipsisType
from typing import Any, Final, Literal, TypeAlias

from attrs import evolve, field, frozen

from backjob.delivery.deliveries import LEASE
from backjob.errors import AddressUnknown, InvalidRequest, NoCurrentRequest, StoreUnavailable, TooDeep
from backjob.http.arguments import (
    Content,
    Limits,
    build_request,
    check_delay,
    check_label,
    check_merge,
    check_number,
    check_size,
    check_value,
    with_current_credentials,
)
from backjob.http.origins import URL, is_url, local_target
from backjob.http.targets import path_below
from backjob.jobs.engine import Engine
from backjob.jobs.options import SHORTEST_TIMEOUT
from backjob.lifecycle import waits_until_sent
from backjob.model import Caller, Changes, Credentials, Draft, Expect, Job, Request, Status
from backjob.protocols import Capability, lacks
from backjob.signing.tokens import new_job_id
from backjob.worker.running import current

Merge: TypeAlias = Literal["never", "pending", "unfinished"]

_DEFAULT_AGENT: Final = "backjob"


@frozen
class Prepared:
    """A worker request, not signed yet. ``is_user``: it carries a user's credentials, or would if there were any."""

    request: Request
    credentials: Credentials = field(repr=False)
    caller: Caller | None
    is_user: bool


def prepared(
    engine: Engine, path: str | URL, query: Mapping[str, Any] | None, content: Content, *, as_current_user: bool
) -> Prepared:
    """Build the worker request from arguments of ``start()``. Raises `InvalidRequest`, `NoCurrentRequest`, `AddressUnknown`."""
    if engine.transport is None:
        raise AddressUnknown("the application's address is unknown: set the base URL")
    limits = Limits(engine.options.max_body, engine.options.max_headers)
    wire_path, caller = _address(engine, path)
    request, credentials = build_request(wire_path, query, content, limits)
    request = evolve(request, mount=_mount(engine, request.path))
    if as_current_user:
        here = engine.here()
        if here is None:
            raise NoCurrentRequest(
                "as_current_user=True needs the request being served, and no request passed the middleware; "
                "pass as_current_user=False to start as anonymous"
            )
        credentials = with_current_credentials(here.request, credentials)
    request = _with_user_agent(engine, request)
    if engine.signer.claims(request):
        raise InvalidRequest("query", "contains parameters or header fields that are reserved for the signer")
    check_size(request.headers + credentials.headers, limits.headers)
    return Prepared(request, credentials, caller, as_current_user or bool(credentials))


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
    base_url: str = getattr(engine.transport, "base_url", None) or ""
    added = base_url.partition("://")[2].partition("/")[2].rstrip("/")
    if added:  # by the transport
        below = path_below(mount, f"/{added}")
        mount = mount if below is None else below
    return mount if path_below(path, mount) is not None else ""


def _with_user_agent(engine: Engine, request: Request) -> Request:
    if request.header("user-agent") is not None:
        return request
    here = engine.here()
    agent = engine.options.user_agent or (None if here is None else here.request.header("user-agent"))
    try:
        check_value("user_agent", "User-Agent", agent or _DEFAULT_AGENT)
    except InvalidRequest:
        agent = None  # the client sent a value that no client may send
    return evolve(request, headers=(*request.headers, ("User-Agent", agent or _DEFAULT_AGENT)))


def drafted(
    engine: Engine,
    work: Prepared,
    *,
    delay: float | timedelta | datetime,
    scope: str,
    owner: str | EllipsisType | None,
    error_timeout: float | None,
) -> Draft:
    """Build the job to store. Raises `InvalidRequest`, and `TooDeep`."""
    due = check_delay(delay, engine.clock.now())
    if due != 0 and Capability.RETENTION in lacks(engine.store):
        raise InvalidRequest("delay", "this store may drop a waiting job to make room: keep delayed jobs in a database")
    timeout = engine.options.error_timeout if error_timeout is None else error_timeout
    check_number("error_timeout", timeout, SHORTEST_TIMEOUT)
    scope = check_label("scope", scope)
    owner = engine.current_owner() if isinstance(owner, EllipsisType) else owner
    held = bool(work.credentials) and engine.sealer is None
    # Take the lease only if this process must deliver the job (it holds the credentials) or if the job is due now.
    leased = due == 0.0 or held
    return Draft(
        id=new_job_id(),
        request=work.request,
        caller=work.caller,
        owner=None if owner is None else check_label("owner", owner),
        scope=scope,
        due=due,
        delivery_timeout=float(engine.options.delivery_timeout),
        error_timeout=float(timeout),
        lessee=engine.monitor.lessee if leased else None,
        lease=LEASE if leased else 0.0,
        held=held,
        sealed=engine.sealer.seal(work.credentials) if engine.sealer is not None and work.credentials else None,
        depth=_depth(engine.options.max_depth),
    )


def _depth(limit: int) -> int:
    running = current.get()
    depth = 0 if running is None else running.job.depth + 1
    if depth > limit:
        raise TooDeep(depth)
    return depth


def stored(engine: Engine, work: Prepared, draft: Draft, merge: Merge) -> Job:
    """Store the job and schedule its delivery, or join the identical job that ``merge`` allows."""
    check_merge(merge, draft.owner, is_user=work.is_user)
    credentials = work.credentials or None
    if merge == "never":
        job = _created(engine, draft)
    else:
        user = "user" if work.is_user else "anonymous"
        key = f"{merge}:{engine.access.merge_key(user, draft.owner, draft.request, draft.scope)}"
        job = _created_or_joined(engine, draft, key, credentials)
    if job.id == draft.id:
        engine.prepare_to_send()
        written = engine.clock.monotonic()
        engine.when_committed(job.id, partial(engine.monitor.accept, job, credentials, written), is_new=True)
    return job


def _created(engine: Engine, draft: Draft, key: str | None = None) -> Job:
    try:
        return engine.store.create(draft, key)
    except StoreUnavailable:
        job = engine.store.get(draft.id)  # perhaps only the store's reply was lost
        if job is None:
            raise
        return job


def _created_or_joined(engine: Engine, draft: Draft, key: str, credentials: Credentials | None) -> Job:
    while True:
        job = _created(engine, draft, key)
        if job.id == draft.id or not waits_until_sent(key):
            return job
        changes = Changes(due=draft.due, delivery_timeout=draft.delivery_timeout)
        if draft.lessee is not None and (draft.held or not job.held):
            # This process can deliver it too; the present lessee sees the new time only when it renews its lease.
            changes = evolve(changes, lessee=draft.lessee, lease=draft.lease)
        moved = engine.store.change(job.id, Expect(status=Status.STARTED, version=job.version), changes)
        if moved is not None:
            engine.when_committed(job.id, partial(engine.monitor.reschedule, moved, credentials))
            return moved
