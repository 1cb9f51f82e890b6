"""Serves the application of the benchmarks in processes of its own, with an empty store."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import frozen

from backjob.stores import open_store
from tests.benchmarks.kinds import StoreKind
from tests.benchmarks.notes import Notes
from tests.benchmarks.raw import Raw

__all__ = ["ServerCommand", "Serving", "serving"]

ServerCommand = Callable[[str, socket.socket, Path], list[str]]

_ROOT: Final = Path(__file__).resolve().parents[2]
_BACKLOG: Final = 1024


@frozen
class Serving:
    """A server that has just been started. ``store`` is the URL of its store; ``raw`` does the same work by hand."""

    address: tuple[str, int]
    store: str
    raw: Raw
    notes: Notes

    @property
    def url(self) -> str:
        return _url(self.address)


@contextmanager
def serving(
    kind: StoreKind, command: ServerCommand, directory: Path, settings: Mapping[str, str] | None = None
) -> Iterator[Serving]:
    """Serve the application during the block; ``settings`` are further environment variables."""
    with ExitStack() as stack:
        store, raw_store = [stack.enter_context(kind.place(_created(directory / name))) for name in ("store", "raw")]
        open_store(raw_store).close()
        raw = kind.raw(raw_store)
        stack.callback(raw.close)
        notes = Notes.made(directory / "notes")
        stack.callback(notes.close)
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG))
        host, port = listening.getsockname()
        process = subprocess.Popen(
            command("tests.benchmarks.app:application", listening, directory),
            cwd=_ROOT,
            env={
                **os.environ,
                "BENCHMARK_STORE": store,
                "BENCHMARK_RAW": raw_store,
                "BENCHMARK_URL": _url((host, port)),
                "BENCHMARK_NOTES": str(notes.path),
                **(settings or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr if "BENCHMARK_DEBUG" in os.environ else subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
        )
        stack.callback(_stop, process)
        yield Serving((host, port), store, raw, notes)


def _url(address: tuple[str, int]) -> str:
    return f"http://{address[0]}:{address[1]}"


def _created(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    process.kill()
    process.wait()
