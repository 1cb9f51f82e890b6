"""Where jobs are kept: `open_store` finds the store for a URL. A store's driver is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final, cast

from backjob.errors import InvalidRequest
from backjob.protocols import Clock, Store
from backjob.stores.urls import StoreURL

__all__ = ["open_store"]

_MODULES: Final[Mapping[str, str]] = {
    "memory": "backjob.stores.memory",
    "sqlite": "backjob.stores.sqlite",
}
"""URL scheme → the module whose ``from_url`` opens it; the module raises `MissingExtra` where its driver is absent."""


def open_store(url: str, *, clock: Clock | None = None) -> Store:
    """The store a URL names.

    ``memory:`` keeps jobs in this process alone. ``sqlite:///jobs.db`` is a file relative to the current directory,
    ``sqlite:////var/lib/app/jobs.db`` an absolute one; reserved characters in it are percent-encoded. Options follow a
    ``?`` and carry the names of the constructor's arguments: ``sqlite:///jobs.db?durability=power&table_name=work``.

    ``clock`` is the store's time where it has none of its own; by default the computer's.

    Raises `InvalidRequest` for a URL or an option that is not known, `MissingExtra` where the driver is not installed,
    and `StoreUnusable` or `StoreUnavailable` as the store's constructor does.
    """
    parsed = StoreURL.parse(url)
    module = _MODULES.get(parsed.scheme)
    if module is None:
        known = ", ".join(sorted(_MODULES))
        raise InvalidRequest("store", f"no store is known by the scheme {parsed.scheme!r}; known are: {known}")
    opener = cast("Callable[[StoreURL, Clock | None], Store]", import_module(module).from_url)
    return opener(parsed, clock)
