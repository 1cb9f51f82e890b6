"""Secrets: which are refused, and how a key for each purpose is derived from one of them (HMAC-SHA-256)."""

from __future__ import annotations

import base64
import hmac
import re
from collections import Counter
from itertools import pairwise
from typing import Final

from backjob.errors import InvalidRequest

__all__ = ["SHORTEST", "check_secret", "derive_key", "key_id", "subkey"]

SHORTEST: Final = 32
"""Bytes of the shortest secret: as long as the digest of SHA-256 (RFC 2104, section 3)."""

_ADVICE: Final = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"

_PUBLISHED_PREFIXES: Final = ("django-insecure-",)
_PUBLISHED: Final = (
    "sjs&sk&F89fksL*987sdKf",  # the default of the Yii extension BackJob
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",  # Flask's documentation
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # FastAPI's documentation
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==",  # RFC 9421, B.1.5
)
_PUBLISHED_BYTES: Final = frozenset(
    {text.encode() for text in _PUBLISHED} | {base64.b64decode(_PUBLISHED[3]), *map(bytes.fromhex, _PUBLISHED[1:3])}
)
_ALARMING: Final = re.compile(
    "change|secret|password|passwd|default|insecure|example|placeholder|replace|qwerty|letmein|test|dev|dummy"
)
_FILLERS: Final = re.compile(
    "characters|placeholder|production|development|insecure|password|minimum|example|default|replace|"
    "backjob|letmein|django|change|string|secret|random|please|passwd|should|qwerty|really|bytes|least|super|"
    "enough|flask|value|dummy|token|here|with|keep|very|this|that|long|your|some|must|test|safe|only|bits|"
    "chars|app|for|key|the|not|dev|now|use|be|me|my|is|it|in|at|to|of|an|so|do|[^a-z0-9]|123456789|12345|256|32"
)
_ENOUGH_LEFT: Final = 16


def check_secret(secret: str | bytes, argument: str) -> bytes:
    """The secret as bytes (text as UTF-8), unless an attacker could guess it: then `InvalidRequest` names ``argument``.

    Refused are secrets of fewer than 32 bytes, patterns and sequences, placeholders, and those printed in
    documentation. The message never shows the secret.
    """
    if not isinstance(secret, str | bytes):
        raise InvalidRequest(argument, f"a secret is text or bytes, not {type(secret).__name__}; {_ADVICE}")
    try:
        raw = secret.encode() if isinstance(secret, str) else secret
    except UnicodeEncodeError:
        raise InvalidRequest(argument, "contains a lone surrogate, which UTF-8 can't carry") from None
    if len(raw) < SHORTEST:
        raise InvalidRequest(argument, f"{len(raw)} bytes are too short for a secret, {SHORTEST} it must be; {_ADVICE}")
    if _is_published(raw) or _is_placeholder(raw.decode("latin-1").lower()):
        raise InvalidRequest(argument, f"this secret is well known, or a placeholder for one; {_ADVICE}")
    if _is_pattern(raw):
        raise InvalidRequest(argument, f"this secret is a pattern that can be guessed; {_ADVICE}")
    return raw


def derive_key(secret: str | bytes, *, package: str, application: str, argument: str = "key") -> bytes:
    """A 32-byte key of an adapter's own, from the framework's secret: it opens nothing else, nor does another open it.

    ``package`` is the adapter's (``"backjob.flask"``), ``application`` the application's name. The raw secret is checked
    first, and `InvalidRequest` names it by ``argument``.
    """
    raw = check_secret(secret, argument)
    label = b"".join(len(part).to_bytes(4, "big") + part for part in (package.encode(), application.encode()))
    return hmac.digest(raw, b"backjob:key:" + label, "sha256")


def subkey(key: bytes, label: str) -> bytes:
    """The 32-byte key for the purpose that the label names; it tells nothing about ``key``."""
    return hmac.digest(key, b"backjob:derive:" + label.encode(), "sha256")


def key_id(key: bytes) -> str:
    """12 characters (72 bits, URL-safe) that tell keys apart, and nothing about them."""
    return base64.urlsafe_b64encode(hmac.digest(key, b"backjob:keyid", "sha256")[:9]).decode()


def _is_published(raw: bytes) -> bool:
    return (
        raw in _PUBLISHED_BYTES
        or raw.startswith(tuple(prefix.encode() for prefix in _PUBLISHED_PREFIXES))
        or (_PUBLISHED[0].encode() in raw)
    )


def _is_placeholder(text: str) -> bool:
    if not _ALARMING.search(text):
        return False
    rest = _FILLERS.sub("", text)
    return len(rest) < _ENOUGH_LEFT or _is_pattern(rest.encode())


def _is_pattern(raw: bytes) -> bool:
    """Few different bytes, or most of them one byte, or a run up or down, or a piece repeated twice and more."""
    if len(set(raw)) < 6 or Counter(raw).most_common(1)[0][1] > len(raw) // 2:
        return True
    steps = sum(abs(after - before) <= 1 for before, after in pairwise(raw))
    if steps > len(raw) * 2 // 3:
        return True
    return any(raw[period:] == raw[:-period] for period in range(1, len(raw) // 2 + 1))
