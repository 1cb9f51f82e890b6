"""Decides which calls of ``start()`` with ``merge=`` or ``key=`` mean the same job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from backjob.http.inherited import TRACING_FIELDS, cookie_values
from backjob.lifecycle import LASTING
from backjob.model import Credentials, Draft, Headers, Job, Request
from backjob.signing.tokens import Access

_IGNORED: Final = TRACING_FIELDS | {"user-agent"}


def merge_key(
    access: Access, draft: Draft, given: Credentials, inherited: Credentials | None, cookies: Sequence[str]
) -> str | None:
    """Return 43 characters that are the same for calls that mean the same job, or None if a job must not be merged.

    ``given`` are the credentials among the arguments, ``inherited`` those of the current user (None: not as the current
    user). The key covers the owner. If there is none, it covers the inherited credentials, but only the named ``cookies``,
    and the client's address: two visitors whose signed sessions have equal contents may have equal cookies. Without any of
    these credentials, two visitors could not be distinguished, so the job must not be merged.
    """
    visitor = _visitor(draft, given, inherited, cookies)
    if visitor is None:
        return None
    return access.merge_key(
        "anonymous" if inherited is None else "user",
        *_compared(draft, draft.request),
        draft.request.body,
        *_parts(given.headers),
        *visitor,
    )


def lasting_key(
    access: Access,
    draft: Draft,
    key: str,
    *,
    given: Credentials,
    inherited: Credentials | None,
    cookies: Sequence[str],
) -> str | None:
    """Return the merge key of a job with this ``key``: the same for the same key and owner, until the job is removed.

    The other arguments, and what stands for a missing owner, are as for `merge_key`; None if nothing does.
    """
    visitor = _visitor(draft, given, inherited, cookies)
    if visitor is None:
        return None
    explicit = _parts(given.headers if draft.owner is None else ())
    return LASTING + access.merge_key("key", draft.owner, key, *explicit, *visitor)


def _visitor(
    draft: Draft, given: Credentials, inherited: Credentials | None, cookies: Sequence[str]
) -> tuple[str, ...] | None:
    """Return what stands for the owner of a job that has none; None if the visitor can't be distinguished from others."""
    user: Headers = ()
    place: Headers = ()
    if inherited is not None and draft.owner is None:
        user = tuple(_identity(inherited, cookies))
        if not user and (inherited or not given):
            return None
        if draft.caller is not None:
            place = (("address", draft.caller.address), *draft.caller.forwarded)
    return (*_parts(user), *_parts(place))


def is_same(job: Job, draft: Draft) -> bool:
    """Return whether a stored job is what its merge key says: the owner's call of this route. It ignores the body."""
    return job.request is not None and list(_compared(job, job.request)) == list(_compared(draft, draft.request))


def _compared(row: Job | Draft, request: Request) -> Iterator[str | None]:
    yield from (row.owner, row.scope, "as_owner" if row.as_owner else None, request.method, request.target)
    yield from (None, None) if row.caller is None else (row.caller.host, row.caller.mount)
    yield from _parts(tuple(field for field in request.headers if field[0].lower() not in _IGNORED))


def _identity(credentials: Credentials, cookies: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from (field for field in credentials.headers if field[0].lower() != "cookie")
    for name in cookies:
        yield from ((f"cookie {name}", value) for value in cookie_values(credentials, name))


def _parts(headers: Headers) -> Iterator[str]:
    """Neither the case of names matters nor the order of different ones (RFC 9110, section 5.3)."""
    yield str(len(headers))
    for name, value in sorted(((name.lower(), value) for name, value in headers), key=lambda field: field[0]):
        yield name
        yield value
