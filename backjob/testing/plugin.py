"""A pytest plugin with fixtures for the tests of your application. It imports everything else at the first use.

You override `backjob_app`; pytest loads this plugin by its entry point. The failures of the suites for your own parts show
the values that they compared, also if you load the plugin by its name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pytest

from backjob import testing

if TYPE_CHECKING:
    from backjob.jobs import BackJob
    from backjob.testing.inline import Started

__all__ = ["BackJobApp", "backjob_app", "backjob_immediate", "backjob_recorded"]

_SUITES: Final = [f"{testing.__name__}.{module.name}" for module in iter_modules(testing.__path__)]
pytest.register_assert_rewrite(*[name for name in _SUITES if name not in sys.modules])

BackJobApp: TypeAlias = "tuple[BackJob, Any]"
"""The jobs, and the WSGI or ASGI application that runs them: what `backjob.testing.immediate` takes."""

_ADVICE = """override the fixture backjob_app, in conftest.py for example:

    @pytest.fixture
    def backjob_app():
        return jobs, app  # your BackJob, and the application with the middleware"""


@pytest.fixture
def backjob_app() -> BackJobApp:
    """Your jobs and your application, as a pair. You must override this fixture."""
    raise pytest.UsageError(_ADVICE)


@pytest.fixture
def backjob_immediate(backjob_app: BackJobApp) -> Iterator[BackJob]:
    """Your jobs, which run before ``start()`` returns. See `backjob.testing.immediate`."""
    from backjob.testing import immediate  # noqa: PLC0415 - nothing heavy when pytest starts

    jobs, app = backjob_app
    with immediate(jobs, app):
        yield jobs


@pytest.fixture
def backjob_recorded(backjob_app: BackJobApp) -> Iterator[list[Started]]:
    """The jobs that the test starts, in order; nothing is sent. See `backjob.testing.recorded`."""
    from backjob.testing import recorded  # noqa: PLC0415 - nothing heavy when pytest starts

    with recorded(backjob_app[0]) as started:
        yield started
