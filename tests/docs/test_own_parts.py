"""The pages about parts of your own say how long their examples are."""

from __future__ import annotations

import re

import pytest

from tests.docs.code_lines import code_lines
from tests.docs.pages import ROOT, blocks


@pytest.mark.parametrize(
    ("page", "title"), [("own-transport.md", "thread_transport.py"), ("own-signer.md", "hmac_signer.py")]
)
def test_a_page_says_how_many_lines_of_code_its_example_has(page: str, title: str) -> None:
    path = ROOT / "docs" / page
    [example] = [block.code for block in blocks(path) if block.title == title]
    assert re.findall(r"has (\d+) lines of code", path.read_text(encoding="utf-8")) == [str(code_lines(example))]
