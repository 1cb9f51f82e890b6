"""Absolute URLs of the application, as frameworks build them: checks the origin, and returns the part for the wire."""

from __future__ import annotations

import re
from typing import Final, Protocol, TypeGuard

from backjob.errors import InvalidRequest
from backjob.http.addresses import TCPAddress, origin_of
from backjob.http.serving import Serving
from backjob.http.targets import normalise

_ABSOLUTE: Final = re.compile(r"https?://", re.IGNORECASE)


class URL(Protocol):
    """A URL object whose ``str()`` is the URL, such as Starlette's."""

    @property
    def scheme(self) -> str: ...

    @property
    def netloc(self) -> str: ...

    @property
    def path(self) -> str: ...


def is_url(path: object) -> TypeGuard[str | URL]:
    """Return whether a ``path`` for ``start()`` is a `URL` or the text of an absolute one."""
    if isinstance(path, str):
        return _ABSOLUTE.match(path) is not None
    return all(hasattr(path, part) for part in ("scheme", "netloc", "path"))


def local_target(url: str | URL, here: Serving | None, base_url: str | None) -> str:
    """Return path and query of a URL of this application as they go on the wire.

    The origin (RFC 6454, section 4) must be that of the request being served, as the client sent it, or that of the base
    URL. The part that a proxy strips is removed: the path of the base URL, which the transport adds again, and the mount
    if the request being served came without it. Raises `InvalidRequest` ("path") for another origin or an invalid path.
    """
    text = str(url)
    found = _ABSOLUTE.match(text)
    if found is None:
        return normalise(text)
    end = re.compile("[/?#]|$").search(text, found.end())
    rest = "" if end is None else text[end.start() :]
    base = None if base_url is None else _origin(base_url)
    ours = {base, None if here is None else _origin(here.origin)}
    if origin_of("path", text[: len(text) - len(rest)]) not in ours - {None}:
        raise InvalidRequest(
            "path", "the URL must have the scheme and host of the request being served or of the base URL"
        )
    target = normalise(rest if rest.startswith("/") else f"/{rest}")
    prefix = prefix_of(base_url)
    if prefix and _is_below(target, prefix):
        return _below(target, prefix)
    mount = "" if here is None else here.mount
    if here is None or not mount or not _is_below(target, mount):
        return target
    return target if _is_below(here.request.path, mount) else _below(target, mount)


def prefix_of(base_url: str | None) -> str:
    """Return the path of a base URL, which the transport puts before each target: "" or "/…" without a slash at its end."""
    path = (base_url or "").partition("://")[2].partition("/")[2].rstrip("/")
    return f"/{path}" if path else ""


def _origin(url: str) -> tuple[str, TCPAddress] | None:
    try:
        return origin_of("path", url)
    except InvalidRequest:
        return None  # clients can send any Host


def _is_below(target: str, mount: str) -> bool:
    return f"{target.partition('?')[0]}/".startswith(f"{mount}/")


def _below(target: str, mount: str) -> str:
    rest = target.removeprefix(mount)
    return rest if rest.startswith("/") else f"/{rest}"
