"""docs/reference.md lists every public method of BackJob and every argument of start(), and nothing that is not there.

docs/reference-parts.md lists every part of an adapter.
"""

from __future__ import annotations

import inspect
import re
from typing import Final

from backjob import BackJob, adapters
from tests.docs.pages import ROOT

PAGE: Final = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def test_the_page_lists_every_public_method_and_starts_with_start() -> None:
    listed = re.findall(r"^::: backjob\.BackJob\.(\w+)$", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(name for name in dir(BackJob) if not name.startswith("_"))
    assert listed[:2] == ["start", "astart"]


def test_the_table_lists_every_argument_of_start_with_its_default() -> None:
    table = PAGE.partition("| argument |")[2].partition("\n\n")[0]
    listed = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    parameters = list(inspect.signature(BackJob.start).parameters)[1:]
    assert sorted(listed) == sorted(parameters)
    assert '| `method` | `"GET"` |' in table


def test_the_page_for_authors_lists_every_part_of_an_adapter() -> None:
    page = (ROOT / "docs" / "reference-parts.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: backjob\.adapters\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(adapters.__all__)
