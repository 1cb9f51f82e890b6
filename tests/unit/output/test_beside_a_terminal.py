"""Recorded output looks the same as in tmux, a terminal that others have written."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backjob.output import plain

RECORDED = sorted(Path(__file__).with_name("recorded").glob("*.txt"))
DEADLINE = 60.0  # s
TMUX = shutil.which("tmux")


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Callable[..., str]]:
    if TMUX is None:
        pytest.skip("tmux is not installed")
    socket = ("-S", str(tmp_path / secrets.token_hex(4)), "-f", os.devnull)
    environment = {**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}

    def run(*arguments: str) -> str:
        command = [str(TMUX), "-u", *socket, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    yield run
    run("kill-server")


def lines(text: str) -> list[str]:
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip().split("\n")


@pytest.mark.parametrize("path", RECORDED, ids=[path.stem for path in RECORDED])
def test_recorded_output_looks_as_in_tmux(tmux: Callable[..., str], path: Path) -> None:
    expected = lines(plain(path.read_bytes().decode()))
    tmux("new-session", "-d", "-x", "80", "-y", "60", f"cat {shlex.quote(str(path))}; sleep 60")
    until = time.monotonic() + DEADLINE
    while (shown := lines(tmux("capture-pane", "-p"))) != expected and time.monotonic() < until:
        pass
    assert shown == expected
