"""HMAC-SHA-256 (RFC 2104) with keys that are used again and again."""

from __future__ import annotations

import hmac
from binascii import b2a_base64
from functools import lru_cache

__all__ = ["mac", "url_safe"]

_MOST_KEYS = 64
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def mac(key: bytes, message: bytes) -> bytes:
    """Return the 32 bytes that ``hmac.digest(key, message, "sha256")`` returns.

    That looks up the algorithm and releases the interpreter's lock each time, which takes longer than the MAC of a short
    message. This copies what is prepared for the key.
    """
    keyed = _keyed(key).copy()
    keyed.update(message)
    return keyed.digest()


def url_safe(data: bytes) -> str:
    """Return bytes in base64 for URLs, without padding (RFC 4648, section 5)."""
    return b2a_base64(data, newline=False).translate(_URL_SAFE, b"=").decode()


@lru_cache(_MOST_KEYS)
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")
