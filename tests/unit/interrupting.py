"""Lets a test act between any two instructions of a function, where another thread may take over."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupter:
    """Calls a function before the nth instruction of another one, where a thread may take over. Use it as a trace function."""

    def __init__(self, function: Callable[..., Any], number: int, act: Callable[[], object]) -> None:
        self._code = function.__code__
        self._left = number
        self._act = act
        self.has_acted = False

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Interrupter | None:
        if frame.f_code is not self._code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.has_acted:
            self._left -= 1
            if self._left < 0:
                self.has_acted = True
                self._act()
        return self
