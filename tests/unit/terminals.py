"""Terminals for tests: a screen that interprets what is written to it, and programs on a pseudo-terminal (pexpect)."""

from __future__ import annotations

import io
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pexpect

__all__ = ["Program", "Screen", "Terminal", "cells", "on_terminal"]

TIMEOUT: Final = 60.0  # s
_ROOT: Final = Path(__file__).parents[2]
_TOKENS: Final = re.compile(r"\x1b\[(?P<colour>[\d;]*)m|(?P<clear>\x1b\[K)|(?P<text>.)", re.DOTALL)


def cells(text: str) -> int:
    """Return how many columns a text takes."""
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else not unicodedata.combining(character)
        for character in text
    )


class Screen:
    """The lines that a terminal would show. Interprets only colours, CR, LF and "clear to the end of the line"."""

    def __init__(self, columns: int = 80) -> None:
        self.columns = columns
        self.lines = [""]
        self.colours: set[str] = set()
        self._column = 0

    def feed(self, text: str) -> None:
        """Interpret text; any other control sequence is an error."""
        for token in _TOKENS.finditer(text):
            if token["colour"] is not None:
                self.colours.add(token["colour"])
            elif token["clear"]:
                self.lines[-1] = self.lines[-1][: self._column]
            elif token["text"] == "\r":
                self._column = 0
            elif token["text"] == "\n":
                self._next_line()
            else:
                assert token["text"] == "\t" or token["text"].isprintable(), ascii(text)
                self._put(token["text"])

    def _put(self, character: str) -> None:
        if cells(self.lines[-1][: self._column] + character) > self.columns:
            self._next_line()
        line = self.lines[-1]
        self.lines[-1] = line[: self._column] + character + line[self._column + 1 :]
        self._column += 1

    def _next_line(self) -> None:
        self.lines.append("")
        self._column = 0

    def __str__(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True

    def screen(self, columns: int = 80) -> Screen:
        """Return a screen that shows what was written."""
        screen = Screen(columns)
        screen.feed(self.getvalue())
        return screen


class Program:
    """A Python program on a pseudo-terminal."""

    def __init__(self, child: Any, columns: int) -> None:
        self.child = child
        self._columns = columns
        self._written = io.StringIO()
        child.logfile_read = self._written

    def screen(self) -> Screen:
        """Return a screen that shows what the program has written so far."""
        screen = Screen(self._columns)
        screen.feed(self._written.getvalue().replace("\r\n", "\n"))
        return screen

    def end(self) -> int:
        """Wait for the program to exit; return its exit code."""
        self.child.expect(pexpect.EOF)
        self.child.wait()
        code: int = self.child.exitstatus
        return code


@contextmanager
def on_terminal(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, *, columns: int = 80
) -> Iterator[Program]:
    """Run Python with these arguments on a new terminal of 24 lines. Kills the program at the end of the block."""
    with warnings.catch_warnings():
        # Python 3.12 and later warn about forks in a process with threads; the child only calls exec.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = pexpect.spawn(
            sys.executable,
            list(arguments),
            cwd=str(_ROOT),
            env={**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", **(environment or {})},
            encoding="utf-8",
            timeout=TIMEOUT,
            dimensions=(24, columns),
        )
    try:
        yield Program(child, columns)
    finally:
        child.close(force=True)
