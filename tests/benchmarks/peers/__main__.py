"""backjob beside task queues: ``python -m tests.benchmarks.peers [word…]`` prints one table.

The words choose contenders, such as ``huey`` or ``redis``; without any, all are measured. Each is installed from PyPI into a
virtual environment of its own, in a cache directory (``--cache``). PostgreSQL and Redis are started as servers of their own;
RabbitMQ must run. All contenders run at the same time, and are measured one after the other in each round, so that a busy
machine slows all of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.metered import metered_store
from tests.benchmarks.peers.contenders import CONTENDERS, Contender
from tests.benchmarks.peers.environments import cache_directory
from tests.benchmarks.peers.running import Measured, RunningContender, running
from tests.benchmarks.peers.table import Result, median_of, table

__all__ = ["main", "options"]


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command's options."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser("python -m tests.benchmarks.peers", description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="a part of a contender's title; all are measured without any")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--tasks", type=int, default=300, help="tasks started at once in a round (default: 300)")
    parser.add_argument("--singles", type=int, default=30, help="tasks started one by one in a round (default: 30)")
    parser.add_argument("--rest", type=float, default=0.02, help="seconds before each of these (default: 0.02)")
    parser.add_argument("--reports", type=int, default=300, help="reports of progress in a round (default: 300)")
    parser.add_argument("--reads", type=int, default=300, help="reads of a state in a round (default: 300)")
    parser.add_argument("--cache", type=Path, default=cache_directory(), help="where environments are kept")
    parser.add_argument("--table", type=Path, help="a file for the table too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    chosen = options(arguments)
    contenders = [contender for contender in CONTENDERS if contender.matches(chosen.words)]
    found: list[tuple[RunningContender, list[Measured]]]
    with _all_running(contenders, chosen.cache) as started:
        found = [(one, []) for one in started]
        for number in range(chosen.rounds):
            for one, rounds in found:
                print(f"round {number + 1}: {one.contender.title}", file=sys.stderr, flush=True)
                rounds.append(one.measure(chosen.tasks, chosen.singles, chosen.rest, chosen.reports, chosen.reads))
    text = table([Result(one.contender, one.version, median_of(rounds)) for one, rounds in found])
    print(text)
    if chosen.table is not None:
        chosen.table.write_text(f"{text}\n", encoding="utf-8")


@contextmanager
def _all_running(contenders: Sequence[Contender], cache: Path) -> Iterator[list[RunningContender]]:
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {}
        for name in sorted({contender.store for contender in contenders} - {"SQLite"}):
            (root / name).mkdir()
            servers[name] = stack.enter_context(metered_store(name, root / name)).url
        started = []
        for number, contender in enumerate(contenders):
            directory = root / str(number)
            directory.mkdir()
            store = servers.get(contender.store, f"sqlite:///{directory / 'tasks.db'}")
            started.append(stack.enter_context(running(contender, cache, directory, store)))
        yield started


if __name__ == "__main__":
    main(sys.argv[1:])
