"""Normalises request targets (RFC 3986), so that the path and query that were signed are those that arrive.

Pure functions over text. Errors name the argument of ``start()``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from backjob.errors import InvalidRequest
from backjob.http.values import pairs_of

# RFC 3986, section 3.3: pchar is unreserved (which quote() never escapes), sub-delims, ":" and "@".
_PATH_SAFE: Final = "/!$&'()*+,;=:@"
_QUERY_SAFE: Final = _PATH_SAFE + "?"
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPE: Final = re.compile(r"(%[0-9A-Fa-f]{2})")
_SLASH: Final = re.compile(r"/|%2[Ff]")
_NO_ESCAPES: Final = re.compile(r"[/A-Za-z0-9\-._~!$&'()*+,;=:@]*")
_PLAIN: Final = re.compile(r"[A-Za-z0-9\-._~]*")  # what quote() leaves as it is, which takes longer to say so


def canonical_path(decoded: bytes) -> str:
    """Encode a decoded path: pchar and ``/`` unchanged, every other byte as ``%XX`` (RFC 3986, section 3.3).

    Adapters rebuild the target with it if the server exposes only the decoded path.
    """
    return quote_from_bytes(decoded, safe=_PATH_SAFE)


def reproduces_itself(path: str) -> bool:
    """Return whether `canonical_path` restores this path after a server decoded it; with ``%2F`` and the like it does not."""
    return _NO_ESCAPES.fullmatch(path) is not None or canonical_path(unquote_to_bytes(path)) == path


def local_path(path: str) -> str:
    """Return a path that a browser requests from this host: two slashes, or a backslash, would begin another host.

    Without a slash at its end. Escapes stay as they are.
    """
    path = path.strip("/")
    return "/" + quote(path, safe=_PATH_SAFE + "%", errors="replace") if path else ""


def path_below(path: str, mount: str) -> str | None:
    """Return what follows the mount in a path, or None if the path is not below it. An empty mount contains every path."""
    rest = path.removeprefix(mount)
    return rest if path.startswith(mount) and rest[:1] in ("", "/") else None


def raw_end(path: str, slashes: int) -> str:
    """Return the end of an encoded path that decodes to a path with so many slashes; empty if the path has fewer."""
    places = [found.start() for found in _SLASH.finditer(path)]
    return path[places[-slashes] :] if 0 < slashes <= len(places) else ""


def mount_as_started(started: str, arrived: str) -> str:
    """Return the mount that an action sees: that of the starting request, of which a proxy may have stripped the beginning.

    Both are percent-encoded. ``arrived`` is the mount that the server shows at the worker request; if it is not the end of
    the other one, the job's path belongs to another mount, which stays.
    """
    return started if started.endswith(arrived) else arrived


def mount_left(mount: str, moved: str, path: str) -> tuple[str, str] | None:
    """Return SCRIPT_NAME and path of a request after the rest of its mount has been moved, or None if nothing is left to move.

    ``moved`` is the part that is in SCRIPT_NAME already. All are decoded.
    """
    left = path_below(mount, moved)
    below = path_below(path, left) if left else None
    return None if below is None else (mount, below)


def normalise(target: str) -> str:
    """Return a path, with or without a query, as it goes on the wire (RFC 3986, section 6.2.2). Idempotent.

    Escapes of unreserved characters are decoded, other escapes get upper-case digits; spaces, non-ASCII (as UTF-8) and
    other characters that a path can't contain are escaped; a ``?`` at the end is removed. Raises `InvalidRequest`
    ("path") unless the path begins with exactly one ``/``, and for fragments, control characters, dot segments (escaped
    ones too) and a ``%`` without two hexadecimal digits.
    """
    if not target.startswith("/"):
        raise InvalidRequest("path", "must begin with a slash: it is the path of a route of this application")
    if target.startswith("//"):
        raise InvalidRequest("path", "must not begin with two slashes, which would name another host")
    if "#" in target:
        raise InvalidRequest("path", "must not have a fragment, which is never sent; write %23 for a literal #")
    if _CONTROL.search(target):
        raise InvalidRequest("path", "contains a control character")
    path, _, query = target.partition("?")
    path = _escaped(path, _PATH_SAFE)
    # Decode first: some servers and proxies treat "%2F..%2F" as "/../".
    segments = unquote_to_bytes(path).split(b"/")
    if b"." in segments or b".." in segments:
        raise InvalidRequest("path", 'contains a "." or ".." segment; write the resulting path')
    return f"{path}?{_escaped(query, _QUERY_SAFE)}" if query else path


def join_query(params: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """Return the query, without ``?``, for names and values.

    They become text as in `backjob.http.values.pairs_of`, encoded in UTF-8. Raises `InvalidRequest` ("query") for other
    types.
    """
    return "&".join([f"{_quoted(name, name)}={_quoted(name, text)}" for name, text in pairs_of("query", params)])


def _escaped(part: str, safe: str) -> str:
    if _NO_ESCAPES.fullmatch(part):
        return part
    # split() with a group puts the escapes at odd indexes.
    parts = _ESCAPE.split(part)
    for index, text in enumerate(parts):
        if index % 2:
            byte = int(text[1:], 16)
            parts[index] = chr(byte) if byte in _UNRESERVED else text.upper()
        elif "%" in text:
            raise InvalidRequest("path", "a % must be followed by two hexadecimal digits; write %25 for a literal %")
        else:
            try:
                parts[index] = quote(text, safe=safe)
            except UnicodeEncodeError:
                raise InvalidRequest("path", "contains a lone surrogate, which UTF-8 can't encode") from None
    return "".join(parts)


def _quoted(name: str, text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidRequest("query", f"{name!r} contains a lone surrogate, which UTF-8 can't encode") from None
