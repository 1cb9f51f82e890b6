"""The arguments of `BackJob`, checked."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import iscoroutinefunction
from typing import Any, Final, TypeAlias, TypeGuard, TypeVar

from attrs import Attribute, field, frozen

from backjob.clock import SystemClock
from backjob.errors import InvalidRequest
from backjob.files import DirectoryFiles
from backjob.http.arguments import MAX_HEADERS, check_label, check_number, check_value
from backjob.http.inherited import cookie_names, credential_names, forwarded_names
from backjob.http.public import public_url, trusted_origins
from backjob.model import JobState, check_duration, in_seconds
from backjob.protocols import Capability, Clock, Files, Signer, Store, Transport, lacks
from backjob.worker.running import CaptureOptions

_T = TypeVar("_T")

Hook: TypeAlias = Callable[[Any], _T | Awaitable[_T]]
"""A function of the application that gets the framework's request. It may be async."""

SHORTEST_TIMEOUT: Final = 0.001
"""Seconds, for ``error_timeout``; 0 means none."""
_SHORTEST_LEASE: Final = 0.5
_LONGEST_QUEUE: Final = 100
"""Bytes. The name of a slot has a number added, and fits into 128 characters."""
LOSES_JOBS: Final = (
    "this store may lose jobs, and the files of lost jobs could never be deleted: keep jobs in a database or in Redis"
)
"""Why a store without `Capability.RETENTION` keeps no files."""
_LARGEST_FILE: Final = 1 << 50
_MOST_SLOTS: Final = 10_000
_MOST_DAYS: Final = 1_000_000
"""Of retention. Stores compute the moment so many days ago, and look for files by it."""
_QUEUES_EXAMPLE: Final = '{"exports": {"max_running": 2}}'
_QUEUE_SETTINGS: Final = ("dispatch", "max_running")


def _at_least(least: float) -> Callable[[object, Attribute[Any], object], None]:
    def check(_options: object, attribute: Attribute[Any], value: object) -> None:
        check_duration(attribute.name, value, least)

    return check


def _check_days(_options: object, attribute: Attribute[float], value: object) -> None:
    check_number(attribute.name, value, 0, most=_MOST_DAYS)


def _days(default: float) -> Any:
    return field(default=default, validator=_check_days)


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


def _trusted_origins(origins: Iterable[str]) -> tuple[str, ...]:
    return _names("trusted_origins", trusted_origins, origins)


def _page_template(path: str | os.PathLike[str] | None) -> str | None:
    if path is None:
        return None
    from backjob.status.page import read_page_template  # noqa: PLC0415 - it loads the page, and few sites have their own

    try:
        return read_page_template(path)
    except ValueError as error:
        raise InvalidRequest("page_template", str(error)) from None


def _public_url(url: str | None) -> str | None:
    try:
        return None if url is None else public_url(url)
    except ValueError as error:
        raise InvalidRequest("public_url", str(error)) from None


def _check_user_agent(_options: object, _attribute: object, value: str | None) -> None:
    if value is not None:
        check_value("user_agent", "User-Agent", value)


def _check_max_running(_options: object, _attribute: object, value: int | None) -> None:
    if value is not None:
        check_number("max_running", value, 1, whole=True)


def queue_limits(queues: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return the ``max_running`` of each queue that has one. Raises `InvalidRequest` for an invalid ``queues``."""
    if not isinstance(queues, Mapping):
        raise InvalidRequest("queues", f"must map names to settings, such as {_QUEUES_EXAMPLE}, not {queues!r}")
    limits: dict[str, int] = {}
    for name, settings in queues.items():
        check_queue(name, "queues")
        if not isinstance(settings, Mapping):
            raise InvalidRequest("queues", f"{name!r} must have a mapping of settings, such as {_QUEUES_EXAMPLE}")
        unknown = next((key for key in settings if key not in _QUEUE_SETTINGS), None)
        if unknown is not None:
            known = ", ".join(_QUEUE_SETTINGS)
            raise InvalidRequest("queues", f"{name!r} has the unknown setting {unknown!r}; known: {known}")
        if "max_running" in settings:
            value = settings["max_running"]
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_SLOTS:
                reason = f"max_running of {name!r} must be a whole number from 1 to {_MOST_SLOTS}, not {value!r}"
                raise InvalidRequest("queues", reason)
            limits[name] = value
    return limits


def queue_engines(queues: Mapping[str, Mapping[str, Any]]) -> dict[str, Callable[[str], object]]:
    """Return the ``dispatch`` of each queue that an engine carries. Raises `InvalidRequest` for one that can't be called."""
    engines = {name: settings["dispatch"] for name, settings in queues.items() if "dispatch" in settings}
    for name, dispatch in engines.items():
        if not callable(dispatch):
            reason = f"dispatch of {name!r} must be a function that takes the id of a job, not {dispatch!r}"
            raise InvalidRequest("queues", reason)
        if iscoroutinefunction(dispatch) or iscoroutinefunction(getattr(dispatch, "__call__", None)):  # noqa: B004
            raise InvalidRequest("queues", f"dispatch of {name!r} must not be async: it is called in a thread")
    return engines


def attach(engines: Iterable[object], jobs: object) -> None:
    """Tell each ``dispatch`` that has a method ``attach(jobs)`` whose jobs it hands over. It may be told more than once."""
    for dispatch in engines:
        told = getattr(dispatch, "attach", None)
        if told is not None:
            told(jobs)


def _deliver(queues: Iterable[str] | None) -> frozenset[str] | None:
    if queues is None:
        return None
    if isinstance(queues, str) or not isinstance(queues, Iterable):
        raise InvalidRequest("deliver", f"must be a list of names of queues, not {queues!r}")
    return frozenset([check_queue(queue, "deliver") for queue in queues])


def check_queue(name: object, argument: str = "queue") -> str:
    """Return the name of a queue. Raises `InvalidRequest` naming the argument."""
    if not isinstance(name, str) or not name:
        raise InvalidRequest(argument, f"the name of a queue must be text that is not empty, not {name!r}")
    checked = check_label(argument, name)
    if len(checked.encode()) > _LONGEST_QUEUE:
        raise InvalidRequest(argument, f"the name of a queue must have at most {_LONGEST_QUEUE} bytes")
    return checked


def logging_level(value: object) -> int:
    """Return a level of `logging`, given by its name or number. Raises `ValueError`."""
    names = logging.getLevelNamesMapping()
    if isinstance(value, str):
        level = int(value) if value.isdecimal() else names.get(value.upper(), 0)
    else:
        level = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if level < 1:
        raise ValueError(f"must be the name or number of a level of logging, such as INFO, not {value!r}")
    return level


def _logging(value: object) -> int | None:
    try:
        return None if value is None else logging_level(value)
    except ValueError as error:
        raise InvalidRequest("capture_logging", str(error)) from None


def _check_queues(_options: object, _attribute: object, value: Mapping[str, Mapping[str, Any]]) -> None:
    queue_limits(value)
    queue_engines(value)


def is_status_prefix(value: object) -> TypeGuard[str]:
    """Whether this can be a ``status_prefix``."""
    return isinstance(value, str) and value.startswith("/") and not value.endswith("/") and "//" not in value


def _check_prefix(_options: object, _attribute: object, value: str) -> None:
    if not is_status_prefix(value):
        raise InvalidRequest("status_prefix", f"must begin with a slash and not end with one, not {value!r}")


def check_error_timeout(value: object) -> float:
    """Return an ``error_timeout`` in seconds. Raises `InvalidRequest`."""
    seconds = check_duration("error_timeout", value)
    return check_duration("error_timeout", value, SHORTEST_TIMEOUT) if seconds else seconds


def _check_size(_options: object, attribute: Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_FILE:
        reason = f"must be a whole number of bytes from 0 to {_LARGEST_FILE}, not {value!r}"
        raise InvalidRequest(attribute.name, reason)


def _files(files: Files | str | os.PathLike[str] | None) -> Files | None:
    if isinstance(files, str | os.PathLike):
        return DirectoryFiles(files)
    if files is not None and not isinstance(files, Files):
        raise InvalidRequest("files", "must be a directory, or an object with the methods write, open and delete")
    return files


def _clock(clock: Clock | None) -> Clock:
    return clock or SystemClock()


@frozen(kw_only=True, eq=False, repr=False)
class Options:
    """The arguments of `BackJob`. Raises `InvalidRequest` naming the one that is invalid."""

    store: Store
    transport: Transport | Callable[[str], Transport]
    signer: Signer
    owner: Hook[str | None] | None = None
    may_see_all: Hook[bool] | None = None
    may_manage_all: Hook[bool] | None = None
    public_url: str | None = field(default=None, converter=_public_url)
    trusted_origins: tuple[str, ...] = field(default=(), converter=_trusted_origins)
    page_template: str | None = field(default=None, converter=_page_template)
    """The text of the application's own template of the page."""
    status_prefix: str = field(default="/backjob", validator=_check_prefix)
    error_timeout: float = field(default=3600, converter=check_error_timeout)
    delivery_timeout: float = field(default=600, converter=in_seconds, validator=_at_least(1))
    completed_retention_days: float = _days(30)
    retention_days: float = _days(60)
    max_output: int = _count(1 << 20)
    max_body: int = _count(1 << 20)
    max_headers: int = _count(MAX_HEADERS)
    max_depth: int = _count(32)
    max_chain: int = _count(10_000)
    merge_cookies: tuple[str, ...] | None = field(default=None, converter=_merge_cookies)
    forward_headers: tuple[str, ...] = field(default=(), converter=_forward_headers)
    credential_headers: tuple[str, ...] = field(default=(), converter=_credential_headers)
    user_agent: str | None = field(default=None, validator=_check_user_agent)
    slice_time: float = field(default=20, converter=in_seconds, validator=_at_least(0))
    drain_time: float = field(default=25, converter=in_seconds, validator=_at_least(0))
    capture_stderr: bool = False
    capture_logging: int | None = field(default=None, converter=_logging)
    timestamp_output: bool = False
    on_end: Callable[[JobState], object] | None = None
    seal: bool = False
    streams: int | None = _count(None)
    run_lease: float = field(default=18, converter=in_seconds, validator=_at_least(_SHORTEST_LEASE))
    max_running: int | None = field(default=None, validator=_check_max_running)
    queues: Mapping[str, Mapping[str, Any]] = field(factory=dict, validator=_check_queues)
    deliver: frozenset[str] | None = field(default=None, converter=_deliver)
    redispatch_after: float = field(default=600, converter=in_seconds, validator=_at_least(1))
    files: Files | None = field(default=None, converter=_files)
    max_file: int = field(default=1 << 30, validator=_check_size)
    max_result: int = _count(1 << 16)
    show_errors: bool = False
    opentelemetry: bool = False
    prometheus: bool = False
    clock: Clock = field(default=None, converter=_clock)

    def __attrs_post_init__(self) -> None:
        if self.limits and Capability.SLOTS in lacks(self.store):
            reason = (
                "this store can't limit a queue (it has no slots): keep jobs in a database, or leave max_running out"
            )
            raise InvalidRequest("queues", reason)
        if self.files is not None and Capability.RETENTION in lacks(self.store):
            raise InvalidRequest("files", LOSES_JOBS)
        both = sorted(self.engines.keys() & (self.deliver or ()))
        if both:
            raise InvalidRequest("deliver", f"names {both[0]!r}, whose jobs an engine carries (dispatch in QUEUES)")
        if self.engines and Capability.RETENTION in lacks(self.store):
            reason = "this store may drop a waiting job to make room: keep the jobs of an engine in a database"
            raise InvalidRequest("queues", reason)

    @property
    def capture(self) -> CaptureOptions:
        """What becomes output of a job besides stdout."""
        return CaptureOptions(
            stderr=self.capture_stderr, logging=self.capture_logging, timestamps=self.timestamp_output
        )

    @property
    def limits(self) -> dict[str, int]:
        """The ``max_running`` of each queue that has one."""
        return queue_limits(self.queues)

    @property
    def engines(self) -> dict[str, Callable[[str], object]]:
        """The function of each queue that hands a job's id to the engine which carries it."""
        return queue_engines(self.queues)
