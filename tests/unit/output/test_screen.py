"""Output is shown as a terminal would show it. ``vectors.json`` is also run in the browser, for ``terminal.js``."""

from __future__ import annotations

import json
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob.output import Screen, classes_of, html_of, lines_of, plain
from backjob.output.screen import Line

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))
_PIECES = st.sampled_from(
    ["a", "bc", "\n", "\r", "\b", "\t", "漢", "🚀", "\u0301", "<&", "\x1b[A", "\x1b[2A", "\x1b[B", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[J",
     "\x1b[3C", "\x1b[2D", "\x1b[5G", "\x1b[31m", "\x1b[1;44m", "\x1b[38;5;99m", "\x1b[m", "\x1b]0;t\x07", "\x1b[", "\x1b", "3", "m", "\0"]
)  # fmt: skip


def shown(lines: list[Line]) -> list[list[list[str]]]:
    return [[[text, classes_of(style)] for text, style in line] for line in lines]


def of_chunks(chunks: list[str]) -> list[Line]:
    screen = Screen()
    for chunk in chunks:
        screen.feed(chunk)
    return screen.lines()


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_a_vector(vector: dict[str, Any]) -> None:
    assert shown(of_chunks(vector["chunks"])) == vector["lines"]
    assert shown(lines_of("".join(vector["chunks"]))) == vector["lines"]


@given(st.lists(_PIECES), st.lists(st.integers(0, 60)))
def test_the_chunks_do_not_matter(pieces: list[str], cuts: list[int]) -> None:
    text = "".join(pieces)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert of_chunks([text[begin:end] for begin, end in pairwise(edges)]) == of_chunks([text])


@given(st.text())
def test_no_text_is_an_error_and_no_control_character_is_left(text: str) -> None:
    left = plain(text)
    assert not any((character < " " and character not in "\n\t") or "\x7f" <= character <= "\x9f" for character in left)


@given(st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.just("\n")))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert plain(text) == text
    assert "\n".join("".join(part for part, _ in line) for line in of_chunks([text])) == text


def test_html_is_escaped_and_has_classes_alone() -> None:
    hostile = '\x1b[1;38;2;1;2;3m<script>\x1b]8;;javascript:alert(1)\x1b\\"&\x1b[0m</pre>'
    assert html_of(hostile) == (
        '<span class="bj-bold bj-fx bj-fr0 bj-fg0 bj-fb0">&lt;script&gt;&quot;&amp;</span>&lt;/pre&gt;'
    )


@pytest.mark.parametrize(
    "text",
    [
        *("\x1b]" * 30_000, "\x1b[1;" * 16_000, "\x1b[999C\r" * 9_000, "a\n\x1b[A" * 13_000, "\u0301" * 60_000),
        *("\x1b[999Cx\n" * 8_000, "\x1b[999Gx\n" * 8_000, "\t" * 65_536, "\n" * 60 + "\x1b[A\x1b[Jx\n" * 8_000),
    ],
)
def test_hostile_output_takes_time_and_space_in_proportion_to_its_length(text: str) -> None:
    began = time.process_time()
    assert len(html_of(text[:65_536])) < 40 * 65_536
    assert time.process_time() - began < 2


@pytest.mark.parametrize("then", ["\x1b[1K", "\u0301", "\rb\x1b[999C"])
def test_a_long_line_makes_no_later_character_slow(then: str) -> None:
    screen = Screen()
    screen.feed("\x1b[m" + "a" * 500_000)
    began = time.process_time()
    screen.feed(then * 40_000)
    assert time.process_time() - began < 2


def test_a_long_line_takes_little_memory() -> None:
    tracemalloc.start()
    try:
        screen = Screen()
        screen.feed("a" * (1 << 20))
        assert tracemalloc.get_traced_memory()[0] < 20 << 20
    finally:
        tracemalloc.stop()
