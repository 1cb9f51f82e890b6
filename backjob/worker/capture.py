"""What an action prints goes to its job, and nobody else's print does: one proxy for stdout, told apart by context."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import IO, Any, Final, TextIO, cast

__all__ = ["capture_stdout"]


class _Stdout:
    """Stands in for `sys.stdout`: what ``divert`` does not take goes where it always went."""

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
    """Put the proxy in place, or leave it there. ``divert`` takes a text, or declines it by returning False.

    Not seen are writes to ``sys.stdout.buffer``, of other processes, of log handlers that hold the old stream, and of
    threads of the action's own that were not started through ``bind``.
    """
    if not isinstance(sys.stdout, _Stdout):
        proxy = _Stdout(sys.stdout, divert)
        _kept.append(proxy)
        sys.stdout = cast("TextIO", proxy)


_kept: Final[deque[_Stdout]] = deque(maxlen=64)
"""The latest proxies. Before CPython 3.13.3 ``print`` only borrows `sys.stdout` (its issue 130163): were another thread to
put a stream of its own there while our ``write`` waits for a store, and so free the proxy, the interpreter would crash."""
