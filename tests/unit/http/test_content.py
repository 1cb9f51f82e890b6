"""What header fields say about a body, and the field that names a download."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob.http.content import (
    attachment,
    attachment_name,
    charset_of,
    file_name,
    file_type,
    is_attachment,
    is_json,
    media_type,
)


@pytest.mark.parametrize(
    ("field", "kind", "json", "charset"),
    [
        ("text/html; charset=utf-8", "text/html", False, "utf-8"),
        ("Text/Plain;Charset=ISO-8859-1", "text/plain", False, "ISO-8859-1"),
        ('text/plain; format=flowed; charset="windows-1252"', "text/plain", False, "windows-1252"),
        ("text/plain; charset=klingon", "text/plain", False, "utf-8"),
        ("text/plain; charset=hex", "text/plain", False, "utf-8"),
        ("application/json", "application/json", True, "utf-8"),
        ("application/problem+json; x=1", "application/problem+json", True, "utf-8"),
        ("application/x-ndjson", "application/x-ndjson", False, "utf-8"),
        ("", "", False, "utf-8"),
    ],
)
def test_a_content_type_has_a_type_and_a_charset(field: str, kind: str, json: bool, charset: str) -> None:
    assert (media_type(field), is_json(field), charset_of(field)) == (kind, json, charset)


@pytest.mark.parametrize(
    ("field", "expected", "name"),
    [
        ("attachment", True, None),
        ('attachment; filename="report.csv"', True, "report.csv"),
        ("Attachment; filename=report.csv", True, "report.csv"),
        (r'attachment; filename="a \"b\".csv"', True, 'a "b".csv'),
        ("attachment; filename=\"plain.csv\"; filename*=UTF-8''%C3%9Cbersicht.csv", True, "Übersicht.csv"),
        ("attachment; filename*=ISO-8859-1'en'%A3.txt; filename=x", True, "£.txt"),
        ("attachment; filename=plain.csv; filename*=klingon''%C3", True, "plain.csv"),
        ("attachment; filename=plain.csv; filename*=UTF-8''%FF", True, "plain.csv"),
        ('attachment; filename="\u00c3\u009cbersicht.csv"', True, "Übersicht.csv"),
        ("attachment; filename=first; filename=second", True, "first"),
        ("inline; filename=page.pdf", False, "page.pdf"),
        ("", False, None),
        ("form-data; name=x", True, None),
    ],
)
def test_a_content_disposition_names_an_attachment(field: str, expected: bool, name: str | None) -> None:
    assert (is_attachment(field), attachment_name(field)) == (expected, name)


@pytest.mark.parametrize(
    ("given_name", "content_type", "expected"),
    [
        ("report.csv", "", "report.csv"),
        ("../../etc/passwd", "", "passwd"),
        (r"C:\Users\ann\report.csv", "", "report.csv"),
        ("report", "text/csv; charset=utf-8", "report.csv"),
        ("export/", "application/pdf", "export.pdf"),
        ("", "text/csv", "file.csv"),
        ("..", "", "file"),
        ("...", "application/zip", "file.zip"),
        ("a\r\nSet-Cookie: x", "", "a_Set-Cookie_ x"),
        ("gnp\u202efdp.exe", "", "gnp_fdp.exe"),
        ("gnp\u061cfdp.exe", "", "gnp_fdp.exe"),
        ("x" * 500 + ".csv", "", "x" * 196 + ".csv"),
        ("ü" * 500 + ".csv", "", "ü" * 98 + ".csv"),
        ("Q1: what?.csv", "", "Q1_ what_.csv"),
        ("\ud800.csv", "", "_.csv"),
    ],
)
def test_a_file_name_is_one_safe_segment(given_name: str, content_type: str, expected: str) -> None:
    assert file_name(given_name, content_type) == expected


@given(st.text(), st.sampled_from(["", "text/csv", "nonsense", "image/png; q=1"]))
def test_any_name_becomes_one_that_file_systems_and_header_fields_take(name: str, content_type: str) -> None:
    cleaned = file_name(name, content_type)
    assert cleaned
    assert len(cleaned.encode()) <= 200
    assert not re.search(r'[\x00-\x1f\x7f/\\:*?"<>|]', cleaned)
    assert cleaned.strip(". ") == cleaned
    field = attachment(cleaned)
    assert field.isascii()
    assert attachment_name(field) == cleaned


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.csv", 'attachment; filename="report.csv"'),
        (
            "Übersicht 2026.csv",
            "attachment; filename=\"_bersicht 2026.csv\"; filename*=UTF-8''%C3%9Cbersicht%202026.csv",
        ),
        ("100%41.csv", "attachment; filename=\"100_.csv\"; filename*=UTF-8''100%2541.csv"),
    ],
)
def test_a_download_has_a_plain_name_and_the_exact_one(name: str, expected: str) -> None:
    assert attachment(name) == expected


@pytest.mark.parametrize(
    ("content_type", "name", "expected"),
    [
        ("text/csv; charset=latin-1", "x", "text/csv; charset=latin-1"),
        (None, "report.pdf", "application/pdf"),
        ("", "report", "application/octet-stream"),
        ("text/html\r\nX-Evil: 1", "report.csv", "text/csv"),
        ("text/html\r\n;X-Evil: 1", "report.csv", "text/csv"),
        ("nonsense", "report", "application/octet-stream"),
        ("text/" + "x" * 500, "report", "application/octet-stream"),
    ],
)
def test_a_type_is_safe_in_a_header_field(content_type: str | None, name: str, expected: str) -> None:
    assert file_type(content_type, name) == expected
