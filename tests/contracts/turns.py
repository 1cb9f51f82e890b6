"""Threads that share a cache and call it one at a time, in an order that the test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final, TypeVar

from tests.contracts.dict_cache import DictCache

__all__ = ["Turns"]

T = TypeVar("T")
PATIENCE: Final = 30.0


class Turns(DictCache):
    """A cache whose callers wait for their turn before each call."""

    def __init__(self) -> None:
        super().__init__()
        self._mine = threading.local()
        self._go: dict[str, SimpleQueue[None]] = {}
        self._stopped: SimpleQueue[tuple[str, bool]] = SimpleQueue()
        """The threads that wait for a turn, or (True) have finished."""

    def get(self, key: str, /) -> str | None:
        self._wait()
        return super().get(key)

    def set(self, key: str, value: str, timeout: int, /) -> None:
        self._wait()
        super().set(key, value, timeout)

    def add(self, key: str, value: str, timeout: int, /) -> bool:
        self._wait()
        return super().add(key, value, timeout)

    def delete(self, key: str, /) -> None:
        self._wait()
        super().delete(key)

    def run(self, calls: Mapping[str, Callable[[], T]], order: list[int], between: Callable[[int], None]) -> list[T]:
        """Run each call in its own thread, with one call to the cache at a time; return their results.

        The next number in the order selects one of the waiting threads, sorted by name; after the last number they
        continue one after the other. ``between`` gets the same number before each turn.
        """
        self._go = {name: SimpleQueue() for name in calls}
        with ThreadPoolExecutor(len(calls)) as pool:
            futures = [pool.submit(self._act, name, call) for name, call in calls.items()]
            waiting = [name for _ in calls for name in self._stops()]
            numbers = iter(order)
            while waiting:
                number = next(numbers, 0)
                between(number)
                name = sorted(waiting)[number % len(waiting)]
                waiting.remove(name)
                self._go[name].put(None)
                waiting += self._stops()
            return [future.result(PATIENCE) for future in futures]

    def _stops(self) -> list[str]:
        """The next thread that stops and waits for another turn, or None if it has finished."""
        name, finished = self._stopped.get(timeout=PATIENCE)
        return [] if finished else [name]

    def _act(self, name: str, call: Callable[[], T]) -> T:
        self._mine.name = name
        try:
            return call()
        finally:
            self._stopped.put((name, True))

    def _wait(self) -> None:
        name = getattr(self._mine, "name", None)
        if name is not None:
            self._stopped.put((name, False))
            self._go[name].get(timeout=PATIENCE)
