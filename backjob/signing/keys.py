"""Checks secrets, and derives a key for each purpose from them (HMAC-SHA-256)."""

from __future__ import annotations

import base64
import hmac
import logging
import os
import re
import secrets
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final

from backjob.errors import InvalidRequest

MIN_SECRET: Final = 32
"""Bytes that a secret has at least: as many as a digest of SHA-256 (RFC 2104, section 3)."""

_log = logging.getLogger("backjob")

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
_SUSPICIOUS: Final = re.compile(
    "change|secret|password|passwd|default|insecure|example|placeholder|replace|qwerty|letmein|test|dev|dummy"
)
_FILLERS: Final = re.compile(
    "characters|placeholder|production|development|insecure|password|minimum|example|default|replace|"
    "backjob|letmein|django|change|string|secret|random|please|passwd|should|qwerty|really|bytes|least|super|"
    "enough|flask|value|dummy|token|here|with|keep|very|this|that|long|your|some|must|test|safe|only|bits|"
    "chars|app|for|key|the|not|dev|now|use|be|me|my|is|it|in|at|to|of|an|so|do|[^a-z0-9]|123456789|12345|256|32"
)
_MIN_REST: Final = 16


def check_secret(secret: str | bytes, argument: str) -> bytes:
    """Return the secret as bytes (text as UTF-8).

    Raises `InvalidRequest`, naming ``argument``, for a secret that an attacker could guess: shorter than 32 bytes, a
    pattern or sequence, a placeholder, or printed in documentation. The message never shows the secret.
    """
    if not isinstance(secret, str | bytes):
        raise InvalidRequest(argument, f"must be text or bytes, not {type(secret).__name__}; {_ADVICE}")
    try:
        raw = secret.encode() if isinstance(secret, str) else secret
    except UnicodeEncodeError:
        raise InvalidRequest(argument, "contains a lone surrogate, which UTF-8 can't encode") from None
    if len(raw) < MIN_SECRET:
        raise InvalidRequest(
            argument, f"is too short: {len(raw)} bytes, and at least {MIN_SECRET} are needed; {_ADVICE}"
        )
    if _is_published(raw) or _is_placeholder(raw.decode("latin-1").lower()):
        raise InvalidRequest(argument, f"is a well-known secret or a placeholder; {_ADVICE}")
    if _is_pattern(raw):
        raise InvalidRequest(argument, f"is a pattern that can be guessed; {_ADVICE}")
    return raw


def derive_key(secret: str | bytes, *, package: str, application: str, argument: str = "key") -> bytes:
    """Derive a 32-byte key for an adapter from the framework's secret. It is independent of all other derived keys.

    ``package`` is the adapter's name (``"backjob.flask"``), ``application`` that of the application. Raises
    `InvalidRequest`, naming ``argument``, for a secret that `check_secret` refuses.
    """
    raw = check_secret(secret, argument)
    label = b"".join(len(part).to_bytes(4, "big") + part for part in (package.encode(), application.encode()))
    return hmac.digest(raw, b"backjob:key:" + label, "sha256")


def secret_file(path: str | os.PathLike[str]) -> str:
    """Return the secret that the file contains, creating it with a new random secret if there is none.

    All processes of a machine that start with the same file get the same secret, also if they start at once. Only the
    file's owner can read it (mode 0600). Raises `OSError` if it can't be read or created.
    """
    file = Path(path)
    if not file.exists():
        import tempfile  # noqa: PLC0415 - takes its time to import, for what happens once

        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, complete = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
        try:
            with open(descriptor, "w", encoding="ascii") as new:  # noqa: PTH123 - of a descriptor
                new.write(secrets.token_urlsafe(MIN_SECRET))
            with suppress(FileExistsError):  # of several processes one wins, and no process sees half of a file
                os.link(complete, file)
        finally:
            Path(complete).unlink()
    return file.read_text(encoding="ascii").strip()


def stretched(secret: str | bytes, argument: str) -> str | bytes:
    """Return a secret that `check_secret` accepts: this one, or after a warning its digest. For development only.

    Raises `InvalidRequest`, naming ``argument``, if the secret is empty or not a secret at all.
    """
    try:
        check_secret(secret, argument)
    except InvalidRequest as error:
        try:
            raw = secret.encode() if isinstance(secret, str) else bytes(secret)
        except (TypeError, UnicodeEncodeError):
            raise error from None
        if not raw:
            raise
        _log.warning("%s; accepted only in debug mode: otherwise start() raises this error", error)
        return hmac.digest(raw, b"backjob:debug", "sha256")
    return secret


def subkey(key: bytes, label: str) -> bytes:
    """Derive the 32-byte key for the purpose ``label``. It reveals nothing about ``key``."""
    return hmac.digest(key, b"backjob:derive:" + label.encode(), "sha256")


def key_id(key: bytes) -> str:
    """Return 12 URL-safe characters (72 bits) that distinguish keys and reveal nothing about them."""
    return base64.urlsafe_b64encode(hmac.digest(key, b"backjob:keyid", "sha256")[:9]).decode()


def _is_published(raw: bytes) -> bool:
    return (
        raw in _PUBLISHED_BYTES
        or raw.startswith(tuple(prefix.encode() for prefix in _PUBLISHED_PREFIXES))
        or (_PUBLISHED[0].encode() in raw)
    )


def _is_placeholder(text: str) -> bool:
    if not _SUSPICIOUS.search(text):
        return False
    rest = _FILLERS.sub("", text)
    return len(rest) < _MIN_REST or _is_pattern(rest.encode())


def _is_pattern(raw: bytes) -> bool:
    """Few different bytes, mostly one byte, a rising or falling run, or a part that is repeated."""
    if len(set(raw)) < 6 or Counter(raw).most_common(1)[0][1] > len(raw) // 2:
        return True
    steps = sum(abs(after - before) <= 1 for before, after in pairwise(raw))
    if steps > len(raw) * 2 // 3:
        return True
    return any(raw[period:] == raw[:-period] for period in range(1, len(raw) // 2 + 1))
