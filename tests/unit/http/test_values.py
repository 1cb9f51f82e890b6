"""Values that users pass: what plainly means text or JSON is taken, everything else is refused by the argument's name."""

from __future__ import annotations

import json
import math
import sys
from collections import UserString, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any
from uuid import UUID

import pytest
from babel.support import LazyProxy
from django.utils.functional import lazystr
from django.utils.safestring import SafeString
from markupsafe import Markup

from backjob.errors import InvalidRequest
from backjob.http.values import json_text, pairs_of, text_of


class Size(IntEnum):
    LARGE = 3


class Colour(str, Enum):  # noqa: UP042 - str() of a member is not its value
    RED = "red"


class Word(StrEnum):
    YES = "yes"


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("never called")


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        ("ä", "ä"),
        (Loud("x"), "x"),
        (Markup("<b>"), "<b>"),
        (SafeString("x"), "x"),
        (Colour.RED, "red"),
        (Word.YES, "yes"),
        (lazystr("lazy"), "lazy"),
        (LazyProxy(lambda: "lazy"), "lazy"),
        (UserString("x"), "x"),
        (Path("/tmp/x"), "/tmp/x"),
        (ValueError("no rows"), "no rows"),
        (KeyError(), "KeyError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_plainly_means_text_is_taken_as_a_plain_str(value: object, text: str) -> None:
    found = text_of("text", value)
    assert (found, type(found)) == (text, str)


@pytest.mark.parametrize("value", [3, 0.5, True, None, {"rows": 5}, [1], b"x", object(), str, Silent(), Size.LARGE])
def test_what_is_no_text_is_refused_by_the_arguments_name(value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        text_of("status_text", value, "; pass result=")
    assert caught.value.argument == "status_text"


@pytest.mark.parametrize("argument", ["query", "form"])
def test_a_query_and_a_form_have_the_same_rules(argument: str) -> None:
    values = {
        "a": [1, None, Size.LARGE, Colour.RED],
        "b": True,
        "c": None,
        "d": date(2026, 11, 29),
        "e": Decimal("1.50"),
        "f": lazystr("lazy"),
        "g": timedelta(hours=1),
    }
    assert pairs_of(argument, values) == [
        ("a", "1"),
        ("a", "3"),
        ("a", "red"),
        ("b", "true"),
        ("d", "2026-11-29"),
        ("e", "1.50"),
        ("f", "lazy"),
        ("g", "P0DT01H00M00S"),
    ]


@pytest.mark.parametrize(
    "params",
    [
        "a=b",
        b"a=b",
        5,
        ["ab"],
        [("a",)],
        [("a", 1, 2)],
        {5: "a"},
        {"a": {"b": 1}},
        {"a": b"x"},
        {"a": {1}},
        {"a": [[1]]},
    ],
    ids=repr,
)
def test_an_invalid_form_is_refused_by_its_name(params: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        pairs_of("form", params)
    assert caught.value.argument == "form"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 11, 29, 3, 4, 5, 6, UTC), "2026-11-29T03:04:05.000006+00:00"),
        (datetime(2026, 11, 29, 3), "2026-11-29T03:00:00"),  # noqa: DTZ001
        (date(2026, 11, 29), "2026-11-29"),
        (time(3, 4, tzinfo=timezone(timedelta(hours=1))), "03:04:00+01:00"),
        (timedelta(days=1, seconds=2, microseconds=5), "P1DT00H00M02.000005S"),
        (-timedelta(hours=2), "-P0DT02H00M00S"),
        (Decimal("12.50"), "12.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Size.LARGE, 3),
        (Colour.RED, "red"),
        (lazystr("lazy"), "lazy"),
        (Loud("x"), "x"),
        ((1, 2), [1, 2]),
        (range(3), [0, 1, 2]),
        (deque([1]), [1]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (
            {1: "a", None: "b", False: "c", 1.5: "d", Size.LARGE: "e"},
            {"1": "a", "null": "b", "false": "c", "1.5": "d", "3": "e"},
        ),
        ({date(2026, 11, 29): 5, UUID(int=2): 6}, {"2026-11-29": 5, "00000000-0000-0000-0000-000000000002": 6}),
        ([True, False, None, 10**100, "\ud800"], [True, False, None, 10**100, "\ud800"]),
    ],
    ids=repr,
)
def test_values_in_a_result_have_their_usual_form_in_json(value: object, expected: object) -> None:
    assert json.loads(json_text("result", value)) == expected
    assert json.loads(json_text("result", {"deep": [value]})) == {"deep": [expected]}


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        Decimal("NaN"),
        Decimal("-Infinity"),
        b"x",
        {1, 2},
        object(),
        ValueError("x"),
        Path("x"),
        LOOP,
        {(1, 2): 3},
        {b"a": 1},
        {math.nan: 1},
        {1: "a", "1": "b"},
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrapped", [lambda value: value, lambda value: {"deep": [value]}], ids=["alone", "nested"])
def test_what_json_can_not_represent_is_refused_by_the_arguments_name(
    value: object, wrapped: Callable[[object], object]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        json_text("result", wrapped(value))
    assert caught.value.argument == "result"


def test_the_error_says_where_the_value_is() -> None:
    with pytest.raises(InvalidRequest, match=r"a value of type set at \['rows'\]\[1\]"):
        json_text("result", {"rows": [1, {2}]})


@pytest.mark.parametrize("module", ["decimal", "uuid"])
def test_a_module_that_another_thread_is_importing_does_no_harm(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, ModuleType(module))  # as long as it has no class yet
    assert text_of("title", UserString("report")) == "report"
    assert [*pairs_of("query", {"day": date(2026, 11, 30)})] == [("day", "2026-11-30")]
    with pytest.raises(InvalidRequest, match="a value of type object"):
        json_text("json", object())
