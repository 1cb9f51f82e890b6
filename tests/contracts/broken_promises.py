"""Runs one test of the store suite, in this process, on a store that breaks one promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backjob.protocols import Clock, Store
from backjob.testing import SharesJobs
from backjob.testing._stores.case import StoreCase
from backjob.testing._stores.children import Children

__all__ = ["broken_promise", "broken_promise_of_processes"]


def broken_promise(
    suite: type[StoreCase], test: str, make: Callable[[Path, Clock], Store], directory: Path, **arguments: Any
) -> str:
    """The message with which the test of the suite fails, or an empty text if it passes.

    ``make`` gets the test's directory and clock. ``arguments`` are those of a parametrized test, and attributes of the suite.
    """

    class Suite(suite):  # type: ignore[misc, valid-type]
        def make_store(self, clock: Clock) -> Store:
            return make(self.directory, clock)

    given = {name: arguments.pop(name) for name in list(arguments) if hasattr(suite, name)}
    case = type(suite.__name__, (Suite,), given)()
    try:
        with case.opened(directory):
            getattr(case, test)(**arguments)
    except AssertionError as failure:
        return str(failure)
    return ""


def broken_promise_of_processes(
    test: str, opener: str, address: str, directory: Path, children: Children, **attributes: Any
) -> str:
    """The message with which the test of `SharesJobs` fails, or an empty text if it passes."""
    case = type(
        "Suite", (SharesJobs,), {"opener": opener, "children": children, "address": lambda _: address, **attributes}
    )()
    try:
        with case.placed(directory):
            getattr(case, test)()
    except AssertionError as failure:
        return str(failure)
    return ""
