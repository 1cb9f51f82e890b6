from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob.errors import InvalidRequest
from backjob.http.targets import canonical_path, join_query, normalise, reproduces_itself


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("/", "/"),
        ("/reports/work", "/reports/work"),
        ("/reports/work/", "/reports/work/"),
        ("/a//b", "/a//b"),
        ("/%7euser/%41%2d%5F", "/~user/A-_"),
        ("/a%2fb%3bc", "/a%2Fb%3Bc"),
        ("/a b", "/a%20b"),
        ("/grüße", "/gr%C3%BC%C3%9Fe"),
        ("/日本", "/%E6%97%A5%E6%9C%AC"),
        ("/!$&'()*+,;=:@~-._", "/!$&'()*+,;=:@~-._"),
        ('/"<>[\\]^`{|}', "/%22%3C%3E%5B%5C%5D%5E%60%7B%7C%7D"),
        ("/a.b/..c/d../...", "/a.b/..c/d../..."),
        ("/work?", "/work"),
        ("/work?a=b", "/work?a=b"),
        ("/work?a=b c&d=ü", "/work?a=b%20c&d=%C3%BC"),
        ("/work?a[]=1", "/work?a%5B%5D=1"),
        ("/work?a=%7e%2f", "/work?a=~%2F"),
        ("/work?a=/b?c", "/work?a=/b?c"),
        ("/work??", "/work??"),
        ("/work?a=../b", "/work?a=../b"),
        ("/work?a+b=c+d", "/work?a+b=c+d"),
    ],
)
def test_targets_are_normalised(written: str, normal: str) -> None:
    assert normalise(written) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    "refused",
    [
        "",
        "work",
        "?a=b",
        "http://example.com/work",
        "//example.com/work",
        "/work#top",
        "/work?a=b#top",
        "/.",
        "/..",
        "/a/./b",
        "/a/../b",
        "/a/..",
        "/a/%2e%2E/b",
        "/a/.%2e",
        "/a%2F..%2Fb",
        "/a\nb",
        "/a\0",
        "/a\x7f",
        "/a?b=\r\n",
        "/100%",
        "/%zz",
        "/%4",
        "/a?b=100%",
        "/\ud800",
    ],
)
def test_an_invalid_path_is_refused(refused: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        normalise(refused)
    assert caught.value.argument == "path"


@given(st.text(alphabet=st.characters(exclude_characters="#", exclude_categories=["Cs", "Cc"])))
def test_normalising_gives_ascii_is_idempotent_and_keeps_the_meaning(text: str) -> None:
    try:
        target = normalise("/" + text)
    except InvalidRequest:
        return
    assert target.isascii()
    assert target.isprintable()
    assert " " not in target
    assert normalise(target) == target
    assert unquote_to_bytes(target) == unquote_to_bytes("/" + text).removesuffix(b"?" if text.count("?") == 1 else b"")


@given(st.binary())
def test_a_canonical_path_decodes_to_its_bytes_and_reproduces_itself(decoded: bytes) -> None:
    path = canonical_path(decoded)
    assert unquote_to_bytes(path) == decoded
    assert canonical_path(unquote_to_bytes(path)) == path
    assert reproduces_itself(path)


@pytest.mark.parametrize("path", ["/a%2Fb", "/a%3Bb", "/a%2fb", "/%41", "/a[b", "/100%", "/a%c3%bc", "/a%40b"])
def test_a_path_with_escaped_delimiters_does_not_survive_decoding(path: str) -> None:
    assert not reproduces_itself(path)


@pytest.mark.parametrize("path", ["/", "/a;b=c", "/a%20b", "/a%C3%BC", "/a%25", "/a%5Bb", "/!$&'()*+,;=:@~-._"])
def test_an_ordinary_path_survives_decoding(path: str) -> None:
    assert reproduces_itself(path)


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ({}, ""),
        ({"id": 5}, "id=5"),
        ({"id": [1, 2, None, 3]}, "id=1&id=2&id=3"),
        ({"id": (), "none": None, "a": ""}, "a="),
        ({"a": True, "b": False}, "a=true&b=false"),
        ({"a": 1.5, "b": Decimal("1.50")}, "a=1.5&b=1.50"),
        ({"a b": "c&d=e+f/ü~"}, "a%20b=c%26d%3De%2Bf%2F%C3%BC~"),
        ({"on": date(2026, 11, 22)}, "on=2026-11-22"),
        ({"at": datetime(2026, 11, 22, 3, tzinfo=UTC)}, "at=2026-11-22T03%3A00%3A00%2B00%3A00"),
        ({"at": time(3, 4)}, "at=03%3A04%3A00"),
        ({"id": UUID(int=1)}, "id=00000000-0000-0000-0000-000000000001"),
        ({"c": Colour.RED, "s": Size.LARGE}, "c=red&s=3"),
        ([("b", 1), ("a", 2), ("b", 3)], "b=1&a=2&b=3"),
    ],
)
def test_values_become_a_query(params: Any, query: str) -> None:
    assert join_query(params) == query


@pytest.mark.parametrize(
    "params",
    [
        {"a": {"b": 1}},
        {"a": [[1]]},
        {"a": object()},
        {"a": b"bytes"},
        {"a": {1, 2}},
        {5: "a"},
        {None: 1},
        {"a": "\ud800"},
        {"\ud800": 1},
    ],
)
def test_an_invalid_query_value_is_refused(params: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        join_query(params)
    assert caught.value.argument == "query"


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text())))
def test_any_text_survives_the_query(pairs: list[tuple[str, str]]) -> None:
    query = join_query(pairs)
    assert parse_qsl(query, keep_blank_values=True) == pairs
    assert normalise("/?" + query) == ("/?" + query if query else "/")
