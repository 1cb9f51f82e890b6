"""Run a framework's own tests without backjob's middleware and with it, and compare the results of each test.

``python -m tests.upstream flask --source DIR``, where the directory is the unpacked source of a release, with its tests.
Nothing is downloaded: install what the suite needs into the Python that runs this.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from attrs import frozen

__all__ = ["SUITES", "compare", "main"]

Results: TypeAlias = Mapping[str, str]
"""The outcome of each test by its id."""

_ROOT: Final = Path(__file__).resolve().parents[2]
_PYTEST: Final = ("-m", "pytest", "-q", "-p", "upstream_plugin", "-p", "no:cacheprovider")


@frozen
class Suite:
    """A framework's suite: where it runs, what it imports, the command, and the tests that run if none are named.

    Directories are relative to the source.
    """

    directory: str
    package: str
    command: tuple[str, ...]
    tests: tuple[str, ...]


SUITES: Final = {
    "flask": Suite(".", "src", _PYTEST, ("tests",)),
    "starlette": Suite(".", ".", _PYTEST, ("tests",)),
    "django": Suite(
        "tests",
        ".",
        ("runtests.py", "--settings=upstream_django", "--parallel=1", "--verbosity=0"),
        (
            *("handlers", "middleware", "middleware_exceptions", "sessions_tests", "csrf_tests", "requests_tests"),
            *("asgi", "wsgi", "responses", "test_client", "test_client_regress", "messages_tests", "view_tests"),
        ),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all results are equal, 1 if any differs, and 2 if there is nothing to compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("framework", choices=SUITES)
    parser.add_argument("--source", type=Path, required=True, help="the unpacked source of a release")
    parser.add_argument("--logs", type=Path, help="a directory for the output of both runs")
    parser.add_argument("tests", nargs="*", help="tests to run, in the words of the suite's own runner")
    options = parser.parse_intermixed_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        logs = options.logs or Path(temporary)
        logs.mkdir(parents=True, exist_ok=True)
        (without, _), (within, inserted) = (
            _run(options.framework, options.source.resolve(), options.tests, logs, with_it=with_it)
            for with_it in (False, True)
        )
    for name, results in (("without", without), ("with", within)):
        counts = Counter(results.values())
        print(f"{name:>7}: {len(results)} tests, " + ", ".join(f"{counts[key]} {key}" for key in sorted(counts)))
    print(f"the middleware was put around {inserted} applications")
    if not without or not inserted:
        print("nothing to compare; --logs DIR keeps the output of the tests")
        return 2
    differences = compare(without, within)
    print("\n".join(differences) or "no difference")
    return 1 if differences else 0


def compare(without: Results, within: Results) -> list[str]:
    """One line for each test whose result differs."""
    return [
        f"{test}: {without.get(test, 'missing')} without the middleware, {within.get(test, 'missing')} with it"
        for test in sorted({*without, *within})
        if without.get(test) != within.get(test)
    ]


def _run(framework: str, source: Path, tests: Sequence[str], logs: Path, *, with_it: bool) -> tuple[Results, int]:
    suite = SUITES[framework]
    name = "with" if with_it else "without"
    results = logs / f"{name}.json"
    results.unlink(missing_ok=True)
    search = [source / suite.package, Path(__file__).parent, _ROOT]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, search)),
        "UPSTREAM_FRAMEWORK": framework if with_it else "",
        "UPSTREAM_RESULTS": str(results),
    }
    with (logs / f"{name}.log").open("wb") as log:
        subprocess.run(
            [sys.executable, *suite.command, *(tests or suite.tests)],
            cwd=source / suite.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,  # some tests of a release may fail with newer dependencies: the results are compared
        )
    if not results.exists():
        return {}, 0
    written = json.loads(results.read_text(encoding="utf-8"))
    return written["outcomes"], written["inserted"]


if __name__ == "__main__":
    sys.exit(main())
