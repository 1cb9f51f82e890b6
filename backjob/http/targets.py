"""Request targets: one spelling for each path and query (RFC 3986), so that what was signed is what arrives.

Pure functions over text. Errors name the argument of ``start()`` that the developer wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes
from uuid import UUID

from backjob.errors import InvalidRequest

__all__ = ["canonical_path", "join_query", "normalise", "reproduces_itself"]

# RFC 3986, section 3.3: pchar is unreserved (which quote() never escapes), sub-delims, ":" and "@".
_PATH_SAFE: Final = "/!$&'()*+,;=:@"
_QUERY_SAFE: Final = _PATH_SAFE + "?"
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPE: Final = re.compile(r"(%[0-9A-Fa-f]{2})")
_NO_ESCAPES: Final = re.compile(r"[/A-Za-z0-9\-._~!$&'()*+,;=:@]*")


def canonical_path(decoded: bytes) -> str:
    """The one spelling of a decoded path: pchar and ``/`` as they are, every other byte as ``%XX`` (RFC 3986, 3.3).

    It is what an adapter rebuilds a target from where the server shows nothing but the decoded path.
    """
    return quote_from_bytes(decoded, safe=_PATH_SAFE)


def reproduces_itself(path: str) -> bool:
    """Whether `canonical_path` gives this very path back once a server has decoded it; ``%2F`` and the like don't."""
    return _NO_ESCAPES.fullmatch(path) is not None or canonical_path(unquote_to_bytes(path)) == path


def normalise(target: str) -> str:
    """A path, with a query of its own or without, as it goes on the wire (RFC 3986, section 6.2.2).

    Escapes get upper-case digits, or are undone where they stand for an unreserved character; spaces, non-ASCII (as
    UTF-8) and what no path may contain are escaped; a ``?`` with nothing behind it is dropped. Doing it twice changes
    nothing more. Raises `InvalidRequest` ("path") for anything that begins otherwise than with one ``/``, and for
    fragments, control characters, dot segments (escaped ones too) and a ``%`` that begins no escape.
    """
    if not target.startswith("/"):
        raise InvalidRequest("path", "must begin with a slash: the path of a route of this application, not a URL")
    if target.startswith("//"):
        raise InvalidRequest("path", "begins with two slashes, which names another host")
    if "#" in target:
        raise InvalidRequest("path", "a fragment is never sent; write %23 for a # that is meant")
    if _CONTROL.search(target):
        raise InvalidRequest("path", "contains a control character")
    path, _, query = target.partition("?")
    path = _escaped(path, _PATH_SAFE)
    # Decoded as a whole: servers and proxies exist that treat "%2F..%2F" as they treat "/../".
    if any(segment in (b".", b"..") for segment in unquote_to_bytes(path).split(b"/")):
        raise InvalidRequest("path", 'contains a "." or ".." segment; write the path it stands for')
    return f"{path}?{_escaped(query, _QUERY_SAFE)}" if query else path


def join_query(params: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """A query, without its ``?``, from names and values; empty if nothing is left.

    Lists and tuples repeat their name, None is left out, also within them. Text, numbers, booleans (``true`` and
    ``false``), dates and times (ISO 8601), UUIDs and members of enumerations (their values) become text in UTF-8.
    Raises `InvalidRequest` ("query") for everything else.
    """
    pairs: list[str] = []
    for name, value in params.items() if isinstance(params, Mapping) else params:
        if not isinstance(name, str):
            raise InvalidRequest("query", f"names are text, and {name!r} is none")
        values = value if isinstance(value, list | tuple) else (value,)
        pairs.extend(
            f"{_quoted(name, name)}={_quoted(name, _text(name, single))}" for single in values if single is not None
        )
    return "&".join(pairs)


def _escaped(part: str, safe: str) -> str:
    # split() with a group puts the escapes at the odd places.
    pieces = _ESCAPE.split(part)
    for place, piece in enumerate(pieces):
        if place % 2:
            byte = int(piece[1:], 16)
            pieces[place] = chr(byte) if byte in _UNRESERVED else piece.upper()
        elif "%" in piece:
            raise InvalidRequest("path", "a % must begin an escape of two hexadecimal digits; write %25 for the sign")
        else:
            try:
                pieces[place] = quote(piece, safe=safe)
            except UnicodeEncodeError:
                raise InvalidRequest("path", "contains a lone surrogate, which UTF-8 can't carry") from None
    return "".join(pieces)


def _quoted(name: str, text: str) -> str:
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidRequest("query", f"{name!r} contains a lone surrogate, which UTF-8 can't carry") from None


def _text(name: str, value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float | Decimal | UUID):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    raise InvalidRequest(
        "query", f"{name!r} is a {type(value).__name__}; text, numbers, dates or lists of them can be sent"
    )
