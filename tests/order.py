"""The order of the tests: each process begins with its share of the long ones, so that at the end no process works alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pytest

__all__ = ["arranged"]

_HERE: Final = Path(__file__).parent
_LONG: Final = {"faults": 4, "places": 5, "recipes": 4, "telemetry": 8, "packaging": 6, "hosts": 25, "browser": 3}
"""Directories of long tests, with the seconds that one of them takes. First those that mostly wait, beside the work of other processes."""


def arranged(items: Sequence[pytest.Item], processes: int) -> list[pytest.Item]:
    """These tests for pytest-xdist, which gives each process a part of the list that is as long as the others' parts."""
    directories = [_directory(item) for item in items]
    turns = {directory: turn for turn, directory in enumerate(_LONG)}
    together: dict[tuple[int, str], list[pytest.Item]] = {}
    for item, directory in zip(items, directories, strict=True):
        if directory in _LONG:
            together.setdefault((turns[directory], _group(item, directory)), []).append(item)
    rest = [item for item, directory in zip(items, directories, strict=True) if directory not in _LONG]
    shares = _shares(together, processes)
    sizes = [(len(items) + number) // processes for number in range(processes)]
    if any(len(share) > size for share, size in zip(shares, sizes, strict=True)):
        return [*_flat(together[key] for key in sorted(together)), *rest]
    order: list[pytest.Item] = []
    for share, size in zip(shares, sizes, strict=True):
        more = size - len(share)
        order += [*share, *rest[:more]]
        rest = rest[more:]
    return order


def _shares(together: dict[tuple[int, str], list[pytest.Item]], processes: int) -> list[list[pytest.Item]]:
    """Divide these groups among the processes: the longest first, each to the process that has least to do."""
    seconds = list(_LONG.values())
    lengths = {key: seconds[key[0]] * len(group) for key, group in together.items()}
    loads, keys = [0] * processes, [list[tuple[int, str]]() for _ in range(processes)]
    for key in sorted(together, key=lambda key: (-lengths[key], key)):
        least = loads.index(min(loads))
        loads[least] += lengths[key]
        keys[least].append(key)
    return [_flat(together[key] for key in sorted(share)) for share in keys]


def _group(item: pytest.Item, directory: str) -> str:
    """Tests of one module share fixtures. Those of one browser share that browser."""
    browser = (
        item.callspec.params.get("browsers")
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else None
    )
    return browser if directory == "browser" and isinstance(browser, str) else item.path.name


def _directory(item: pytest.Item) -> str:
    """The directory below ``tests`` in which a test is."""
    return item.path.relative_to(_HERE).parts[0] if item.path.is_relative_to(_HERE) else ""


def _flat(groups: Iterable[list[pytest.Item]]) -> list[pytest.Item]:
    return [item for group in groups for item in group]
