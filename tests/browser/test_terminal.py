"""``terminal.js`` shows the same as ``backjob.output``: the same vectors, random texts, and real output of real programs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backjob.output import classes_of, lines_of
from backjob.output.screen import REACH

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Site, Visitor

pytestmark = [pytest.mark.slow, pytest.mark.any_browser]

OUTPUT = Path(__file__).parents[1] / "unit" / "output"
VECTORS: list[dict[str, Any]] = json.loads((OUTPUT / "vectors.json").read_text("utf-8"))
RECORDED = sorted((OUTPUT / "recorded").glob("*.txt"))
PIECES = (
    *("a", "bc", "\n", "\n", "\r", "\b", "\t", "漢", "🚀", "e\u0301", "<&", "\x1b[A", "\x1b[3A", "\x1b[B", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[J"),
    *("\x1b[3C", "\x1b[2D", "\x1b[5G", "\x1b[2F", "\x1b[31m", "\x1b[1;44m", "\x1b[38;5;99m", "\x1b[48:2::9:99:200m", "\x1b[4:3m", "\x1b[22;39m", "\x1b[m"),
    *("\x1b]0;t\x07", "\x1b[", "\x1b", "3", "m", "\0", "\x1b[?25l", "\x1b[38;5;300;1m", "\x1b[58;2;1;2;3;4m", "\x1b[97;107m", "\x1b[999A", "x" * 70),
)  # fmt: skip

SHOW = """async (texts) => {
  const { Screen } = await import("/backjob/terminal.js");
  return texts.map((chunks) => {
    const node = document.createElement("pre"), screen = new Screen(node), leaves = [];
    for (const chunk of chunks) screen.feed(chunk);
    const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) leaves.push([walker.currentNode.data, walker.currentNode.parentNode.className]);
    return leaves;
  });
}"""


def of_leaves(leaves: list[list[str]]) -> list[list[list[str]]]:
    """Return the lines of pairs of text and classes."""
    lines: list[list[list[str]]] = [[]]
    for text, classes in leaves:
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append([])
            if part and lines[-1] and lines[-1][-1][1] == classes:
                lines[-1][-1][0] += part
            elif part:
                lines[-1].append([part, classes])
    return lines


def expected(text: str) -> list[list[list[str]]]:
    return [[[part, classes_of(style)] for part, style in line] for line in lines_of(text)]


def shown(page: Page, texts: list[list[str]]) -> list[list[list[list[str]]]]:
    return [of_leaves(leaves) for leaves in page.evaluate(SHOW, texts)]


@pytest.fixture
def loaded(site: Site, page: Page) -> Page:
    page.goto(site.url)
    return page


def test_the_vectors(loaded: Page) -> None:
    found = shown(loaded, [vector["chunks"] for vector in VECTORS])
    for vector, lines in zip(VECTORS, found, strict=True):
        assert lines == vector["lines"], vector["name"]


def test_random_texts_in_random_chunks(loaded: Page) -> None:
    source = random.Random(7)
    texts = [[source.choice(PIECES) for _ in range(source.randrange(1, 300))] for _ in range(150)]
    for pieces, lines in zip(texts, shown(loaded, texts), strict=True):
        assert lines == expected("".join(pieces)), pieces


@pytest.mark.parametrize("path", RECORDED, ids=[path.stem for path in RECORDED])
def test_recorded_output(loaded: Page, path: Path) -> None:
    text = path.read_bytes().decode()
    chunks = [text[begin : begin + 700] for begin in range(0, len(text), 700)]
    assert shown(loaded, [chunks]) == [expected(text)]


def test_a_chunk_changes_only_its_own_lines(loaded: Page) -> None:
    kept = loaded.evaluate("""async (reach) => {
      const { Screen } = await import("/backjob/terminal.js");
      const node = document.createElement("pre"), screen = new Screen(node);
      screen.feed("\\x1b[1mbold\\x1b[0m\\n" + "line\\n".repeat(3 * reach));
      const before = [...node.childNodes], changed = [];
      new MutationObserver((records) => changed.push(...records)).observe(node, { childList: true, characterData: true, subtree: true });
      screen.feed("10 %\\r20 %");
      await Promise.resolve();
      return [before.length, node.childNodes.length, changed.length, new Set(changed.map((one) => one.target)).size];
    }""", REACH)  # fmt: skip
    before, after, changes, targets = kept
    assert before == after < REACH + 5  # the lines above are one text, not a node each
    assert (changes, targets) == (1, 1)


def test_the_oldest_lines_are_cut_off(loaded: Page) -> None:
    first, lengths, cut = loaded.evaluate("""async () => {
      const { Screen } = await import("/backjob/terminal.js");
      const node = document.createElement("pre"), screen = new Screen(node), lengths = [];
      let cut = 0;
      for (let n = 0; n < 3000; n += 1) {
        cut += screen.feed(`\\x1b[3${n % 8}m${String(n).padStart(9)}\\x1b[0m\\n${"plain ".repeat(30)}\\n`);
        lengths.push(node.textContent.length);
      }
      return [node.textContent.slice(0, 40), lengths, cut];
    }""")
    assert max(lengths) < 270_000
    assert lengths[-1] > 130_000
    assert 1 <= cut < 20
    assert first.strip()


def test_a_line_that_never_ends_is_cut_off(loaded: Page) -> None:
    length, cut = loaded.evaluate("""async () => {
      const { Screen } = await import("/backjob/terminal.js");
      const node = document.createElement("pre"), screen = new Screen(node);
      let cut = 0;
      for (let n = 0; n < 30; n += 1) cut += screen.feed("x".repeat(10000));
      return [node.textContent.length, cut];
    }""")
    assert 130_000 < length < 263_000
    assert cut == 1


def test_the_element_shows_output_as_a_terminal_would(site: Site, loaded: Page) -> None:
    output = loaded.locator('[part="output"]')
    site.do("echo", "Loading\n10 %")
    output.get_by_text("10 %").wait_for()
    site.do("echo", "\r\x1b[32m20 %\x1b[0m")
    loaded.locator(".bj-f2").get_by_text("20 %").wait_for()
    site.do("echo", "\r\x1b[K<b>done</b>\n")
    output.get_by_text("<b>done</b>").wait_for()
    assert output.text_content() == "Loading\n<b>done</b>\n"
    assert loaded.locator('[part="text"]').text_content() == "<b>done</b>"
    assert output.locator("b").count() == 0
    site.do("finish")
    loaded.locator('[data-status="completed"]').wait_for()


def test_the_element_shows_the_end_of_output_that_exceeds_the_limit(site: Site, loaded: Page) -> None:
    output = loaded.locator('[part="output"]')
    site.do("echo", "beginning\n" + ("x" * 99 + "\n") * 12_000)
    note = output.locator('[part="note"]')
    note.wait_for(state="visible")
    site.do("echo", "\x1b[31mthe <b>end</b>\x1b[0m\n")
    output.locator(".bj-f1").get_by_text("the <b>end</b>").wait_for()
    text = output.text_content() or ""
    before, gap, after = text.partition("The output exceeded the limit; a part is missing here.")
    assert gap
    assert before.endswith("x" * 10)
    assert after.startswith("x" * 99 + "\n")
    assert after.endswith("the <b>end</b>\n")
    assert len(after) < 66_000
    site.do("finish")
    loaded.locator('[data-status="completed"]').wait_for()


def test_the_element_shows_the_text_as_it_is_if_it_cannot_load_the_rest(
    site: Site, page: Page, visitor: Visitor
) -> None:
    visitor.expected = "404|terminal.js"
    page.route("**/terminal.js", lambda route: route.fulfill(status=404, body=""))
    page.goto(site.url)
    site.do("echo", "10 %\n<b>20 %</b>\n")
    page.locator('[part="output"]').get_by_text("20 %").wait_for()
    assert page.locator('[part="output"]').text_content() == "10 %\n<b>20 %</b>\n"
    site.do("finish")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_can_be_read(site: Site, loaded: Page, scheme: Any) -> None:
    loaded.emulate_media(color_scheme=scheme)
    loaded.goto(site.url + (loaded.locator("backjob-progress").get_attribute("src") or ""))
    colours = [
        f"\x1b[{code}m{code}\x1b[0m" for code in (*range(30, 38), *range(40, 48), *range(90, 98), *range(100, 108))
    ]
    colours += [f"\x1b[38;5;{number}m{number}\x1b[0m" for number in range(16, 256, 7)]
    site.do("echo", " ".join(colours) + "\n")
    loaded.locator(".bj-g15").wait_for()
    low = loaded.evaluate(CONTRASTS)
    assert low == []
    site.do("finish")


CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  const bright = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const low = [];
  for (const span of document.querySelectorAll('[part="output"] [class*="bj-"]')) {
    const style = getComputedStyle(span), empty = "rgba(0, 0, 0, 0)";
    const page = getComputedStyle(document.body).backgroundColor;
    const back = style.backgroundColor !== empty ? style.backgroundColor : page === empty ? "white" : page;
    const [low_, high] = [bright(style.color), bright(back)].sort((a, b) => a - b), ratio = (high + 0.05) / (low_ + 0.05);
    if (ratio < 4.5) low.push([span.textContent, span.className, style.color, back, ratio]);
  }
  return low;
}"""
