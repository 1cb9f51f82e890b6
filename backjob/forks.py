"""Context that belongs to one process."""

from __future__ import annotations

import os
from contextvars import ContextVar, Token
from typing import Generic, TypeVar

T = TypeVar("T")


class InProcess(Generic[T]):
    """A context variable, None by default, whose value a forked child does not inherit.

    Otherwise the child would have its parent's current request and job.
    """

    def __init__(self, name: str) -> None:
        self._variable: ContextVar[tuple[int, T | None] | None] = ContextVar(name, default=None)

    def get(self) -> T | None:
        """Return the value that this process has set in this context, or None."""
        entry = self._variable.get()
        return None if entry is None or entry[0] != os.getpid() else entry[1]

    def set(self, value: T | None) -> Token[tuple[int, T | None] | None]:
        """Set the value in this context, for this process."""
        return self._variable.set((os.getpid(), value))

    def reset(self, token: Token[tuple[int, T | None] | None]) -> None:
        """Undo `set`."""
        self._variable.reset(token)

    @property
    def is_inherited(self) -> bool:
        """Whether the parent of this forked process had a value here."""
        entry = self._variable.get()
        return entry is not None and entry[0] != os.getpid()
