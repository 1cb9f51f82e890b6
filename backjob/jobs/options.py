"""The arguments of `BackJob`, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeGuard

from attrs import Attribute, field, frozen

from backjob.clock import SystemClock
from backjob.errors import InvalidRequest
from backjob.http.arguments import MAX_HEADERS, check_number, check_value
from backjob.http.inherited import cookie_names, credential_names, forwarded_names
from backjob.model import JobState
from backjob.protocols import Clock, Signer, Store, Transport

SHORTEST_TIMEOUT: Final = 0.001
"""Seconds, for ``error_timeout``."""


def _number(default: float, least: float = 0) -> Any:
    def check(_options: object, attribute: Attribute[float], value: object) -> None:
        check_number(attribute.name, value, least)

    return field(default=default, validator=check)


def _check_count(_options: object, attribute: Attribute[int | None], value: object) -> None:
    if value is not None or attribute.default is not None:
        check_number(attribute.name, value, 0, whole=True)


def _count(default: int | None) -> Any:
    return field(default=default, validator=_check_count)


def _names(argument: str, read: Callable[[Iterable[str]], tuple[str, ...]], names: Iterable[str]) -> tuple[str, ...]:
    try:
        return read(names)
    except ValueError as error:
        raise InvalidRequest(argument, str(error)) from None


def _merge_cookies(names: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if names is None else _names("merge_cookies", cookie_names, names)


def _forward_headers(names: Iterable[str]) -> tuple[str, ...]:
    return _names("forward_headers", forwarded_names, names)


def _credential_headers(names: Iterable[str]) -> tuple[str, ...]:
    return _names("credential_headers", credential_names, names)


def _check_user_agent(_options: object, _attribute: object, value: str | None) -> None:
    if value is not None:
        check_value("user_agent", "User-Agent", value)


def is_status_prefix(value: object) -> TypeGuard[str]:
    """Whether this can be a ``status_prefix``."""
    return isinstance(value, str) and value.startswith("/") and not value.endswith("/") and "//" not in value


def _check_prefix(_options: object, _attribute: object, value: str) -> None:
    if not is_status_prefix(value):
        raise InvalidRequest("status_prefix", f"must begin with a slash and not end with one, not {value!r}")


def _clock(clock: Clock | None) -> Clock:
    return clock or SystemClock()


@frozen(kw_only=True)
class Options:
    """The arguments of `BackJob`. Raises `InvalidRequest` naming the one that is invalid."""

    store: Store
    transport: Transport | Callable[[str], Transport]
    signer: Signer
    owner: Callable[[Any], str | None] | None = None
    status_prefix: str = field(default="/backjob", validator=_check_prefix)
    error_timeout: float = _number(60, SHORTEST_TIMEOUT)
    run_lease: float = _number(18, 0.5)
    delivery_timeout: float = _number(600, 1)
    completed_retention_days: float = _number(30)
    retention_days: float = _number(60)
    max_output: int = _count(1 << 20)
    max_body: int = _count(1 << 20)
    max_headers: int = _count(MAX_HEADERS)
    max_depth: int = _count(32)
    max_chain: int = _count(10_000)
    merge_cookies: tuple[str, ...] | None = field(default=None, converter=_merge_cookies)
    forward_headers: tuple[str, ...] = field(default=(), converter=_forward_headers)
    credential_headers: tuple[str, ...] = field(default=(), converter=_credential_headers)
    user_agent: str | None = field(default=None, validator=_check_user_agent)
    on_end: Callable[[JobState], object] | None = None
    seal: bool = False
    streams: int | None = _count(None)
    clock: Clock = field(default=None, converter=_clock)
