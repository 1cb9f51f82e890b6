"""Captures what an action prints: proxies for `sys.stdout` and `sys.stderr`; a context variable says which job it belongs to.

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


class _Stream:
    """Replaces a stream, and passes on to it what ``divert`` declines. A text stream that is never a terminal in a job.

    It refuses bytes as every text stream does: click and Rich write ``b""`` to find out which kind it is.
    """

    def __init__(self, wrapped: TextIO | None, divert: Divert, level: int, kept: deque[_Stream]) -> None:
        self._wrapped = wrapped
        self._divert = divert
        self._kept = kept
        self.level = level
        """How many proxies were installed before."""

    @property
    def is_usable(self) -> bool:
        """Whether the stream behind this proxy takes text: that of a past redirection may be closed."""
        return self._wrapped is not None and not getattr(self._wrapped, "closed", False)

    def retire(self, earlier: _Stream) -> None:
        """Pass everything on to an earlier proxy: the redirection behind this one is over."""
        self._wrapped = cast("TextIO", earlier)

    def _target(self) -> TextIO | None:
        if self._wrapped is None or self.is_usable:
            return self._wrapped
        earlier = [proxy for proxy in list(self._kept) if proxy.level < self.level and proxy.is_usable]
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


io.TextIOBase.register(_Stream)


class _Buffer:
    """The ``buffer`` of a `_Stream`: bytes that a job writes are output too, as UTF-8."""

    def __init__(self, stream: _Stream, wrapped: Any, divert: Divert) -> None:
        self._stream = stream
        self._wrapped = wrapped
        self._divert = divert

    def write(self, data: Any) -> int:
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        content = bytes(data)
        if self._divert(content, self._stream.level) or self._wrapped is None:
            return len(content)
        return int(self._wrapped.write(data))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class Capture:
    """The proxies of one stream of `sys`, by its name.

    They do not capture writes by other processes, by log handlers that keep the original stream, or by threads that the
    action starts without ``bind``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._kept: deque[_Stream] = deque(maxlen=64)
        """The latest proxies, to keep them alive. Before CPython 3.13.3 ``print`` holds no reference to `sys.stdout` (CPython
        issue 130163): the interpreter crashes if another thread replaces the stream, and so frees the proxy, during a slow
        ``write``."""
        self._installing = PerProcess(threading.Lock)

    def __call__(self, divert: Divert) -> int:
        """Install a proxy, unless one is installed, and return its level: proxies from this level on capture a new job."""
        with self._installing.get():
            installed = getattr(sys, self._name)
            if isinstance(installed, _Stream):
                for later in [proxy for proxy in self._kept if proxy.level > installed.level]:
                    later.retire(installed)
                return installed.level
            level = self._kept[-1].level + 1 if self._kept else 0
            proxy = _Stream(installed, divert, level, self._kept)
            self._kept.append(proxy)
            setattr(sys, self._name, proxy)
            return level


capture_stdout: Final = Capture("stdout")
capture_stderr: Final = Capture("stderr")
