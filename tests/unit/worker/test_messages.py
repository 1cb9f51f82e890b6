"""The message in the body of an error response."""

from __future__ import annotations

import json
import time

import pytest

from backjob.worker.messages import message_of

NOT_FOUND = "404 Not Found"
BAD = "400 Bad Request"

FLASK = """<!doctype html>
<html lang=en>
<title>404 Not Found</title>
<h1>Not Found</h1>
<p>No such customer: O&#39;Neill &amp; Sons</p>
"""
DJANGO = """
<!doctype html>
<html lang="en">
<head>
  <title>Not Found</title>
</head>
<body>
  <h1>Not Found</h1><p>The customer is <b>gone</b>.</p>
</body>
</html>
"""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"detail": "Not allowed today"}, "Not allowed today"),
        ({"message": "m", "code": 7}, "m"),
        ({"error": {"code": 7, "message": "deeper"}}, "deeper"),
        ({"title": "Out of credit", "status": 403, "type": "about:blank"}, "Out of credit"),
        ({"title": "Out of credit", "detail": "Your balance is 30"}, "Your balance is 30"),
        ({"error": "first", "title": "second"}, "first"),
        ({"detail": None, "message": "m"}, "m"),
        ("only text", "only text"),
        (["one", "two"], "one; two"),
        (
            {"detail": [{"type": "missing", "loc": ["query", "q"], "msg": "Field required", "input": None}]},
            "query.q: Field required",
        ),
        (
            {
                "detail": [
                    {"type": "missing", "loc": ["body", "name"], "msg": "Field required"},
                    {"type": "int_parsing", "loc": ["body", "items", 3], "msg": "Not a number"},
                ]
            },
            "body.name: Field required; body.items.3: Not a number",
        ),
        ({"email": ["Enter a valid email address."]}, "email: Enter a valid email address."),
        (
            {"title": ["This field is required."], "age": ["Too young.", "Not a number."]},
            "title: This field is required.; age: Too young. Not a number.",
        ),
        ({"non_field_errors": ["Passwords differ."]}, "Passwords differ."),
        ({"address": {"city": ["Unknown."]}}, "address: city: Unknown."),
        ({}, None),
        ({"id": 7, "ok": False}, None),
        (None, None),
        ({"detail": "Not found."}, None),
        ({"detail": "Not Found"}, None),
    ],
)
def test_the_message_of_json(value: object, message: str | None) -> None:
    assert message_of(json.dumps(value).encode(), "application/json", NOT_FOUND) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (FLASK, "No such customer: O'Neill & Sons"),
        (DJANGO, "The customer is gone ."),
        ("<h1>Bad Request (400)</h1>", None),
        ("<h1>404 Not Found</h1><p></p>", None),
        ("No markup at all", "No markup at all"),
        ("<style>p {}</style><script>let x = 1</script><p>Words</p>", "Words"),
        ("<p>" + "word " * 100, None),
        ("<p>cut <", "cut <"),
        ("", None),
    ],
)
def test_the_words_of_a_short_page(body: str, message: str | None) -> None:
    line = BAD if "400" in body else NOT_FOUND
    found = message_of(body.encode(), "text/html; charset=utf-8", line)
    assert (found or "").replace(" .", ".") == (message or "").replace(" .", ".")


def test_a_text_is_its_message_in_its_charset() -> None:
    assert message_of("Größe\n fehlt".encode("latin-1"), "text/plain; charset=iso-8859-1", BAD) == "Größe fehlt"
    assert message_of(b"Bad Request", "text/plain", BAD) is None
    assert message_of(b"\xff\x00", "text/plain", BAD) == "\ufffd\ufffd"


def test_a_long_message_is_cut() -> None:
    message = message_of(b"x" * 5000, "text/plain", BAD, is_whole=False)
    assert message == "x" * 2000 + " …"


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff", b'{"detail": "cut'])
def test_broken_json_has_no_message(body: bytes) -> None:
    assert message_of(body, "application/json", BAD) is None


def test_json_or_a_page_that_was_cut_off_has_no_message() -> None:
    assert message_of(b'{"detail": "whole"}', "application/json", BAD, is_whole=False) is None
    assert message_of(b"<p>whole", "text/html", BAD, is_whole=False) is None


@pytest.mark.parametrize(
    "part", ["<a ", "<a b='", '<a b="', "<!--", "<![", "<?", "</", "<b>a", "<title>", "&#", "<a b='x' c=\"y\" "]
)
def test_hostile_html_takes_little_time_and_raises_nothing(part: str) -> None:
    began = time.process_time()
    message_of((part * 65_536)[:65_536].encode(), "text/html", NOT_FOUND)
    assert time.process_time() - began < 1


def test_broken_html_keeps_its_words() -> None:
    assert message_of(b"<p>No such customer<![foo bar", "text/html", NOT_FOUND) == "No such customer"
    assert message_of(b"<p title='a > b'>No<!-- <b>hidden</b> --> more", "text/html", NOT_FOUND) == "No more"


@pytest.mark.parametrize("charset", ["idna", "punycode", "utf-16", "utf-32", "unicode_escape", "hex", "no-such"])
def test_a_charset_that_does_not_fit_is_read_as_utf_8(charset: str) -> None:
    assert message_of("Größe".encode(), f"text/plain; charset={charset}", NOT_FOUND) in ("Größe", "GrÃ¶Ã\x9fe")


def test_another_type_has_no_message() -> None:
    assert message_of(b"GIF89a", "image/gif", BAD) is None
    assert message_of(b"words", "", BAD) is None
