"""The last step of `BackJob.start`: store the job and schedule its delivery, or join the job that means the same."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from types import EllipsisType
from typing import Any, Final, Literal, TypeAlias, TypedDict

from attrs import evolve

from backjob.errors import InvalidRequest, StoreUnavailable
from backjob.http.arguments import check_merge
from backjob.jobs.engine import Engine
from backjob.jobs.merging import is_same, lasting_key, merge_key
from backjob.jobs.starting import Prepared, Terms, drafted
from backjob.lifecycle import DISPATCHED, is_leased, lasts, waits_until_sent
from backjob.model import UNSET, Changes, Credentials, Draft, Expect, Job, Seconds, Status, is_storable

Merge: TypeAlias = Literal["never", "pending", "unfinished"]

_LONGEST_KEY: Final = 1000
"""Characters."""

_log = logging.getLogger("backjob")


def started(engine: Engine, work: Prepared, terms: Terms, merge: Merge, key: str | None = None) -> Job:
    """Store the job and schedule its delivery, or join the job that ``merge`` or ``key`` allows.

    Raises what `drafted` raises, and `InvalidRequest` for ``merge`` and ``key``.
    """
    with engine.observers.starting(work.request, terms.queue) as starting:
        if starting.request is not work.request:
            work = evolve(work, request=starting.request)
        draft = drafted(engine, work, terms)
        job = starting.job = _stored(engine, work, draft, _key(engine, work, draft, merge, key))
        return job


def _stored(engine: Engine, work: Prepared, draft: Draft, merge_key: str | None) -> Job:
    job = _created(engine, draft) if merge_key is None else _created_or_joined(engine, draft, merge_key, work)
    if job.id == draft.id:
        if engine.observers:
            engine.when_committed(job.id, partial(engine.observers.accepted, job))
        credentials = _sent(engine, job, work)
        monitor, written = engine.sender(), engine.clock.monotonic()
        engine.when_committed(job.id, partial(monitor.accept, job, credentials, written), is_new=True)
    return job


def _key(engine: Engine, work: Prepared, draft: Draft, merge: Merge, key: str | None) -> str | None:
    """Return the merge key of the job, or None if it never joins another one."""
    check_merge(merge)
    if key is None and merge == "never":
        return None
    cookies = engine.options.merge_cookies
    names = (engine.session_cookie(),) if cookies is None else cookies
    if key is None:
        made = merge_key(engine.access, draft, work.given, work.inherited, names)
        return None if made is None else f"{merge}:{made}"
    if not isinstance(key, str) or not key or len(key) > _LONGEST_KEY or not is_storable(key):
        raise InvalidRequest("key", f"must be text of 1 to {_LONGEST_KEY} characters, not {key!r}")
    if merge != "never":
        raise InvalidRequest("key", f"can't be combined with merge={merge!r}: a key already joins the same job")
    given, inherited = work.given, work.inherited
    lasting = lasting_key(engine.access, draft, key, given=given, inherited=inherited, cookies=names)
    if lasting is None:
        raise InvalidRequest(
            "key",
            "needs an owner: nothing in this request distinguishes its visitor from others, who would get the same job; "
            "set the owner hook, or pass owner= or as_current_user=False",
        )
    return lasting


def _sent(engine: Engine, job: Job, work: Prepared) -> Credentials | None:
    return engine.inheritance.packed(job.id, work.credentials) or None


def _created(engine: Engine, draft: Draft, key: str | None = None) -> Job:
    try:
        return engine.store.create(draft, key)
    except StoreUnavailable:
        job = engine.store.get(draft.id, body=True)  # perhaps only the store's reply was lost
        if job is None or not (job.status.is_final or engine.row_keys.is_authentic(job)):
            raise  # what was read is sent without another check
        return job


def _is_what_its_key_says(engine: Engine, job: Job, draft: Draft, key: str) -> bool:
    """Return whether a job may be joined: with a key that was moved to its row, it would get the caller's credentials."""
    if lasts(key):
        return _belongs_to_key(engine, job, draft)
    is_waiting = job.is_waiting and job.status is Status.STARTED and job.run == 1
    return (
        (is_waiting or not waits_until_sent(key))
        and is_same(job, draft)
        and engine.row_keys.is_authentic_with(job, draft.request.body)
    )


def _belongs_to_key(engine: Engine, job: Job, draft: Draft) -> bool:
    """Return whether a job with a lasting key is the owner's. Its request may have another body, and is gone after the end."""
    if job.owner != draft.owner or job.label not in engine.row_keys.labels:
        return False
    if job.status.is_final:
        return True
    whole = engine.store.get(job.id, body=True) or job
    if whole.status.is_final:
        return True
    return whole.request is not None and engine.row_keys.is_authentic_with(whole, whole.request.body)


def _check_route(job: Job, draft: Draft) -> None:
    """Raise `InvalidRequest` if the job with this key is one of another route: most likely a mistake."""
    route, own = f"{job.method} {job.path}", f"{draft.method} {draft.path}"
    if route != own:
        raise InvalidRequest("key", f"belongs to a job of another route, {route}, and not of {own}: use another key")


def _outlasts(job: Job, draft: Draft) -> bool:
    """Return whether a job that is moved to the start time of a later call must not expire when it did: it could never start."""
    due = draft.due if isinstance(draft.due, datetime) else job.read_time + timedelta(seconds=draft.due)
    return job.expires is not None and (draft.expires is None or due >= job.expires)


def _created_or_joined(engine: Engine, draft: Draft, key: str, work: Prepared) -> Job:
    while True:
        job = _created(engine, draft, key)
        if job.id == draft.id:
            return job
        if not _is_what_its_key_says(engine, job, draft, key):
            _log.error("job %s: its stored row is not as this application wrote it, so no call joins it", job.id)
            return _created(engine, draft)
        if lasts(key):
            _check_route(job, draft)
            return job
        if not waits_until_sent(key):
            return job
        changes = Changes(due=draft.due, expires=None if _outlasts(job, draft) else UNSET)
        # The engine has its id, or delivers it already: another message would only be a duplicate.
        is_handed_over = draft.lessee == DISPATCHED and is_leased(job) and job.start_time <= job.read_time
        if draft.lessee is not None and (draft.held or not job.held) and not is_handed_over:
            # This process can deliver it too; the present lessee sees the new time only when it renews its lease.
            changes = evolve(changes, lessee=draft.lessee, lease=draft.lease)
        moved = engine.store.change(job.id, Expect(unclaimed=True, version=job.version), changes)
        if moved is not None and is_handed_over:
            return moved
        if moved is not None:
            engine.when_committed(job.id, partial(engine.monitor.reschedule, moved, _sent(engine, moved, work)))
            return moved


class StartOptions(TypedDict, total=False):
    """The keyword arguments of `BackJob.start`."""

    method: str
    form: Mapping[str, Any] | Iterable[tuple[str, Any]] | None
    json: Any
    body: bytes | str | None
    headers: Mapping[str, str] | None
    as_current_user: bool
    as_owner: bool
    delay: Seconds | datetime
    expires: Seconds | datetime | None
    retries: int
    retry_delay: Seconds
    queue: str
    scope: str
    owner: str | EllipsisType | None
    merge: Merge
    error_timeout: Seconds | None
    title: str | None
    key: str | None
    keep_request: bool


def check_options(options: Mapping[str, object], values: str) -> None:
    """Refuse unknown options of ``start()``, before a route is looked up without the values that they were meant to be.

    ``values`` says where those belong. Raises `TypeError`, as Python does for an unknown argument.
    """
    unknown = ", ".join(repr(name) for name in options if name not in StartOptions.__optional_keys__)
    if unknown:
        raise TypeError(f"start() got unexpected arguments: {unknown}; the values of a route belong into {values}")
