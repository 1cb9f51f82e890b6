"""The header fields of a request that arrived, and those that an action sees instead of its worker request's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from backjob.http.arguments import canonical_name
from backjob.http.serving import FORWARDED_FIELDS
from backjob.model import Caller, Headers

_FORWARDED: Final = frozenset(name.lower() for name in FORWARDED_FIELDS)


def caller_of(headers: Headers, *, scheme: str, address: str) -> Caller:
    """Return the caller that a request shows: the host and the fields of proxies are among its headers."""
    values = {name.lower(): value for name, value in headers}
    return Caller(
        scheme=scheme,
        host=values.get("host", ""),
        address=address,
        forwarded=tuple((name, values[name.lower()]) for name in FORWARDED_FIELDS if name.lower() in values),
    )


def restored_headers(headers: Headers, caller: Caller | None, changes: Mapping[str, str | None]) -> Headers:
    """Return the headers of a worker request as if its caller's client had sent it.

    ``changes`` are fields to set, or to remove where the value is None: the ``fields`` of the `Running`.
    """
    replaced = _FORWARDED | {canonical_name(name) for name in changes}
    fields = [(name, value) for name, value in headers if canonical_name(name) not in replaced]
    # A name with an underscore is a variable of a WSGI server.
    fields += [(name, value) for name, value in changes.items() if value is not None and "_" not in name]
    if caller is None:
        return tuple(fields)
    if caller.host:
        fields = [("Host", caller.host), *((name, value) for name, value in fields if name.lower() != "host")]
    return (*fields, *caller.forwarded)
