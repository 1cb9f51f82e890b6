"""Settings for Django's ``runtests.py``: inserts the middleware, and writes the outcome of each test to a file."""

from __future__ import annotations

import unittest
from importlib import import_module
from typing import Any, Final

from django.test.runner import DiscoverRunner
from upstream_plugin import KEY, insert, write

globals().update(vars(import_module("test_sqlite")))  # the settings of Django's own tests

BACKJOB: Final = {"STORE": "memory:", "KEY": KEY}
TEST_RUNNER: Final = "upstream_django.Runner"


class Runner(DiscoverRunner):
    """Django's own runner, whose result is written to the file."""

    def get_resultclass(self) -> type[unittest.TextTestResult]:
        return _Result

    def suite_result(self, suite: Any, result: Any, **kwargs: Any) -> Any:
        outcomes = dict.fromkeys(result.started, "passed")
        outcomes |= {test.id(): "skipped" for test, _ in result.skipped}
        outcomes |= {test.id(): "xfailed" for test, _ in result.expectedFailures}
        outcomes |= {test.id(): "xpassed" for test in result.unexpectedSuccesses}
        outcomes |= {test.id(): "failed" for test, _ in result.failures}
        outcomes |= {test.id(): "error" for test, _ in result.errors}
        write(outcomes)
        return super().suite_result(suite, result, **kwargs)


class _Result(unittest.TextTestResult):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.started: list[str] = []

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self.started.append(test.id())


insert()
