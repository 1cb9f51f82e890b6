"""Captures what an action prints: one proxy for `sys.stdout`; a context variable says which job the text belongs to."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import IO, Any, Final, TextIO, cast


class _Stdout:
    """Replaces `sys.stdout`, and passes on to it the text that ``divert`` declines."""

    def __init__(self, wrapped: IO[str] | None, divert: Callable[[str], bool]) -> None:
        self._wrapped = wrapped
        self._divert = divert

    def write(self, text: str) -> int:
        if not self._divert(text) and self._wrapped is not None:
            return self._wrapped.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._wrapped is not None:
            self._wrapped.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def capture_stdout(divert: Callable[[str], bool]) -> None:
    """Install the proxy, unless it is installed. ``divert`` takes a text, or returns False to decline it.

    The proxy does not capture writes to ``sys.stdout.buffer``, by other processes, by log handlers that keep the original
    stream, or by threads that the action starts without ``bind``.
    """
    if not isinstance(sys.stdout, _Stdout):
        proxy = _Stdout(sys.stdout, divert)
        _kept.append(proxy)
        sys.stdout = cast("TextIO", proxy)


_kept: Final[deque[_Stdout]] = deque(maxlen=64)
"""The latest proxies, to keep them alive. Before CPython 3.13.3 ``print`` holds no reference to `sys.stdout` (CPython issue
130163): the interpreter crashes if another thread replaces the stream, and so frees the proxy, during a slow ``write``."""
