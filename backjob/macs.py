"""HMAC-SHA-256 (RFC 2104) with keys that are used again and again."""

from __future__ import annotations

import hmac
from functools import lru_cache

__all__ = ["mac"]

_MOST_KEYS = 64


def mac(key: bytes, message: bytes) -> bytes:
    """Return the 32 bytes that ``hmac.digest(key, message, "sha256")`` returns.

    That looks up the algorithm and releases the interpreter's lock each time, which takes longer than the MAC of a short
    message. This copies what is prepared for the key.
    """
    keyed = _keyed(key).copy()
    keyed.update(message)
    return keyed.digest()


@lru_cache(_MOST_KEYS)
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")
