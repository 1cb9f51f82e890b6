"""Shared by the parts of the signer contract: requests, a grant, and what the author of a signer implements."""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

import pytest
from attrs import evolve

from backjob.errors import SignatureError
from backjob.http.targets import normalise
from backjob.model import Grant, Headers, Request
from backjob.protocols import Signer, Verified


def at(timestamp: int) -> datetime:
    """Return the time of a timestamp (s)."""
    return datetime.fromtimestamp(timestamp, UTC)


CREATED: Final = 1_900_000_000
EXPIRES: Final = CREATED + 600
GRANT: Final = Grant("job-of_16-random-bytes", 2, 3, CREATED, EXPIRES)
NOW: Final = at(CREATED + 60)

PLAIN: Final = Request(
    "POST",
    "/reports/work?id=5&marker=QueryMarker",
    (("Host", "app.test"), ("Cookie", "session=HeaderMarker")),
    b'{"hello": 1}',
)
REQUESTS: Final = (
    Request("GET", "/"),
    Request("GET", "/reports/work"),
    PLAIN,
    Request("CHICKEN", "/farm", (), b"egg"),
    Request("DELETE", "/a-b_c.d~e/f;g=1,2/h:i@j!k$l&m'n(o)p*q+r"),
    Request("GET", normalise("/grüße/日本?größe=ß&x=a b")),
    Request("GET", "/file/a%2Fb%3Bc?d=%2F"),
    Request("GET", "/query?a=b?c/d&&e&=f&g=%26"),
    Request("PUT", "/bytes", (("X-Twice", "1"), ("x-twice", "2")), bytes(range(256)) * 100),
)
each_request = pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: f"{request.method} {request.target}")


class SignerCase:
    """A part of the contract. Implement ``make_signer``, ``make_stranger`` and ``secrets``."""

    def make_signer(self) -> Signer:
        """Return a signer. All of them have the same key."""
        raise NotImplementedError

    def make_stranger(self) -> Signer:
        """Return the same kind of signer with another key."""
        raise NotImplementedError

    def secrets(self) -> tuple[str, ...]:
        """Return what no repr and no error may show: the key of ``make_signer``, in all its spellings."""
        raise NotImplementedError

    def _signed(self, request: Request = PLAIN) -> Request:
        return self.make_signer().sign(request, GRANT)

    def _verified(self) -> Verified:
        return self.make_signer().verify(self._signed(), NOW)

    def _assert_refused(self, request: Request) -> None:
        signer = self.make_signer()
        assert signer.claims(request), "a changed request must not be treated as an ordinary one"
        with pytest.raises(SignatureError):
            signer.verify(request, NOW)


def added_query(signed: Request, request: Request) -> str:
    """Return what the signer has appended to the target of a request."""
    return signed.target[len(request.target) :]


def added_fields(signed: Request, request: Request) -> Headers:
    """Return the header fields that the signer has appended to a request."""
    return signed.headers[len(request.headers) :]


def with_added(signed: Request, request: Request, change: Callable[[str], str]) -> Iterator[Request]:
    """Yield the signed request with each value that the signer has added changed: of a query parameter, or of a field."""
    query = added_query(signed, request)
    parts = re.split("([?&=])", query)
    for place in range(0, len(parts), 2):
        if parts[place]:
            changed = "".join([*parts[:place], change(parts[place]), *parts[place + 1 :]])
            yield evolve(signed, target=request.target + changed)
    for place in range(len(request.headers), len(signed.headers)):
        name, value = signed.headers[place]
        yield evolve(signed, headers=(*signed.headers[:place], (name, change(value)), *signed.headers[place + 1 :]))


def flipped(text: str) -> Iterator[tuple[int, str]]:
    """Yield the text with each of its ASCII bits flipped, and the index of the changed character."""
    for place, character in enumerate(text):
        for bit in range(7):
            yield place, text[:place] + chr(ord(character) ^ 1 << bit) + text[place + 1 :]
