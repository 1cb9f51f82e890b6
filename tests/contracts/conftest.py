"""Contract classes that repeat the generated tests of another class with more examples."""

from __future__ import annotations

from typing import Final

import pytest

_DEEPER: Final = frozenset({"AnyRace", "AnySequence", "Races"})
"""The parts of the suite that depend on the number of examples, steps and racers."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a class with ``only_deeper``, keep only the races and the generated tests."""
    left_out = {item for item in items if _is_only_deeper(item) and _part(item) not in _DEEPER}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _is_only_deeper(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and bool(getattr(item.cls, "only_deeper", False))


def _part(item: pytest.Item) -> str:
    """The class of the suite that defines a test."""
    function = item.function if isinstance(item, pytest.Function) else None
    return "" if function is None else str(function.__qualname__).partition(".")[0]
