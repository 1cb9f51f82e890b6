"""The browser's files: small, without dependencies, and allowed by a strict Content-Security-Policy."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
import rjsmin

from backjob.cli.bar import Progress, Style, draw
from backjob.model import JobState, Status
from backjob.status.languages import ENGLISH
from backjob.status.page import Links, asset, render
from backjob.status.words import RETRYING, WAITING, WORDS

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LARGEST_SCRIPT = 6_000  # bytes, minified and gzipped


class Inline(HTMLParser):
    """Collects what a policy of ``script-src 'self'; style-src 'self'`` would block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag if tag in ("script", "style") else None
        for name, value in attrs:
            if name == "style" or name.startswith("on") or (value or "").lower().startswith("javascript:"):
                self.found.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        if self.inside and data.strip():
            self.found.append(f"{self.inside}: {data}")

    def handle_endtag(self, tag: str) -> None:
        self.inside = None


def inline_parts(markup: str) -> list[str]:
    parser = Inline()
    parser.feed(markup)
    return parser.found


def rendered() -> str:
    links = Links(assets="/backjob", job="/backjob/job1", cancel="/backjob/job1.token/cancel")
    state = JobState(
        id="job1",
        status=Status.IN_PROGRESS,
        progress=40,
        status_text="Chugging along",
        start_time=NOON,
        updated_time=NOON,
        end_time=None,
        result={"href": "/export.csv"},
        owner="ann",
        scope="",
    )
    return render(state, "some output", more=True, truncated=True, links=links).decode("utf-8")


def test_the_page_has_no_inline_script_or_style() -> None:
    assert inline_parts(rendered()) == []
    assert inline_parts(asset("page.html").decode("utf-8")) == []


@pytest.mark.parametrize(
    "markup",
    [
        "<script>x</script>",
        "<style>p{}</style>",
        '<p style="x">',
        '<p onclick="x">',
        '<a href="javascript:x">',
    ],
)
def test_the_check_finds_inline_scripts_and_styles(markup: str) -> None:
    assert len(inline_parts(markup)) == 1


def test_no_placeholder_is_left_in_the_page() -> None:
    assert "{{" not in rendered()


def test_the_element_is_small() -> None:
    minified = rjsmin.jsmin(asset("progress.js").decode("utf-8"))
    assert len(gzip.compress(str(minified).encode(), mtime=0)) < LARGEST_SCRIPT


@pytest.mark.parametrize(
    "sink", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", ".style"]
)
def test_the_element_uses_no_markup_eval_or_inline_style(sink: str) -> None:
    assert sink not in asset("progress.js").decode("ascii", "replace")
    assert sink not in asset("terminal.js").decode("ascii", "replace")
    assert sink not in asset("words.js").decode("ascii", "replace")


def test_the_element_imports_only_the_files_for_languages_and_output() -> None:
    assert re.findall(r"import.*", asset("progress.js").decode()) == [
        'import(new URL("words.js", folder)).then(({ language }) => language(folder, tag)).catch(() => ({}));',
        "import(file).then(({ Screen }) => new Screen(lines, end), () => ({ feed: (text) => lines.append(text) }));",
    ]
    assert "import" not in asset("terminal.js").decode() + asset("words.js").decode()


@pytest.mark.parametrize("name", ["progress.js", "terminal.js", "words.js"])
@pytest.mark.parametrize("minify", [str, rjsmin.jsmin], ids=["as it is", "minified"])
def test_the_element_is_valid_javascript(tmp_path: Path, minify: Callable[[str], str], name: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = tmp_path / (name if name == "progress.js" else name.replace(".js", ".mjs"))
    script.write_text(minify(asset(name).decode("utf-8")), encoding="utf-8")
    subprocess.run([node, "--check", str(script)], check=True, timeout=30)


def test_each_selector_is_limited_to_the_element_or_the_page() -> None:
    css = re.sub(r"/\*.*?\*/", "", asset("progress.css").decode("utf-8"), flags=re.DOTALL)
    rules = [line.strip() for line in css.splitlines() if line.rstrip().endswith("{") and not line.startswith("@")]
    assert rules
    assert [one for one in rules if not one.startswith(("backjob-progress", ".backjob-page", "from"))] == []
    assert re.findall(r"@keyframes (\S+)", css) == ["backjob-to-and-fro"]


@pytest.mark.parametrize("feature", ["prefers-color-scheme: dark", "prefers-reduced-motion: reduce", "max-width"])
def test_the_style_adapts_to_dark_mode_narrow_screens_and_reduced_motion(feature: str) -> None:
    assert f"@media ({feature}" in asset("progress.css").decode("utf-8")


def test_the_package_contains_all_static_files() -> None:
    names = {entry.name for entry in files("backjob.status").joinpath("static").iterdir()}
    assert names == {
        *(
            "list.css",
            "list.js",
            "list.html",
            "page.html",
            "progress.css",
            "progress.d.ts",
            "progress.html",
            "progress.js",
            "terminal.js",
            "words.js",
        ),
    }


def test_the_terminal_shows_the_same_words_as_the_page() -> None:
    style = Style("#", ".", "*", "+x-", ("[", "]"), colours=False)
    for status, word in WORDS.items():
        assert re.match(rf"\S {word}  ", draw(Progress(status, 40, ""), style, 79))
    retry = Progress(Status.STARTED, 40, "", attempt=2)
    assert re.match(rf"\S {RETRYING}  ", draw(retry, style, 79))


def test_the_page_and_the_element_use_the_same_words() -> None:
    script = asset("progress.js").decode()
    texts = dict(re.findall(r'^    (\w+): "([^"]*)",$', script, re.MULTILINE))
    assert texts == {name: ENGLISH.words[name] for name in texts}
    assert {status: texts[status.name.lower()] for status in Status} == WORDS


def test_each_reason_to_wait_has_words() -> None:
    assert set(WAITING) == {"due", "place", "connection", "proof", "store", "engine"}
