"""What a worker request shows to the parts around the middleware: that it is one, and no signature.

A signature in the query would end up in whatever reads the request outside of the middleware, such as the server's access
log. `hide_signature` moves it out of sight, and `query_of` finds it for the signer. Whether it is valid does not matter here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

JOB_KEY: Final = "backjob.job"
"""The key of the environ, or of the scope, of a verified worker request: the job's id; "" for a probe."""

_HIDDEN: Final = "backjob.hidden"
_KEYS: Final = ("QUERY_STRING", "REQUEST_URI", "RAW_URI", "query_string")
_NAMES: Final = "backjob-(?:content-digest|signature-input|signature)"
_END: Final = r"[^&\s\"'<>\\]*"
_SIGNATURES: Final = re.compile(
    rf"[?&]?{_NAMES}={_END}"  # in a query, where each parameter but the first follows a delimiter
    r"|(?<=backjob=):[A-Za-z0-9+/]{43}=:"  # a header field, or a decoded parameter
    r"|(?<=backjob%3D)%3A[A-Za-z0-9%]{43,140}%3A",
    re.IGNORECASE,
)


def without_signature(text: str) -> str:
    """Return a query, a URL or any other text without backjob's signatures. Fast if it has none."""
    return _SIGNATURES.sub("", text) if "backjob" in text else text


class _Hidden:
    """Values that no report shows, although tracebacks with local variables may have the environ or the scope."""

    __slots__ = ("values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values


def hide_signature(request: MutableMapping[str, Any]) -> None:
    """Take a signature out of the query of an environ or a scope, in place. `query_of` still returns the whole query."""
    if _HIDDEN in request:
        return
    shown = {key: _shown(value) for key in _KEYS if (value := request.get(key))}
    hidden = {key: request[key] for key, value in shown.items() if value != request[key]}
    if hidden:
        request.update(shown)
        request[_HIDDEN] = _Hidden(hidden)


def query_of(request: Mapping[str, Any]) -> str:
    """Return the query of an environ or a scope as it arrived."""
    key = "query_string" if "query_string" in request else "QUERY_STRING"
    hidden = request.get(_HIDDEN)
    query: str | bytes = (request if hidden is None else hidden.values).get(key, "")
    return query.decode("latin-1") if isinstance(query, bytes) else query  # Django's test client passes text


def pass_on(request: MutableMapping[str, Any]) -> None:
    """Undo `hide_signature` for a request that turned out to be an ordinary one: its application gets it unchanged."""
    if _HIDDEN in request:
        request.update(request.pop(_HIDDEN).values)


def forget(request: MutableMapping[str, Any]) -> None:
    """Forget what `hide_signature` has hidden: the action must not find it."""
    request.pop(_HIDDEN, None)


def show_job(request: MutableMapping[str, Any], job_id: str) -> None:
    """Show that an environ or a scope is that of a verified worker request for this job or, with "", of a probe."""
    request[JOB_KEY] = job_id


def _shown(value: str | bytes) -> str | bytes:
    if isinstance(value, bytes):
        return without_signature(value.decode("latin-1")).encode("latin-1")
    return without_signature(value)
