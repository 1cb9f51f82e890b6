"""Terminals: a screen that shows what a person would see, a stream that is one, and programs on a real one (a pty)."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["OnTerminal", "Screen", "Terminal", "cells", "on_terminal"]

PATIENCE: Final = 30.0  # s
_ROOT: Final = Path(__file__).parents[2]
_PIECES: Final = re.compile(r"\x1b\[(?P<colour>[\d;]*)m|(?P<clear>\x1b\[K)|(?P<text>.)", re.DOTALL)
_IN_CONTROL: Final = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
)


def cells(text: str) -> int:
    """How many columns a text takes."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


class Screen:
    """The lines that are seen after all that was written. It knows colours, CR and the end of a line, and nothing else."""

    def __init__(self, columns: int = 80) -> None:
        self.columns = columns
        self.lines = [""]
        self.colours: set[str] = set()
        self._place = 0

    def feed(self, text: str) -> None:
        """Show more; anything that would command a terminal otherwise is an error."""
        for piece in _PIECES.finditer(text):
            if piece["colour"] is not None:
                self.colours.add(piece["colour"])
            elif piece["clear"]:
                self.lines[-1] = self.lines[-1][: self._place]
            elif piece["text"] == "\r":
                self._place = 0
            elif piece["text"] == "\n":
                self._next_line()
            else:
                assert piece["text"] == "\t" or piece["text"].isprintable(), ascii(text)
                self._put(piece["text"])

    def _put(self, character: str) -> None:
        if cells(self.lines[-1][: self._place] + character) > self.columns:
            self._next_line()
        line = self.lines[-1]
        self.lines[-1] = line[: self._place] + character + line[self._place + 1 :]
        self._place += 1

    def _next_line(self) -> None:
        self.lines.append("")
        self._place = 0

    def __str__(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    def screen(self, columns: int = 80) -> Screen:
        """What is seen on it."""
        screen = Screen(columns)
        screen.feed(self.getvalue())
        return screen


class OnTerminal:
    """A program on a terminal of its own, which a test looks at and types on."""

    def __init__(self, process: subprocess.Popen[bytes], leader: int, columns: int) -> None:
        self.process = process
        self.screen = Screen(columns)
        self._leader = leader
        self._rest = b""

    def until(self, seen: Callable[[str], object]) -> str:
        """Look until this is seen; what is seen then."""
        deadline = time.monotonic() + PATIENCE
        while not seen(str(self.screen)):
            left = deadline - time.monotonic()
            assert left > 0, f"not seen:\n{self.screen}"
            select.select([self._leader], [], [], left)
            assert self._read(), f"it has ended:\n{self.screen}"
        return str(self.screen)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._leader, keys.encode())

    def end(self) -> int:
        """Look until the program has ended; its exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        try:
            piece = os.read(self._leader, 1 << 16)
        except OSError:  # Linux says that the other side is closed
            piece = b""
        text = (self._rest + piece).decode("utf-8", "surrogateescape")
        whole = text.rstrip("".join(map(chr, range(0xDC80, 0xDD00))))
        # A character or an escape sequence may be cut in the middle.
        whole = re.sub(r"\x1b(\[[\d;]*)?\Z", "", whole)
        self._rest = text[len(whole) :].encode("utf-8", "surrogateescape")
        self.screen.feed(whole.replace("\r\n", "\n"))
        return bool(piece)


@contextmanager
def on_terminal(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, *, columns: int = 80
) -> Iterator[OnTerminal]:
    """Python with these arguments on a new terminal while the block lasts: in control of it, so that Ctrl-C is a signal."""
    leader, follower = pty.openpty()
    with _closed_after(leader):
        with _closed_after(follower):
            fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            process = subprocess.Popen(
                [sys.executable, "-c", _IN_CONTROL, sys.executable, *arguments],
                cwd=_ROOT,
                env={**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", **(environment or {})},
                stdin=follower,
                stdout=follower,
                stderr=follower,
                start_new_session=True,
            )
        try:
            yield OnTerminal(process, leader, columns)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait(PATIENCE)


@contextmanager
def _closed_after(descriptor: int) -> Iterator[None]:
    """Close it after the block."""
    try:
        yield
    finally:
        os.close(descriptor)
