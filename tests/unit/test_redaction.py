"""Signatures are removed from texts, log records and events of Sentry, whatever their form."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob.model import Grant, Request
from backjob.redaction import SignatureFilter, redact, without_signature
from backjob.signing import MessageSigner
from tests.unit.core import KEY

GRANT = Grant("job-1", 1, 1, 1_700_000_000, 1_700_000_600)


def signed(target: str, carrier: Any = "query") -> Request:
    return MessageSigner(KEY, carrier=carrier).sign(Request("POST", target, body=b"rows=5"), GRANT)


@pytest.mark.parametrize("target", ["/work", "/work?a=1", "/a%2Fb?x=%3F&y=", "/%7Ework?a=1&b=backjob"])
def test_a_signed_target_becomes_the_one_that_was_signed(target: str) -> None:
    request = signed(target)
    assert without_signature(request.target) == target
    assert without_signature(request.query) == target.partition("?")[2]
    assert without_signature(f'"POST {request.target} HTTP/1.1" 200 "http://x{request.target}"') == (
        f'"POST {target} HTTP/1.1" 200 "http://x{target}"'
    )


def test_fields_and_decoded_parameters_lose_their_mac() -> None:
    fields = dict(signed("/work", "header").headers)
    shown = {name: without_signature(value) for name, value in fields.items()}
    assert shown["Signature"] == "backjob="
    assert shown["Signature-Input"] == fields["Signature-Input"]
    mac = fields["Signature"].removeprefix("backjob=")
    parameters = dict(pair.split("=", 1) for pair in signed("/work").query.split("&"))
    event = {"query": list(parameters.items()), "decoded": {"backjob-signature": fields["Signature"]}}
    text = str(redact(event))
    assert mac.strip(":") not in text
    assert parameters["backjob-signature"].removeprefix("backjob%3D%3A") not in text


@given(st.text())
def test_other_texts_stay(text: str) -> None:
    assert without_signature(text) == text


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ('"GET %s" %d', (signed("/work?a=1").target, 200)),
        ("%(q)s", ({"q": signed("/work?a=1").query, "r": ["x"]},)),
        ("%r", (b"GET " + signed("/work?a=1").target.encode(),)),
    ],
    ids=["tuple", "dict", "bytes"],
)
def test_a_record_loses_the_signatures_in_its_arguments(message: str, arguments: Any) -> None:
    record = logging.LogRecord("access", logging.INFO, "", 1, message, arguments, None)
    assert SignatureFilter().filter(record)
    assert "a=1" in record.getMessage()
    assert "backjob-" not in record.getMessage()


def test_a_record_loses_the_signature_in_its_message() -> None:
    record = logging.LogRecord("access", logging.INFO, "", 1, f"GET {signed('/work').target} 100%", (), None)
    SignatureFilter().filter(record)
    assert record.getMessage() == "GET /work 100%"
