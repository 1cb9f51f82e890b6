r"""The lines that a terminal would show for a text: ``\r`` and ``\b`` move back, new text overwrites old text.

Understood are the sequences that progress bars write (tqdm, Rich, click, pip, npm): SGR, erase (``K``, ``J``) and cursor
movements (``A`` to ``G``). All others are removed. ``terminal.js`` does the same in the browser; both are tested with
``tests/unit/output/vectors.json``. Nothing here interprets the text itself: it stays text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, TypeAlias

from backjob.output.styles import DEFAULT, Style

Line: TypeAlias = "list[tuple[str, Style]]"
"""A line without its newline: texts that are not empty, with their styles."""

REACH: Final = 50
"""How many of the last lines the cursor reaches: the height of the screen."""

_WIDTH: Final = 250
"""How many columns a sequence reaches: to the right, so that a few bytes make no long line; and back, to erase."""

_MOST_MARKS: Final = 30
"""How many characters join another one (https://unicode.org/reports/tr15/#Stream_Safe_Text_Format); the others are dropped."""

_LONGEST_SEQUENCE: Final = 5000
_SHORT: Final = 1 << 13
_TAB: Final = 8
_TOKEN: Final = re.compile(
    r"\x1b(?:\[([0-?]{0,64})[ -/]{0,4}([@-~])|[\]PX^_][^\0-\x1f\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)?|[ -/]{0,4}[0-~])?"
    r"|[\0-\x1f\x7f-\x9f]|[^\0-\x1f\x7f-\x9f]+"
)
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|[\]PX^_][^\0-\x1f\x9c]{0,4096}\x1b?|[ -/]{0,4})\Z")
_SPECIAL: Final = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f]")

_Cell: TypeAlias = "tuple[str, Style]"
"""A column of a line. A character of several columns is followed by cells with an empty text."""


class Screen:
    """Reads output chunk by chunk. A chunk may end anywhere between two characters."""

    def __init__(self) -> None:
        self._rows: list[list[_Cell]] = [[]]
        self._row = 0
        self._column = 0
        self._style = DEFAULT
        self._known: dict[str, _Cell] = {}
        """The cells of ASCII in this style, so that a long line takes 8 bytes for a character."""
        self._rest = ""
        self.climbed_to: int | None = None
        """The topmost line to which the cursor has moved up in the last `feed`; None if it has not."""

    @property
    def row(self) -> int:
        """The line in which the cursor is."""
        return self._row

    @property
    def count(self) -> int:
        """How many lines there are: one more than newlines, unless the cursor has moved up."""
        return len(self._rows)

    def feed(self, text: str) -> None:
        """Add a chunk of output."""
        text = self._rest + text
        unfinished = _UNFINISHED.search(text, max(0, len(text) - _LONGEST_SEQUENCE))
        self._rest = unfinished[0] if unfinished else ""
        self.climbed_to = None
        for token in _TOKEN.finditer(text, 0, len(text) - len(self._rest)):
            final = token[2]
            if final is not None:
                self._control(final, token[1])
            elif token[0] > "\x9f" or " " <= token[0] < "\x7f":
                self._put(token[0])
            else:
                self._move(token[0])

    def lines(self, first: int = 0, end: int | None = None) -> list[Line]:
        """Return the lines from ``first`` up to, but not including, ``end``."""
        return [_joined(row) for row in self._rows[first:end]]

    def take_settled(self) -> list[Line]:
        """Return the lines that the cursor can't reach any more, and forget them."""
        count = max(0, len(self._rows) - REACH)
        lines = self.lines(0, count)
        del self._rows[:count]
        self._row -= count
        return lines

    def _move(self, control: str) -> None:
        if control == "\r":
            self._column = 0
        elif control == "\b":
            self._column = max(0, self._column - 1)
        elif control == "\t":
            self._tab()
        elif control in "\n\v\f":
            self._column = 0
            self._row += 1
            if self._row == len(self._rows):
                self._rows.append([])

    def _tab(self) -> None:
        width = _TAB - self._column % _TAB
        row = self._rows[self._row]
        if self._column >= len(row):
            self._write([("\t", self._style), *[("", self._style)] * (width - 1)])
        else:
            self._column += width

    def _put(self, text: str) -> None:
        if text.isascii():
            known, style = self._known, self._style
            self._write([known.get(character) or known.setdefault(character, (character, style)) for character in text])
            return
        for character in text:
            columns = _columns(character)
            if columns:
                self._write([(character, self._style), ("", self._style)][:columns])
            else:
                self._join(character)

    def _join(self, character: str) -> None:
        row = self._rows[self._row]
        before = self._column - 1
        while 0 < before < len(row) and not row[before][0]:
            before -= 1
        if 0 <= before < len(row) and len(row[before][0]) <= _MOST_MARKS:
            row[before] = (row[before][0] + character, row[before][1])

    def _write(self, cells: list[_Cell]) -> None:
        row = self._rows[self._row]
        begin, end = self._column, self._column + len(cells)
        if begin > len(row):
            row.extend([(" ", DEFAULT)] * (begin - len(row)))
        _divide(row, begin)
        _divide(row, end)
        row[begin:end] = cells
        self._column = end

    def _control(self, final: str, parameters: str) -> None:
        if final == "m":
            self._style = self._style.after(parameters)
            self._known = {}
            return
        if not (parameters.isdecimal() or parameters == ""):
            return
        given = int(parameters or 0)
        count = max(1, given)
        if final in "AF":
            self._row = max(0, len(self._rows) - REACH, self._row - count)
            self.climbed_to = self._row if self.climbed_to is None else min(self.climbed_to, self._row)
        elif final in "BE":
            self._row = min(len(self._rows) - 1, self._row + count)
        elif final == "C":
            self._column += min(count, max(0, _WIDTH - self._column))
        elif final == "D":
            self._column = max(0, self._column - count)
        elif final == "G":
            self._column = min(count, _WIDTH) - 1
        elif final in "JK":
            self._erase(given, below=final == "J")
        if final in "EF":
            self._column = 0

    def _erase(self, which: int, *, below: bool) -> None:
        row = self._rows[self._row]
        if which == 0:
            _divide(row, self._column)
            del row[self._column :]
            if below:
                del self._rows[self._row + 1 :]
        elif not below and which == 1:
            first, end = max(0, self._column + 1 - _WIDTH), self._column + 1
            _divide(row, first)
            _divide(row, end)
            row[first:end] = [(" ", DEFAULT)] * max(0, min(len(row), end) - first)
        elif not below and which == 2:
            row.clear()


def lines_of(text: str) -> list[Line]:
    """Return the lines that a terminal would show for a text."""
    if not _SPECIAL.search(text):
        return [[(line, DEFAULT)] if line else [] for line in text.split("\n")]
    screen = Screen()
    screen.feed(text)
    return screen.lines()


def plain(text: str) -> str:
    """Return what a terminal would show for a text, without colours."""
    return "\n".join(map(text_of, lines_of(text))) if _SPECIAL.search(text) else text


def from_line(text: str) -> str:
    """Return a text that was cut out of a longer one from its first whole line on; all of it if it is one line."""
    return text[text.find("\n") + 1 :] or text


def plain_end(text: str, *, is_cut: bool = False) -> str:
    """Return `plain` of the end of a text, of at most 8 Ki characters. A text that is plain already stays as it is.

    ``is_cut``: the text was cut out of a longer one, so its first line may begin within a sequence.
    """
    if not _SPECIAL.search(text):
        return text
    return plain(from_line(text[-_SHORT:]) if is_cut or len(text) > _SHORT else text)


def text_of(line: Line) -> str:
    """Return the text of a line."""
    return "".join(text for text, _ in line)


def _columns(character: str) -> int:
    """Return how many columns a character has; 0: it joins the one before."""
    if unicodedata.category(character)[0] == "M" or "\u200b" <= character <= "\u200d":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _divide(row: list[_Cell], column: int) -> None:
    """Replace a character of several columns by spaces if this column would divide it."""
    if not 0 < column < len(row) or row[column][0]:
        return
    begin = column
    while begin > 0 and not row[begin][0]:
        begin -= 1
    end = column
    while end < len(row) and not row[end][0]:
        end += 1
    row[begin:end] = [(" ", row[begin][1])] * (end - begin)


def _joined(row: list[_Cell]) -> Line:
    line: Line = []
    begin = 0
    for end in range(1, len(row) + 1):
        if end == len(row) or (row[end][1] is not row[begin][1] and row[end][1] != row[begin][1]):
            line.append(("".join(cell[0] for cell in row[begin:end]), row[begin][1]))
            begin = end
    return line
