"""Settings, with the same names everywhere: ``BACKJOB_BASE_URL`` in Flask and the environment, ``BACKJOB["BASE_URL"]`` in Django.

`Settings.of` reads and checks them; `Settings.build` makes the `BackJob` that they describe.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from attrs import field, fields, frozen

from backjob.errors import InvalidRequest
from backjob.http.inherited import cookie_names, credential_names, forwarded_names
from backjob.http.public import public_url, trusted_origins
from backjob.jobs.options import logging_level
from backjob.protocols import Clock, Files, Signer, Store, Transport
from backjob.settings import readers
from backjob.settings.objects import attach_early, attach_left, is_name, named, with_dispatch
from backjob.signing import MessageSigner
from backjob.signing.keys import check_secret, derive_key, stretched
from backjob.stores import open_store
from backjob.stores.cached import CachedStore
from backjob.stores.caches import Cache
from backjob.stores.urls import StoreURL
from backjob.transports.sockets import SocketTransport

__all__ = ["Settings", "attach_early", "attach_left", "named"]

_T = TypeVar("_T")

_SECRET_PART: Final = re.compile("[@?#]")
_OPTIONS: Final = (
    "error_timeout",
    "delivery_timeout",
    "completed_retention_days",
    "retention_days",
    "max_output",
    "max_body",
    "max_headers",
    "max_depth",
    "max_chain",
    "merge_cookies",
    "forward_headers",
    "credential_headers",
    "user_agent",
    "status_prefix",
    "public_url",
    "trusted_origins",
    "page_template",
    "seal",
    "streams",
    "run_lease",
    "max_running",
    "queues",
    "deliver",
    "redispatch_after",
    "slice_time",
    "drain_time",
    "files",
    "max_file",
    "max_result",
    "show_errors",
    "capture_stderr",
    "capture_logging",
    "timestamp_output",
    "opentelemetry",
    "prometheus",
)


def _setting(read: Callable[[object], Any], *, show: Callable[[Any], str] = repr) -> Any:
    return field(default=None, metadata={"read": read}, repr=show)


def _without_secrets(url: str | None) -> str:
    """Show a URL, but only its scheme if it may have a password."""
    return repr(url) if url is None or not _SECRET_PART.search(url) else f"'{url.partition(':')[0][:20]}:…'"


@frozen(kw_only=True)
class Settings:
    """The settings. None: not set, so that the default of `BackJob` applies, or the adapter provides a value."""

    base_url: str | None = _setting(readers.text, show=_without_secrets)
    connect_to: str | None = _setting(readers.text, show=_without_secrets)
    store: str | None = _setting(readers.text, show=_without_secrets)
    table_name: str | None = _setting(readers.text)
    create_table: bool | None = _setting(readers.truth)
    cache: Cache | str | None = field(default=None, metadata={"read": readers.cache}, repr=False)
    cache_prefix: str | None = _setting(readers.text)
    key: str | bytes | None = field(default=None, metadata={"read": readers.secret}, repr=False)
    key_fallbacks: tuple[str | bytes, ...] | None = field(default=None, metadata={"read": readers.secrets}, repr=False)
    error_timeout: float | None = _setting(readers.seconds)
    delivery_timeout: float | None = _setting(readers.seconds)
    completed_retention_days: float | None = _setting(readers.number)
    retention_days: float | None = _setting(readers.number)
    max_output: int | None = _setting(readers.size)
    max_body: int | None = _setting(readers.size)
    max_headers: int | None = _setting(readers.size)
    max_depth: int | None = _setting(readers.count)
    max_chain: int | None = _setting(readers.count)
    merge_cookies: tuple[str, ...] | None = _setting(readers.names(cookie_names))
    forward_headers: tuple[str, ...] | None = _setting(readers.names(forwarded_names))
    credential_headers: tuple[str, ...] | None = _setting(readers.names(credential_names))
    user_agent: str | None = _setting(readers.text)
    status_prefix: str | None = _setting(readers.text)
    public_url: str | None = _setting(public_url)
    trusted_origins: tuple[str, ...] | None = _setting(readers.names(trusted_origins))
    page_template: str | None = _setting(readers.page_template)
    seal: bool | None = _setting(readers.truth)
    streams: int | None = _setting(readers.count)
    run_lease: float | None = _setting(readers.seconds)
    max_running: int | None = _setting(readers.count)
    queues: Mapping[str, Mapping[str, Any]] | None = _setting(readers.queues)
    deliver: tuple[str, ...] | None = _setting(readers.names(tuple))
    redispatch_after: float | None = _setting(readers.seconds)
    slice_time: float | None = _setting(readers.seconds)
    drain_time: float | None = _setting(readers.seconds)
    files: Files | str | None = field(default=None, metadata={"read": readers.files}, repr=False)
    max_file: int | None = _setting(readers.size)
    max_result: int | None = _setting(readers.size)
    show_errors: bool | None = _setting(readers.truth)
    capture_stderr: bool | None = _setting(readers.truth)
    capture_logging: int | None = _setting(logging_level)
    timestamp_output: bool | None = _setting(readers.truth)
    opentelemetry: bool | None = _setting(readers.truth)
    prometheus: bool | None = _setting(readers.truth)

    @classmethod
    def of(cls, values: Mapping[str, object], *, prefix: str = "", beside: Collection[str] = ()) -> Settings:
        """Read the settings from a mapping: those of its names that begin with the prefix. None means not set.

        Names ``beside`` belong to the adapter and are skipped; they may be suggested for a misspelled name. Raises
        `InvalidRequest` naming the setting for an unknown name, with a suggestion, and for an invalid value.
        """
        cls.check_names(values, prefix=prefix, beside=beside)
        found: dict[str, Any] = {}
        for attribute in fields(cls):
            name = prefix + attribute.name.upper()
            value = values.get(name)
            if value is None or name.removeprefix(prefix) in beside:
                continue
            try:
                found[attribute.name] = attribute.metadata["read"](value)
            except (ValueError, OverflowError) as error:
                raise InvalidRequest(name, str(error)) from None
        return cls(**found)

    @classmethod
    def check_names(cls, values: Mapping[str, object], *, prefix: str = "", beside: Collection[str] = ()) -> None:
        """Raise `InvalidRequest` for a name that `of` refuses, whatever the values."""
        known = [attribute.name for attribute in fields(cls)]
        for name, value in values.items():
            if not name.startswith(prefix) or value is None:
                continue
            short = name.removeprefix(prefix)
            if short not in beside and not (short.isupper() and short.lower() in known):
                raise InvalidRequest(name, f"unknown setting; {_suggestion(short, (*known, *beside), prefix)}")

    def build(
        self,
        make: Callable[..., _T],
        *,
        secret: str | bytes | None = None,
        secret_fallbacks: Iterable[str | bytes] = (),
        package: str,
        application: str,
        default_store: Callable[[], str],
        store: Store | None = None,
        transport: Transport | Callable[[str], Transport] | None = None,
        signer: Signer | None = None,
        clock: Clock | None = None,
        debug: bool = False,
        **options: Any,
    ) -> _T:
        """Call ``make`` with the arguments of `BackJob` that these settings describe, and ``options``.

        ``secret`` is the framework's secret; without a key setting, the key is derived from it, labelled with ``package``
        and ``application``. Fallbacks that are too weak are left out. What is passed here takes precedence; a cache goes in
        front of any store. With ``debug`` a weak key is used, with a warning, and visitors see unexpected errors. Raises
        `InvalidRequest`, and what the store's constructor raises.
        """
        if transport is None:
            transport = self._transport()
        if signer is None:
            signer = self._signer(secret, tuple(secret_fallbacks), package, application, debug=debug)
        given = {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}
        if isinstance(self.files, str) and is_name(self.files):
            found = named(self.files, "FILES")
            if not isinstance(found, Files):
                raise InvalidRequest("FILES", f"{self.files} has no methods write, open and delete")
            given["files"] = found
        if self.queues is not None:
            given["queues"] = {name: with_dispatch(settings) for name, settings in self.queues.items()}
        opened = self._store(default_store, store, clock)
        try:
            return make(
                store=opened,
                transport=transport,
                signer=signer,
                clock=clock,
                **{"show_errors": debug} | given | options,
            )
        except BaseException:
            if store is None:
                opened.close()
            raise

    def _store(self, default_store: Callable[[], str], given: Store | None, clock: Clock | None) -> Store:
        url = self._store_url(default_store) if given is None else ""
        if self.cache is None:
            if self.cache_prefix is not None:
                raise InvalidRequest("CACHE_PREFIX", "needs CACHE: it is the prefix of the keys there")
            if url == "cache:":
                raise InvalidRequest("store", "is cache:, which needs CACHE, the cache that keeps the jobs")
            return open_store(url, clock=clock) if given is None else given
        cache = self._found_cache(self.cache)
        prefix: dict[str, Any] = {} if self.cache_prefix is None else {"prefix": self.cache_prefix}
        store: Store | None = None
        try:
            if given is None and url.partition("?")[0] == "cache:":
                StoreURL.parse(url).arguments({})
                from backjob.stores.cache import CacheStore  # noqa: PLC0415 - only for this setting

                return CacheStore(cache, clock=clock, **prefix)
            store = open_store(url, clock=clock) if given is None else given
            return CachedStore(store, cache, clock=clock, **prefix)
        except InvalidRequest as error:
            if store is not None and store is not given:
                store.close()
            if error.argument == "prefix":
                raise InvalidRequest("CACHE_PREFIX", error.reason) from None
            raise

    def _found_cache(self, cache: Cache | str) -> Cache:
        found = named(cache, "CACHE") if isinstance(cache, str) else cache
        if not isinstance(found, Cache):
            raise InvalidRequest(
                "CACHE", f"{type(found).__qualname__} is not a cache: it needs get, set, add and delete"
            )
        return found

    def _store_url(self, default_store: Callable[[], str]) -> str:
        url = default_store() if self.store is None else self.store
        given = {
            "table_name": self.table_name,
            "create_table": None if self.create_table is None else ("yes" if self.create_table else "no"),
        }
        options = urlencode({name: value for name, value in given.items() if value is not None})
        return f"{url}{'&' if '?' in url else '?'}{options}" if options else url

    def _transport(self) -> Transport | Callable[[str], Transport]:
        connect_to = self.connect_to
        if self.base_url is not None:
            return SocketTransport(self.base_url, connect_to)
        if connect_to is not None:
            raise InvalidRequest("CONNECT_TO", "needs BASE_URL, for the Host header")
        return SocketTransport

    def _signer(
        self,
        secret: str | bytes | None,
        fallbacks: tuple[str | bytes, ...],
        package: str,
        application: str,
        *,
        debug: bool,
    ) -> MessageSigner:
        if self.key is not None:
            key = stretched(self.key, "KEY") if debug else self.key
            return MessageSigner(key, fallbacks=self.key_fallbacks or ())
        if secret is None:
            raise InvalidRequest("KEY", "is not set, and there is no secret to derive a key from")
        if debug:
            secret = stretched(secret, "SECRET_KEY")
        # A weak secret has never signed a worker request, so there is nothing to verify with it.
        derived = [
            derive_key(one, package=package, application=application, argument="SECRET_KEY")
            for one in (secret, *filter(_is_strong, fallbacks))
        ]
        return MessageSigner(derived[0], fallbacks=(*derived[1:], *(self.key_fallbacks or ())))


def _is_strong(secret: str | bytes) -> bool:
    try:
        check_secret(secret, "SECRET_KEY")
    except InvalidRequest:
        return False
    return True


def _suggestion(name: str, known: Iterable[str], prefix: str) -> str:
    names = sorted(one.upper() for one in known)
    close = difflib.get_close_matches(name.upper(), names, n=1)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return "known settings: " + ", ".join(prefix + one for one in names)
