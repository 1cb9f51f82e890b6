"""The application's public URL, and the other origins whose pages may use the status routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from backjob.errors import InvalidRequest
from backjob.http.addresses import parse_base_url

_ORIGIN: Final = re.compile(r"(https?://[^/?#@]+)", re.IGNORECASE)
_EXAMPLE: Final = '"https://app.example.com"'


def public_url(url: object) -> str:
    """Return a URL of the application as browsers see it, without a slash at its end. Raises `ValueError`.

    It has scheme, host and the path under which the application is mounted.
    """
    if not isinstance(url, str):
        raise ValueError(f"must be text, not {url!r}")  # noqa: TRY004 - one error for all invalid values
    try:
        base = parse_base_url(url)
    except InvalidRequest as error:
        raise ValueError(error.reason) from None
    return str(base)


def trusted_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """Return origins as browsers write them: in lower case and without a default port. Raises `ValueError`."""
    if isinstance(origins, str | bytes) or not isinstance(origins, Iterable):
        raise ValueError(f"must be a list of origins, such as {_EXAMPLE}")  # noqa: TRY004
    return tuple(_origin(origin) for origin in origins)


def _origin(origin: object) -> str:
    if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin) or "*" in origin:
        raise ValueError(
            f"{origin!r} is not an origin: scheme and host, such as {_EXAMPLE}, without a path or wildcard"
        )
    return origin_of_url(public_url(origin))


def origin_of_url(url: str) -> str:
    """Return scheme, host and port of a URL that `public_url` has returned."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}".lower()
