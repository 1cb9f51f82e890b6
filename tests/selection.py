"""Which markers the option ``-m`` excludes, so that excluded tests need not be collected before pytest deselects them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest

__all__ = ["excluded_markers", "is_excluded", "markers_of"]

_ONLY_EXCLUDES: Final = re.compile(r"not \w+(?: and not \w+)*")
_EXCLUDED: Final = pytest.StashKey[frozenset[str]]()


def excluded_markers(config: pytest.Config) -> frozenset[str]:
    """The markers of tests that certainly do not run, as in ``-m "not slow and not nightly"``.

    None for other expressions, or if the command names single tests: pytest then says that they are deselected.
    """
    if _EXCLUDED not in config.stash:
        expression = str(config.getoption("markexpr"))
        known = _ONLY_EXCLUDES.fullmatch(expression) is not None and not any("::" in arg for arg in config.args)
        config.stash[_EXCLUDED] = frozenset(re.findall(r"not (\w+)", expression)) if known else frozenset()
    return config.stash[_EXCLUDED]


def markers_of(obj: object) -> Iterator[str]:
    """The names of the markers of a class with those of its bases, or of a function."""
    for part in obj.__mro__ if isinstance(obj, type) else (obj,):
        marks = vars(part).get("pytestmark", ()) if hasattr(part, "__dict__") else ()
        yield from (mark.name for mark in (marks if isinstance(marks, list | tuple) else (marks,)))


def is_excluded(collector: pytest.Collector, obj: object) -> bool:
    """Whether ``-m`` excludes all tests of a class or function in this module or class."""
    excluded = excluded_markers(collector.config)
    return not excluded.isdisjoint(markers_of(obj)) or any(mark.name in excluded for mark in collector.iter_markers())
