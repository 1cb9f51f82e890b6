"""Runs one test of the store suite, in this process, on a store that breaks a promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from backjob.protocols import Clock, Store
from backjob.testing import SharesJobs
from backjob.testing._stores.case import StoreCase
from backjob.testing._stores.children import Children

__all__ = ["broken_promise", "broken_promise_of_processes"]


def broken_promise(
    suite: type[StoreCase], test: str, make: Callable[[Path, Clock], Store], directory: Path, **given: Any
) -> str:
    """The message with which the test of the suite fails, or an empty text if it passes.

    ``make`` gets the test's directory and clock. ``given`` are attributes of the suite, and arguments of the test. If it is
    parametrized and gets none, all of its parameters are tried until it fails.
    """
    attributes = {name: given.pop(name) for name in list(given) if hasattr(suite, name)}

    def make_store(case: StoreCase, clock: Clock) -> Store:
        return make(case.directory, clock)

    kind: type[StoreCase] = type("Suite", (suite,), {**attributes, "make_store": make_store})
    for number, arguments in enumerate([given] if given else _parameters(getattr(suite, test))):
        place = directory / f"{number}"
        place.mkdir(parents=True)
        case = kind()
        try:
            with case.opened(place):
                getattr(case, test)(**arguments)
        except AssertionError as failure:
            return str(failure)
        except pytest.skip.Exception:  # a fault must not make its own test skip
            continue
    return ""


def _parameters(test: Any) -> Iterator[dict[str, Any]]:
    """All arguments of a test; of one that is not parametrized, none."""
    marks = [mark.args for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
    for values in product(*[list(each) for _, each in marks]):
        arguments: dict[str, Any] = {}
        for (names, _), value in zip(marks, values, strict=True):
            arguments |= {names: value} if isinstance(names, str) else dict(zip(names, value, strict=True))
        yield arguments


def broken_promise_of_processes(
    test: str, opener: str, address: str, directory: Path, children: Children, **attributes: Any
) -> str:
    """The message with which the test of `SharesJobs` fails, or an empty text if it passes."""
    own = {"opener": opener, "children": children, "address": lambda _: address, **attributes}
    case: SharesJobs = type("Suite", (SharesJobs,), own)()
    try:
        with case.placed(directory):
            getattr(case, test)()
    except AssertionError as failure:
        return str(failure)
    return ""
