"""The promises about texts, bytes and results: every value comes back unchanged."""

from __future__ import annotations

from typing import Final

import pytest

from backjob.lifecycle import claimed
from backjob.model import LONGEST_STATUS_TEXT, Changes, Expect, Headers, JsonValue, Output, Report, Request, short_text
from backjob.testing._stores.case import ALIKE, LEASE, StoreCase, draft, kept, same, whole_output

_NO_SURROGATES: Final = (*range(1, 0xD800), *range(0xE000, 0x10000))
TEXTS: Final = {
    "every character of the basic plane": "".join(map(chr, _NO_SURROGATES)),
    "every plane": "".join(chr(plane << 16 | low) for plane in range(17) for low in (0x41, 0x1F600 & 0xFFFF, 0xFFFF)),
    "combining, joined and right to left": "e\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u202eabc\u202c \u05d0\u05d1",
    "line ends and spaces": " \r\n\n\r\t\x0b\x0c\x85\u2028\u2029\ufeff ",
    "syntax of other languages": "'\"`\\%_$1 :a {b} %s %(c)s -- /* */ ; \\0 \\u0000 \x1a",
}


class TextCalls(StoreCase):
    """Texts in every field, sealed credentials, and results."""

    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
    def test_any_text_comes_back(self, text: str) -> None:
        short = text[:100]
        self.store.create(draft(owner=short, scope=short, lessee=short, lease=5))
        job = self.read()
        same((job.owner, job.scope, job.lessee), (short, short, short), "a job's texts come back unchanged")
        self.store.change("job", *claimed("token", 1, LEASE))
        self.store.change("job", Expect(), Changes(status_text=text, result={short: text}))
        kept(self.read().status_text == text, "a status text comes back unchanged")
        kept(self.read().result == {short: text}, "a result's texts come back unchanged")
        self.store.report("job", "token", Report(text=text[::-1], output=text))
        kept(self.read().status_text == text[::-1], "a report's text comes back unchanged")
        kept(whole_output(self.store, "job") == text, "output comes back unchanged")
        same(self.read().output_size, len(text.encode()), "output_size counts bytes of UTF-8")

    @pytest.mark.parametrize("letter", ["x", "ß", "€", "😀"])
    def test_the_longest_status_text_comes_back(self, letter: str) -> None:
        self.running()
        text = short_text(letter * (LONGEST_STATUS_TEXT + 1))
        self.store.report("job", "token", Report(text=text))
        kept(self.read().status_text == text, f"a status text of {len(text)} characters comes back whole")
        self.store.change("job", Expect(), Changes(status_text=text[1:]))
        kept(self.read().status_text == text[1:], f"a status text of {len(text)} characters comes back whole")

    def test_ids_are_compared_byte_by_byte(self) -> None:
        ids = [text for text in ALIKE if text]
        for number, job_id in enumerate(ids):
            self.store.create(draft(job_id, depth=number))
        self.store.change("job", *claimed("token", 1, LEASE))
        self.store.report("job", "token", Report(output="the job's"))
        for number, job_id in enumerate(ids):
            job = self.read(job_id)
            same((job.id, job.depth), (job_id, number), f"the id {job_id!r} matches no other id")
            if job_id != "job":
                same(job.version, 1, f"a write to 'job' does not change {job_id!r}")
                same(self.store.output(job_id), Output("", 0), f"{job_id!r} does not have the output of 'job'")

    def test_tokens_are_compared_byte_by_byte(self) -> None:
        job = self.running()
        for token in ("TOKEN", "Token", "token ", " token", "tokén", "token\n", "token\t", "toke", "token%", "_oken"):
            same(self.store.report("job", token, Report(progress=9)), False, f"the token {token!r} does not match")
            same(self.store.change("job", Expect(token=token), Changes()), None, f"the token {token!r} does not match")
            stale = self.store.beat({"job": token}, 5, frozenset(("job",)))
            same(stale, frozenset(("job",)), f"the token {token!r} does not match")
        same(self.read(), job, "a write with another token changes nothing")

    def test_an_empty_owner_differs_from_none(self) -> None:
        for job_id, owner in (("empty", ""), ("none", None)):
            self.store.create(draft(job_id, owner=owner, lessee=owner, lease=5))
            job = self.read(job_id)
            same((job.owner, job.lessee), (owner, owner), "an empty text stays different from None")

    @pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 300_000])
    def test_sealed_credentials_come_back_byte_for_byte(self, size: int) -> None:
        sealed = (bytes(range(256)) * (size // 256 + 1))[:size]
        self.store.create(draft(sealed=sealed))
        kept(
            self.read().sealed == sealed, f"sealed credentials of {size} bytes come back; empty bytes differ from None"
        )

    @pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 300_000])
    def test_a_request_of_any_size_comes_back(self, size: int) -> None:
        headers: Headers = (("X-Latin", "".join(map(chr, range(1, 256)))), ("X-Long", "y" * size))
        request = Request("PUT", "/" + "z" * size, headers, b"\0\xff" * (size // 2))
        self.store.create(draft(request=request))
        job = self.store.get("job", body=True)
        kept(job is not None and job.request == request, f"a request whose parts are {size} bytes long comes back")

    @pytest.mark.parametrize(
        "result",
        [
            0,
            False,
            "",
            [],
            {},
            -1.5,
            0.1,
            1e308,
            5e-324,
            10**18,
            2**63,
            -(2**64) - 1,
            10**100,
            "ß\u2028😀\x00",
            "\ud800",
            {"href": "/export.csv", "rows": [1, {"a": None}, [True, "x"]], "": 0},
            {"z": 1, "a": {"Z": 2, "A": 3}},
        ],
        ids=repr,
    )
    def test_a_result_survives_the_round_trip_through_json(self, result: JsonValue) -> None:
        self.running()
        self.store.change("job", Expect(), Changes(result=result))
        same(self.read().result, result, "a result comes back equal")
        same(type(self.read().result), type(result), "a result keeps its JSON type")
        if isinstance(result, dict):
            found = self.read().result
            same(list(found) if isinstance(found, dict) else found, list(result), "a result's keys keep their order")
        self.store.change("job", Expect(), Changes(result=None))
        same(self.read().result, None, "a result of None erases the result")

    def test_a_result_may_be_deep_and_long(self) -> None:
        self.running()
        deep: JsonValue = "bottom"
        for _ in range(100):
            deep = [{"in": deep}]
        for result in (deep, "long ß€😀 " * 20_000, list(range(20_000))):
            self.store.change("job", Expect(), Changes(result=result))
            kept(self.read().result == result, "a result of any depth and length comes back equal")

    def test_a_result_is_the_stores_own_copy(self) -> None:
        self.running()
        rows = [1]
        self.store.change("job", Expect(), Changes(result={"rows": rows}))
        rows.append(2)
        same(self.read().result, {"rows": [1]}, "later changes to the caller's value are not stored")
