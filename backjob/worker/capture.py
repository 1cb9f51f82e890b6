"""Captures what an action prints: a proxy for `sys.stdout`; a context variable says which job the text belongs to.

A redirection, such as `contextlib.redirect_stdout`, replaces the stream of the whole process. The next job that begins
installs another proxy in front of it. That one captures only the jobs that have begun since: those that were running get
the redirection that one of them may have asked for.
"""

from __future__ import annotations

import io
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, TextIO, TypeAlias, cast

from backjob.process import PerProcess

Divert: TypeAlias = Callable[[str | bytes, int], bool]
"""Takes what a proxy of this level got, or returns False to decline it. Empty text asks whether it would take more."""


class _Stdout:
    """Replaces `sys.stdout`, and passes on to it what ``divert`` declines. A text stream that is never a terminal in a job.

    It refuses bytes as every text stream does: click and Rich write ``b""`` to find out which kind it is.
    """

    def __init__(self, wrapped: TextIO | None, divert: Divert, level: int) -> None:
        self._wrapped = wrapped
        self._divert = divert
        self.level = level
        """How many proxies were installed before."""

    @property
    def is_usable(self) -> bool:
        """Whether the stream behind this proxy takes text: that of a past redirection may be closed."""
        return self._wrapped is not None and not getattr(self._wrapped, "closed", False)

    def retire(self, earlier: _Stdout) -> None:
        """Pass everything on to an earlier proxy: the redirection behind this one is over."""
        self._wrapped = cast("TextIO", earlier)

    def _target(self) -> TextIO | None:
        if self._wrapped is None or self.is_usable:
            return self._wrapped
        earlier = [proxy for proxy in list(_kept) if proxy.level < self.level and proxy.is_usable]
        return cast("TextIO", earlier[-1]) if earlier else self._wrapped

    def _in_job(self) -> bool:
        return self._divert("", self.level)

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._divert(text, self.level):
            return len(text)
        target = self._target()
        return len(text) if target is None else target.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        target = self._target()
        if target is not None:
            target.flush()

    def isatty(self) -> bool:
        target = self._target()
        return target is not None and not self._in_job() and target.isatty()

    # The same in a job and outside: click decides once for each stream by its encoding how to write to it.
    @property
    def encoding(self) -> str:
        return "utf-8" if self._wrapped is None else self._wrapped.encoding

    @property
    def errors(self) -> str | None:
        return "replace" if self._wrapped is None else self._wrapped.errors

    @property
    def buffer(self) -> Any:
        binary = getattr(self._target(), "buffer", None)
        if binary is None and not self._in_job():
            raise AttributeError("the stream behind this one has no buffer")
        return _Buffer(self, binary, self._divert)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)


io.TextIOBase.register(_Stdout)


class _Buffer:
    """The ``buffer`` of a `_Stdout`: bytes that a job writes are output too, as UTF-8."""

    def __init__(self, stdout: _Stdout, wrapped: Any, divert: Divert) -> None:
        self._stdout = stdout
        self._wrapped = wrapped
        self._divert = divert

    def write(self, data: Any) -> int:
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        content = bytes(data)
        if self._divert(content, self._stdout.level) or self._wrapped is None:
            return len(content)
        return int(self._wrapped.write(data))

    def flush(self) -> None:
        self._stdout.flush()

    def isatty(self) -> bool:
        return self._stdout.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def capture_stdout(divert: Divert) -> int:
    """Install a proxy, unless one is installed, and return its level: proxies from this level on capture a new job.

    The proxies do not capture writes by other processes, by log handlers that keep the original stream, or by threads
    that the action starts without ``bind``.
    """
    with _installing.get():
        installed = sys.stdout
        if isinstance(installed, _Stdout):
            for later in [proxy for proxy in _kept if proxy.level > installed.level]:
                later.retire(installed)
            return installed.level
        proxy = _Stdout(installed, divert, _kept[-1].level + 1 if _kept else 0)
        _kept.append(proxy)
        sys.stdout = cast("TextIO", proxy)
        return proxy.level


_kept: Final[deque[_Stdout]] = deque(maxlen=64)
"""The latest proxies, to keep them alive. Before CPython 3.13.3 ``print`` holds no reference to `sys.stdout` (CPython issue
130163): the interpreter crashes if another thread replaces the stream, and so frees the proxy, during a slow ``write``."""

_installing: Final = PerProcess(threading.Lock)
