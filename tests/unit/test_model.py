"""The values: what they refuse, what their repr hides, and how they become JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob import model
from backjob.errors import InvalidRequest
from backjob.model import (
    UNSET,
    Caller,
    Changes,
    Credentials,
    Draft,
    Headers,
    Job,
    JobState,
    JsonValue,
    Query,
    Report,
    Request,
    Response,
    Status,
    Unset,
    clean_text,
    is_storable,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = "s3cr3t"
SECRET_HEADERS: Headers = (("Cookie", f"session={SECRET}"), ("Authorization", f"Bearer {SECRET}"))

any_text = st.text(st.characters(codec=None, exclude_categories=[]))


# --- text that every store can keep ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        ("plain", "plain"),
        ("tab\tline\r\n\x1b[0m", "tab\tline\r\n\x1b[0m"),
        ("a\0b", "a\ufffdb"),
        ("ä\0", "ä\ufffd"),
        ("\ufeffmark", "\ufeffmark"),
        ("\U0001f600", "\U0001f600"),
        ("\ud800", "\ufffd"),
        ("a\ud800b", "a\ufffdb"),
        ("\ud800\U0001f600", "\ufffd\U0001f600"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
    ],
)
def test_clean_text_replaces_only_nul_and_lone_surrogates(text: str, clean: str) -> None:
    assert clean_text(text) == clean


@given(any_text)
def test_cleaned_text_is_valid_utf_8_and_cleaning_it_again_changes_nothing(text: str) -> None:
    clean = clean_text(text)
    assert clean.encode("utf-8").decode("utf-8") == clean
    assert "\0" not in clean
    assert clean_text(clean) == clean


@given(any_text)
def test_cleaning_keeps_every_valid_character(text: str) -> None:
    good = [char for char in text if char != "\0" and not 0xD800 <= ord(char) <= 0xDFFF]
    kept = iter(clean_text(text))
    assert all(char in kept for char in good)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_cleaning_valid_text_changes_nothing(text: str) -> None:
    assert clean_text(text) == text


# --- what can't be stored can't be constructed ----------------------------------------------------------------------

REQUEST = Request("GET", "/work")
UNSTORABLE = ("\0", "a\0b", "\ud800", "\udc00\ud83d", "\U0001f600\udfff", "\udc80")
FAR = 7000 * 365 * 86400.0


def make_draft(**fields: Any) -> Draft:
    return Draft(**{"id": "job", "request": REQUEST, **fields})


def refusal(make: Callable[..., object], **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        make(**fields)
    return caught.value


@pytest.mark.parametrize("text", UNSTORABLE, ids=ascii)
def test_unstorable_text_is_refused_by_name(text: str) -> None:
    assert not is_storable(text)
    for make, names in (
        (make_draft, ("id", "owner", "scope", "lessee")),
        (Changes, ("token", "status_text", "lessee")),
        (Report, ("text", "output")),
        (Query, ("scope", "owner", "before")),
    ):
        for name in names:
            assert refusal(make, **{name: text}).argument == name


@given(any_text)
def test_text_is_storable_if_cleaning_does_not_change_it(text: str) -> None:
    assert is_storable(text) == (clean_text(text) == text)


@pytest.mark.parametrize(("name", "longest"), [("id", 128), ("owner", 255), ("scope", 255), ("lessee", 255)])
def test_a_label_longer_than_its_column_is_refused(name: str, longest: int) -> None:
    assert getattr(make_draft(**{name: "x" * longest}), name) == "x" * longest
    assert refusal(make_draft, **{name: "x" * (longest + 1)}).argument == name


@pytest.mark.parametrize(
    ("fields", "argument"),
    [
        ({"due": datetime(2031, 6, 1, 3, 0)}, "due"),  # noqa: DTZ001 - naive on purpose
        ({"due": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))}, "due"),
        ({"due": 1e12}, "due"),
        ({"due": -1e12}, "due"),
        ({"due": math.inf}, "due"),
        ({"due": math.nan}, "due"),
        ({"lease": math.nan}, "lease"),
        ({"lease": 1e12}, "lease"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("make", [make_draft, Changes])
def test_a_moment_outside_of_the_calendar_or_without_a_zone_is_refused(
    make: Callable[..., object], fields: dict[str, Any], argument: str
) -> None:
    assert refusal(make, **fields).argument == argument


@pytest.mark.parametrize("moment", [datetime(2031, 6, 1, 3, 0), 1e12, math.nan], ids=repr)  # noqa: DTZ001 - naive on purpose
def test_a_limit_outside_of_the_calendar_is_refused(moment: datetime | float) -> None:
    assert refusal(make_draft, expires=moment).argument == "expires"
    if isinstance(moment, float):
        assert refusal(Changes, deliver_by=moment).argument == "deliver_by"


@pytest.mark.parametrize("due", [0.0, FAR, datetime(1, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)])
def test_any_moment_of_the_calendar_can_be_due(due: datetime | float) -> None:
    assert make_draft(due=due).due == due
    assert Changes(due=due).due == due


@pytest.mark.parametrize("result", [{1, 2}, object(), b"bytes", {"in": [1j]}], ids=["set", "object", "bytes", "1j"])
def test_a_result_that_json_cannot_represent_is_refused(result: Any) -> None:
    assert refusal(Changes, result=result).argument == "result"


def test_a_result_nested_too_deeply_is_refused() -> None:
    deep: JsonValue = "bottom"
    for _ in range(100_000):
        deep = [deep]
    assert refusal(Changes, result=deep).argument == "result"


@pytest.mark.parametrize(
    ("make", "name", "least", "largest"),
    [
        (make_draft, "depth", 0, 2**31 - 1),
        (Changes, "attempt", 0, 2**31 - 1),
        (Changes, "progress", 0, 100),
        (Query, "limit", 0, 2**63 - 1),
    ],
)
def test_a_number_beyond_its_column_is_refused(make: Any, name: str, least: int, largest: int) -> None:
    for number in (least, largest):
        make(**{name: number})
    for number in (least - 1, largest + 1):
        assert refusal(make, **{name: number}).argument == name


@pytest.mark.parametrize(("given", "kept"), [(None, None), (-5, 0), (0, 0), (70, 70), (100, 100), (130, 100)])
def test_the_progress_of_a_report_is_clamped_to_0_and_100(given: int | None, kept: int | None) -> None:
    assert Report(progress=given).progress == kept


def test_a_tail_has_at_most_64_kib_and_belongs_to_output_that_was_cut() -> None:
    assert Report(tail="€" * 21_845 + "x", truncated=True).tail is not UNSET
    assert refusal(Report, tail="€" * 21_845 + "xx", truncated=True).argument == "tail"
    assert refusal(Report, tail="end").argument == "tail"
    assert refusal(Report, tail="\0", truncated=True).argument == "tail"
    assert Report().tail is UNSET


@pytest.mark.parametrize("ages", [(-1, 0), (0, -0.5), (math.nan, 1), (1, 1e12)])
def test_ages_that_no_job_can_have_are_refused(ages: tuple[float, float]) -> None:
    assert refusal(Query, expired=ages).argument == "expired"


@pytest.mark.parametrize("moment", [datetime(2031, 6, 1), 5.0, "2031-06-01"], ids=repr)  # noqa: DTZ001 - naive on purpose
def test_a_page_begins_at_a_moment_with_a_zone(moment: Any) -> None:
    assert refusal(Query, before_time=moment).argument == "before_time"


# --- reprs ----------------------------------------------------------------------------------------------------------

SECRET_REQUEST = Request("POST", "/work?id=5", SECRET_HEADERS, SECRET.encode())
SECRET_CALLER = Caller("https", "shop.example", "192.0.2.1", SECRET_HEADERS)
SECRET_JOB = Job(
    id="job1",
    created_time=NOON,
    start_time=NOON,
    deliver_by=NOON,
    updated_time=NOON,
    read_time=NOON,
    token=SECRET,
    sealed=SECRET.encode(),
    request=SECRET_REQUEST,
    caller=SECRET_CALLER,
)


@pytest.mark.parametrize(
    "value",
    [
        SECRET_REQUEST,
        Response(200, "OK", SECRET_HEADERS, SECRET.encode()),
        Credentials(SECRET_HEADERS),
        SECRET_CALLER,
        Draft(id="job1", request=SECRET_REQUEST, caller=SECRET_CALLER, sealed=SECRET.encode()),
        SECRET_JOB,
        Changes(token=SECRET),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_no_repr_shows_credentials_bodies_or_tokens(value: object, show: Callable[[object], str]) -> None:
    assert SECRET not in show(value)


def test_the_repr_of_a_request_names_method_path_and_headers() -> None:
    shown = repr(SECRET_REQUEST)
    assert all(part in shown for part in ("POST", "/work?…", "Cookie", "Authorization", "<6 bytes>"))
    assert "id=5" not in shown


def test_every_value_is_frozen() -> None:
    values = [getattr(model, name) for name in model.__all__]
    classes = [value for value in values if isinstance(value, type) and attrs.has(value)]
    assert len(classes) >= 12
    for cls in classes:
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            cls.__setattr__(cls.__new__(cls), attrs.fields(cls)[0].name, "other")


# --- requests and responses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/work", "/work", ""),
        ("/work?", "/work", ""),
        ("/work?id=5", "/work", "id=5"),
        ("/work?a=1?b", "/work", "a=1?b"),
        ("/a%3Fb?c", "/a%3Fb", "c"),
    ],
)
def test_a_target_is_split_into_path_and_query(target: str, path: str, query: str) -> None:
    request = Request("GET", target)
    assert (request.path, request.query) == (path, query)


def test_header_fields_are_joined_regardless_of_case() -> None:
    request = Request("GET", "/", (("X-A", "1"), ("Other", "2"), ("x-a", "3")))
    assert request.header("x-A") == "1, 3"
    assert request.header("X-B") is None


def test_a_response_header_is_the_first_field_of_that_name() -> None:
    response = Response(302, headers=(("Location", "/a"), ("location", "/b")))
    assert response.header("LOCATION") == "/a"
    assert response.header("X-B") is None


def test_credentials_are_truthy_if_there_are_any() -> None:
    assert Credentials(SECRET_HEADERS)
    assert not Credentials()


def test_unset_is_false_and_differs_from_none() -> None:
    assert not UNSET
    assert UNSET is Unset.UNSET
    assert Changes().result is UNSET
    assert Changes(result=None).result is None


# --- the state of a job ---------------------------------------------------------------------------------------------


def a_state(*, end_time: datetime | None = None, result: JsonValue = None) -> JobState:
    return JobState(
        id="job1",
        status=Status.IN_PROGRESS,
        progress=40,
        status_text="Chugging along",
        start_time=NOON,
        updated_time=datetime(2026, 3, 1, 14, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=2))),
        end_time=end_time,
        result=result,
        owner="ann",
        scope="reports",
    )


def test_the_dictionary_of_a_state_survives_json() -> None:
    dictionary = a_state(end_time=NOON, result={"href": "/export.csv", "rows": [1, 2.5, None, True]}).as_dict()
    assert json.loads(json.dumps(dictionary)) == dictionary


def test_the_dictionary_of_a_state_has_plain_types() -> None:
    dictionary = a_state().as_dict()
    assert dictionary == {
        "id": "job1",
        "progress": 40,
        "status": 1,
        "status_name": "IN_PROGRESS",
        "status_text": "Chugging along",
        "start_time": "2026-03-01T12:00:00+00:00",
        "updated_time": "2026-03-01T14:00:00.250000+02:00",
        "end_time": None,
        "result": None,
        "owner": "ann",
        "scope": "reports",
        "waiting_for": None,
        "attempt": 1,
        "retries": 0,
        "history": [],
        "title": "",
        "method": "",
        "path": "",
        "queue": "default",
        "created_time": None,
        "claimed_time": None,
        "file": None,
    }
    assert type(dictionary["status"]) is int
    # In JSON, "error" is the text of a response that refuses a request.
    assert dictionary.keys() == {*attrs.fields_dict(JobState), "status_name"} - {"error", "keeps_request"}


def test_the_dictionary_of_a_state_does_not_say_of_which_kind_an_error_was() -> None:
    entry = {"run": 1, "begin": None, "end": "2026-03-01T12:00:00+00:00", "reason": "KeyError", "error": "unexpected"}
    state = attrs.evolve(a_state(), history=[entry], error="unexpected")
    assert state.as_dict()["history"] == [{name: value for name, value in entry.items() if name != "error"}]


def test_a_state_has_no_field_of_the_request() -> None:
    assert not {"request", "caller", "token", "sealed"} & attrs.fields_dict(JobState).keys()
