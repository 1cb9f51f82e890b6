"""Only lines with code count."""

from __future__ import annotations

import pytest

from tests.docs.code_lines import code_lines


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("a = 1\n\n\nb = 2\n", 2),
        ("# a comment\na = 1  # another\n    # indented\n", 1),
        ('"""Of the module."""\n\nimport os\n', 1),
        ('class A:\n    """Of a class,\n\n    in four lines.\n    """\n\n    a = 1\n', 2),
        ('async def f():\n    """Of a function."""\n', 1),
        ("x = f(\n    1,\n\n    # a comment\n    2,\n)\n", 4),
        ('text = """one\n\nthree"""\n', 2),
    ],
    ids=["nothing", "blank", "comments", "module", "class", "function", "call", "string"],
)
def test_blank_lines_comments_and_docstrings_do_not_count(text: str, count: int) -> None:
    assert code_lines(text) == count
