"""Output as a terminal would show it. Only this package reads the escape sequences in a job's output."""

from __future__ import annotations

from backjob.output.forms import ansi_of, classes_of, escaped, html_of
from backjob.output.screen import Line, Screen, from_line, lines_of, plain, plain_end, text_of
from backjob.output.styles import DEFAULT, Style

__all__ = [
    "DEFAULT",
    "Line",
    "Screen",
    "Style",
    "ansi_of",
    "classes_of",
    "escaped",
    "from_line",
    "html_of",
    "lines_of",
    "plain",
    "plain_end",
    "text_of",
]
