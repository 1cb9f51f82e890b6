from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, ClassVar, Literal, cast
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

import pytest
from attrs import evolve, frozen
from http_message_signatures.exceptions import InvalidSignature
from http_message_signatures.resolvers import HTTPSignatureKeyResolver
from http_message_signatures.signatures import HTTPMessageVerifier
from hypothesis import given, settings
from hypothesis import strategies as st

from backjob.errors import InvalidRequest, SignatureError, UnknownKey
from backjob.http.targets import canonical_path, join_query, normalise
from backjob.model import Grant, Request
from backjob.signing import MessageSigner, derive_key, signature_base
from backjob.signing.carriers import Fields, HeaderCarrier, QueryCarrier
from backjob.signing.keys import key_id

SECRET = "b1Y8-vK2xQ_gq0Zr5tUw7LmN3oPaHs4E"
OLD = "Jd92kfLw0_pQmZx7RtYu4-BnV6aCsEh1"
ANOTHER = "Xo5TgHq1_iWn8-eRkUz3McVb6YsLa0Pd"
GRANT = Grant("Zk3_9-job", 1, 2, 1_900_000_000, 1_900_000_600)
NOW = datetime.fromtimestamp(1_900_000_030, UTC)
REQUEST = Request("POST", "/reports/work?id=5", (("Cookie", "a=b"),), b'{"hello": 1}')
SIGNER = MessageSigner(SECRET)
HEADER_SIGNER = MessageSigner(SECRET, carrier="header")
EMPTY_DIGEST = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="

# The library does not declare this re-export for type checkers.
HMAC_SHA256: Any = import_module("http_message_signatures.algorithms").HMAC_SHA256

Carrier = Literal["query", "header"]


def refusal_of(request: Request, signer: MessageSigner = SIGNER) -> str:
    assert signer.claims(request)
    with pytest.raises(SignatureError) as caught:
        signer.verify(request, NOW)
    return str(caught.value)


def with_suffix(change: Any, request: Request = REQUEST) -> Request:
    """The signed request after a change of its signature's parameters, a list of ``name=value``."""
    signed = SIGNER.sign(request, GRANT)
    own = signed.target[len(request.target) + 1 :].split("&")
    return evolve(signed, target=signed.target[: len(request.target) + 1] + "&".join(change(own)))


def with_decoded_path(request: Request) -> Request:
    """The request as a server shows it that decodes the path."""
    path, mark, query = request.target.partition("?")
    return evolve(request, target=canonical_path(unquote_to_bytes(path)) + mark + query, raw=False)


def signed_by_hand(parameters: str, *, path: str = "/work", key: str = SECRET) -> Request:
    """A request with a valid signature in the header fields, over parameters that backjob would not write."""
    digest = f"sha-256=:{EMPTY_DIGEST}:"
    values = (('"@method"', "GET"), ('"@path"', path), ('"@query"', "?"), ('"content-digest"', digest))
    mac = hmac.digest(key.encode(), signature_base(values, parameters), "sha256")
    headers = (
        ("Content-Digest", digest),
        ("Signature-Input", f"backjob={parameters}"),
        ("Signature", f"backjob=:{base64.b64encode(mac).decode()}:"),
    )
    return Request("GET", path, headers)


class TestStandard:
    """RFC 9421 and RFC 9530, and another implementation of them."""

    def test_the_vector_of_section_b_2_5_matches_byte_for_byte(self) -> None:
        key = base64.b64decode(
            "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
        )
        base = signature_base(
            [
                ('"date"', "Tue, 20 Apr 2021 02:07:55 GMT"),
                ('"@authority"', "example.com"),
                ('"content-type"', "application/json"),
            ],
            '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"',
        )
        assert base == (
            b'"date": Tue, 20 Apr 2021 02:07:55 GMT\n'
            b'"@authority": example.com\n'
            b'"content-type": application/json\n'
            b'"@signature-params": ("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
        )
        signature = base64.b64encode(hmac.digest(key, base, "sha256"))
        assert signature == b"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="

    def test_a_signature_has_exactly_this_form(self) -> None:
        signed = HEADER_SIGNER.sign(Request("GET", "/work"), GRANT)
        fields = dict(signed.headers)
        assert fields["Content-Digest"] == f"sha-256=:{EMPTY_DIGEST}:"
        keyid = key_id(SECRET.encode())
        assert fields["Signature-Input"] == (
            'backjob=("@method" "@path" "@query" "content-digest");created=1900000000;expires=1900000600'
            f';nonce="Zk3_9-job.1.2";keyid="{keyid}";alg="hmac-sha256";tag="backjob"'
        )
        base = (
            f'"@method": GET\n"@path": /work\n"@query": ?\n"content-digest": sha-256=:{EMPTY_DIGEST}:\n'
            f'"@signature-params": {fields["Signature-Input"].removeprefix("backjob=")}'
        )
        mac = hmac.new(SECRET.encode(), base.encode(), hashlib.sha256).digest()
        assert fields["Signature"] == f"backjob=:{base64.b64encode(mac).decode()}:"

    def test_the_query_carries_the_same_values_as_the_header_fields(self) -> None:
        in_query = SIGNER.sign(REQUEST, GRANT)
        assert in_query.headers == REQUEST.headers
        own = parse_qsl(in_query.target.removeprefix(REQUEST.target + "&"), strict_parsing=True)
        in_headers = HEADER_SIGNER.sign(REQUEST, GRANT).headers[1:]
        assert own == [(f"backjob-{name.lower()}", value) for name, value in in_headers]

    @pytest.mark.parametrize("carrier", ["query", "header"])
    @pytest.mark.parametrize(
        "request_",
        [
            Request("GET", "/"),
            REQUEST,
            Request("CHICKEN", "/a;b=c/%C3%BC?d=%2F&e=f+g&h", (), b"\0\xff"),
            Request("PUT", "/a%2Fb%3Bc?d=e", (), b"x" * 100_000),
        ],
        ids=lambda request: f"{request.method} {request.target}",
    )
    def test_an_independent_implementation_verifies_a_signature(self, request_: Request, carrier: Carrier) -> None:
        now = int(time.time())
        grant = Grant("job", 1, 1, now, now + 600)
        message = Message.of(MessageSigner(SECRET, carrier=carrier).sign(request_, grant))
        results = Verifier(signature_algorithm=HMAC_SHA256, key_resolver=Resolver()).verify(
            message,
            expect_tag="backjob",
            require_components=("@method", "@path", "@query", "content-digest"),
            body=request_.body,
        )
        assert [result.nonce for result in results] == ["job.1.1"]

    def test_an_independent_implementation_refuses_a_changed_request(self) -> None:
        now = int(time.time())
        signed = HEADER_SIGNER.sign(REQUEST, Grant("job", 1, 1, now, now + 600))
        verifier = Verifier(signature_algorithm=HMAC_SHA256, key_resolver=Resolver())
        with pytest.raises(InvalidSignature):
            verifier.verify(Message.of(evolve(signed, target="/reports/work?id=6")), expect_tag="backjob")


class Resolver(HTTPSignatureKeyResolver):
    def resolve_public_key(self, key_id: str) -> bytes:
        return SECRET.encode()


class Verifier(HTTPMessageVerifier):
    # RFC 9421, section 2.3, lets applications add parameters; this implementation needs a list of them.
    signature_metadata_parameters: ClassVar[set[str]] = HTTPMessageVerifier.signature_metadata_parameters | {"path"}


@frozen
class Message:
    method: str
    url: str
    headers: dict[str, str]

    @classmethod
    def of(cls, signed: Request) -> Message:
        """The signed request with its signature in the header fields, where other implementations expect it."""
        kept, _, own = signed.target.partition("backjob-content-digest=")
        headers = dict(signed.headers)
        if own:
            for name, _, value in (pair.partition("=") for pair in f"backjob-content-digest={own}".split("&")):
                headers[name.removeprefix("backjob-")] = unquote(value)
        return cls(signed.method, "https://app.test" + (kept[:-1] if own else kept), headers)


class TestQueryCarrier:
    def test_the_signature_ends_the_query_and_verification_removes_it(self) -> None:
        for target in ("/work", "/work?a=b", "/work?a=b&", "/work?&", "/work??"):
            request = Request("GET", target)
            signed = SIGNER.sign(request, GRANT)
            assert signed.target.startswith(target + ("&" if "?" in target else "?") + "backjob-content-digest=")
            assert SIGNER.verify(signed, NOW).request == request

    @pytest.mark.parametrize(
        "change",
        [
            lambda own: own[::-1],
            lambda own: [own[0], own[2], own[1]],
            lambda own: own[:2],
            lambda own: own[1:],
            lambda own: own[:1],
            lambda own: own[2:],
            lambda own: [*own, own[0]],
            lambda own: [*own, own[2]],
            lambda own: [own[0], *own],
            lambda own: [own[2], *own],
            lambda own: own * 2,
            lambda own: [*own, ""],
            lambda own: ["", *own],
            lambda own: [*own, "a=b"],
            lambda own: ["a=b", *own],
            lambda own: [own[0], "a=b", *own[1:]],
            lambda own: ["backjob-signature", *own],
            lambda own: ["backjob-signature-input=", *own],
            lambda own: [own[0], unquote(own[1]), own[2]],
            lambda own: [own[0], own[1].replace("%20", "+"), own[2]],
            lambda own: [own[0], own[1].replace("%3D", "=", 1), own[2]],
            lambda own: [own[0], own[1].replace("%3D", "%3d", 1), own[2]],
            lambda own: [own[0], own[1].replace("created", "%63reated"), own[2]],
            lambda own: [own[0], own[1].replace("1900000000", "01900000000"), own[2]],
            lambda own: [own[0], own[1].replace("1900000000", "1900000000.0"), own[2]],
            lambda own: [own[0], own[1].replace("1900000000", "1900000001"), own[2]],
            lambda own: [own[0], own[1].replace("1900000600", "1900000601"), own[2]],
            lambda own: [own[0], own[1].replace("1900000600", "9" * 5000), own[2]],
            lambda own: [own[0], own[1].replace("job.1.2", "job.1.3"), own[2]],
            lambda own: [own[0], own[1].replace("job.1.2", "job.2.2"), own[2]],
            lambda own: [own[0], own[1].replace("job.1.2", "job.2"), own[2]],
            lambda own: [own[0], own[1].replace("job.1.2", "job1.1.2"), own[2]],
            lambda own: [own[0], own[1].replace("%3Bexpires%3D1900000600", ""), own[2]],
            lambda own: [own[0], own[1] + "%3Bpath%3D%22%2Freports%2Fwork%22", own[2]],
            lambda own: [own[0], own[1] + "%3Bpath%3D%22%0A%22", own[2]],
            lambda own: [own[0], own[1] + "%3Bpath%3D%22%FF%22", own[2]],
            lambda own: [own[0].replace("%3D%3A", "%3A"), *own[1:]],
            lambda own: ["backjob-content-digest=sha-256%3D%3A" + "%" * 44 + "%3A", *own[1:]],
            lambda own: [*own[:2], own[2][:-3]],
            lambda own: [*own[:2], own[2] + "\n"],
            lambda own: [*own[:2], own[2].replace("backjob%3D", "other%3D")],
            lambda own: ["é=1", *own],
            lambda own: ["a=\n", *own],
        ],
    )
    def test_any_other_suffix_is_refused(self, change: Any) -> None:
        changed = with_suffix(change)
        assert changed != SIGNER.sign(REQUEST, GRANT)
        refusal_of(changed)

    def test_a_signature_with_another_delimiter_is_refused(self) -> None:
        signed = SIGNER.sign(Request("GET", "/work"), GRANT)
        refusal_of(evolve(signed, target=signed.target.replace("?", "?&", 1)))
        refusal_of(evolve(signed, target=signed.target.replace("?", "??", 1)))
        refusal_of(evolve(signed, target=signed.target.replace("?", "?a?", 1)))
        signed = SIGNER.sign(Request("GET", "/work?a"), GRANT)
        refusal_of(evolve(signed, target=signed.target.replace("&", "&&", 1)))
        refusal_of(evolve(signed, target=signed.target.replace("&", "?", 1)))

    @pytest.mark.parametrize(
        ("target", "claimed"),
        [
            ("/?backjob-signature=x", True),
            ("/?backjob-signature", True),
            ("/?a=b&backjob-signature-input=&c=d", True),
            ("/?backjob-content-digest=x&a=b", True),
            ("/?a&&backjob-signature=", True),
            ("/", False),
            ("/backjob-signature=x", False),
            ("/backjob-signature?a=b", False),
            ("/?a=backjob-signature", False),
            ("/?xbackjob-signature=x", False),
            ("/?a?backjob-signature=x", False),
            ("/backjob-content-digest=x", False),
            ("/?a=backjob-content-digest=x", False),
            ("/?backjob-signatures=x", False),
            ("/?backjob-", False),
            ("/?Backjob-Signature=x", False),
            ("/?%62ackjob-signature=x", False),
        ],
    )
    def test_any_parameter_of_the_signature_makes_a_request_claimed(self, target: str, claimed: bool) -> None:
        assert SIGNER.claims(Request("GET", target)) is claimed
        if claimed:
            refusal_of(Request("GET", target))
            with pytest.raises(InvalidRequest, match="query"):
                SIGNER.sign(Request("GET", target), GRANT)
        else:
            assert SIGNER.verify(SIGNER.sign(Request("GET", target), GRANT), NOW).request.target == target

    def test_a_second_parameter_of_the_signature_is_refused_even_if_it_was_signed(self) -> None:
        for query, accepted in (("a=b", True), ("backjob-signature=x", False), ("a&backjob-content-digest", False)):
            carrier = QueryCarrier()
            fields = Fields(GRANT.created, GRANT.expires, "job", 1, 1, key_id(SECRET.encode()), None, EMPTY_DIGEST)
            digest = fields.content_digest()
            values = (('"@method"', "GET"), ('"@path"', "/"), ('"@query"', f"?{query}"), ('"content-digest"', digest))
            mac = hmac.digest(SECRET.encode(), signature_base(values, fields.parameters()), "sha256")
            written = carrier.written(fields, base64.b64encode(mac).decode())
            request = Request("GET", f"/?{query}&{written}")
            if accepted:
                assert SIGNER.verify(request, NOW).request.query == query
            else:
                assert "more than once" in refusal_of(request)

    def test_neither_carrier_claims_the_others_signature(self) -> None:
        assert not SIGNER.claims(HEADER_SIGNER.sign(REQUEST, GRANT))
        assert not HEADER_SIGNER.claims(SIGNER.sign(REQUEST, GRANT))

    def test_the_longest_path_fits_and_a_longer_signature_is_refused(self) -> None:
        request = Request("GET", "/" + "%2F" * 2730)
        assert SIGNER.verify(SIGNER.sign(request, GRANT), NOW).request == request

        def lengthen(own: list[str]) -> list[str]:
            return [part.replace("path%3D%22", "path%3D%22" + "%252F" * 6000) for part in own]

        assert "not written as backjob" in refusal_of(with_suffix(lengthen, request))


class TestHeaderCarrier:
    OTHERS = (
        ("Signature-Input", 'sig1=("@method" "x, y");created=1;nonce="a\\", b=c";tag="other", sig2=();tag="t"'),
        ("Signature", "sig1=:AAAA:, sig2=:BBBB:"),
    )

    def test_verification_removes_the_fields(self) -> None:
        signed = HEADER_SIGNER.sign(REQUEST, GRANT)
        assert len(signed.headers) == 4
        assert HEADER_SIGNER.verify(signed, NOW).request == REQUEST

    def test_other_signatures_are_kept(self) -> None:
        request = evolve(REQUEST, headers=self.OTHERS)
        signed = HEADER_SIGNER.sign(request, GRANT)
        assert not HEADER_SIGNER.claims(request)
        assert HEADER_SIGNER.verify(signed, NOW).request == request

    def test_long_fields_are_refused_before_they_are_parsed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        parsed: list[str] = []
        pattern = HeaderCarrier._member

        class Spy:
            def match(self, value: str, at: int) -> object:
                parsed.append(value)
                return pattern.match(value, at)

        monkeypatch.setattr(HeaderCarrier, "_member", Spy())
        signed = HEADER_SIGNER.sign(REQUEST, GRANT)
        flood = ("Signature-Input", ", ".join(f"sig{n}=()" for n in range(6000)))
        assert "too long" in refusal_of(evolve(signed, headers=(*signed.headers, flood)), HEADER_SIGNER)
        assert parsed == []
        assert HEADER_SIGNER.verify(signed, NOW).request == REQUEST
        assert parsed != []

    @pytest.mark.parametrize("separator", [",", ", ", " ,\t"])
    def test_a_server_may_join_repeated_fields(self, separator: str) -> None:
        signed = HEADER_SIGNER.sign(evolve(REQUEST, headers=self.OTHERS), GRANT)
        names = ("signature", "content-digest", "signature-input")
        joined = tuple((name, self._joined(signed, name, separator)) for name in names)
        verified = HEADER_SIGNER.verify(evolve(signed, headers=joined), NOW)
        assert verified.request.headers == (("signature", self.OTHERS[1][1]), ("signature-input", self.OTHERS[0][1]))

    @staticmethod
    def _joined(request: Request, name: str, separator: str) -> str:
        return separator.join(value for field, value in request.headers if field.lower() == name)

    def test_the_label_may_be_changed(self) -> None:
        signed = HEADER_SIGNER.sign(REQUEST, GRANT)
        relabelled = tuple(
            (name, value.replace("backjob=", "proxy1-sig.2=", 1) if name.startswith("Signature") else value)
            for name, value in signed.headers
        )
        assert HEADER_SIGNER.verify(evolve(signed, headers=relabelled), NOW).request == REQUEST

    @pytest.mark.parametrize("name", ["Content-Digest", "Signature-Input", "Signature"])
    def test_each_field_must_appear_exactly_once(self, name: str) -> None:
        signed = HEADER_SIGNER.sign(REQUEST, GRANT)
        field = next(pair for pair in signed.headers if pair[0] == name)
        missing = evolve(signed, headers=tuple(pair for pair in signed.headers if pair != field))
        assert HEADER_SIGNER.claims(missing) == (name != "Signature-Input")
        with pytest.raises(SignatureError):
            HEADER_SIGNER.verify(missing, NOW)
        refusal_of(evolve(signed, headers=(*signed.headers, field)), HEADER_SIGNER)
        refusal_of(evolve(signed, headers=(*signed.headers, (name.upper(), field[1]))), HEADER_SIGNER)

    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("Signature-Input", "backjob=", "backjob=(,"),
            ("Signature-Input", "backjob=", "=("),
            ("Signature-Input", "backjob=", 'backjob="'),
            ("Signature-Input", "backjob=", "Backjob="),
            ("Signature-Input", ";created", "; created"),
            ("Signature-Input", ' "@path"', ""),
            ("Signature-Input", 'tag="backjob"', 'tag="backjob";path="/reports/work"'),
            ("Signature-Input", 'tag="backjob"', 'tag="backjob",'),
            ("Signature-Input", 'tag="backjob"', 'tag="backjob", backjob=()'),
            ("Signature-Input", 'tag="backjob"', 'tag="backjob", other=();tag="backjob"'),
            ("Signature-Input", "hmac-sha256", "ed25519"),
            ("Signature", "backjob=", "other="),
            ("Signature", "=:", "="),
            ("Signature", "=:", "=:,:"),
            ("Signature", "backjob=", "backjob=:AAAA:, backjob="),
            ("Content-Digest", "sha-256", "sha-512"),
            ("Content-Digest", "sha-256", "md5=:AAAA:, sha-256"),
            ("Content-Digest", "=:", "=:é"),
        ],
    )
    def test_any_other_serialisation_is_refused(self, name: str, old: str, new: str) -> None:
        signed = HEADER_SIGNER.sign(REQUEST, GRANT)
        headers = tuple((key, value.replace(old, new, 1) if key == name else value) for key, value in signed.headers)
        assert headers != signed.headers
        refusal_of(evolve(signed, headers=headers), HEADER_SIGNER)

    def test_a_valid_signature_over_other_components_is_refused(self) -> None:
        good = dict(HEADER_SIGNER.sign(Request("GET", "/work"), GRANT).headers)["Signature-Input"]
        parameters = good.removeprefix("backjob=")
        assert HEADER_SIGNER.verify(signed_by_hand(parameters), NOW).grant == GRANT
        for other in (
            parameters.replace(' "@query"', ""),
            parameters.replace(";expires=1900000600", ""),
            parameters.replace(';alg="hmac-sha256"', ""),
            parameters.replace("created=1900000000;expires=1900000600", "expires=1900000600;created=1900000000"),
            parameters.replace('nonce="', 'nonce="a.'),
            parameters + ";more",
        ):
            refusal_of(signed_by_hand(other), HEADER_SIGNER)

    @pytest.mark.parametrize(
        "headers",
        [
            (("content-digest", "sha-256=:AAAA:"),),
            (("SIGNATURE-INPUT", 'x=();tag="backjob"'),),
            (("Signature-Input", "backjob=()"),),
            (("Signature", "a=:AAAA:, backjob=:AAAA:"),),
        ],
    )
    def test_a_request_with_fields_of_the_signature_can_not_be_signed(
        self, headers: tuple[tuple[str, str], ...]
    ) -> None:
        with pytest.raises(InvalidRequest, match="headers"):
            HEADER_SIGNER.sign(evolve(REQUEST, headers=headers), GRANT)

    def test_a_long_invalid_field_is_refused_quickly(self) -> None:
        for nonsense in ('a="' + "\\" * 8000, "a=" + '"",' * 3000, "a=b" + " " * 8000, "a" * 8000, ", " * 4000):
            request = Request("GET", "/", (("Signature-Input", f';tag="backjob"{nonsense}'),))
            refusal_of(request, HEADER_SIGNER)
            refusal_of(evolve(request, headers=(("Signature-Input", f'{nonsense};tag="backjob"'),)), HEADER_SIGNER)


class TestPath:
    @pytest.mark.parametrize("path", ["/a%2Fb", "/a%3Bb", "/a%2fb", "/%41", "/a[b]", "/100%", "/%FF%2F", "/a%0Ab%2F"])
    def test_a_path_that_decoding_changes_is_carried_in_the_signature(self, path: str) -> None:
        request = Request("GET", path + "?q=%2F")
        for signer in (SIGNER, HEADER_SIGNER):
            signed = signer.sign(request, GRANT)
            assert signer.verify(signed, NOW).request == request
            assert signer.verify(with_decoded_path(signed), NOW).request == request

    @pytest.mark.parametrize("path", ["/", "/a/b", "/a;b", "/%C3%BC", "/a%20b"])
    def test_any_other_path_is_not_carried(self, path: str) -> None:
        fields = dict(HEADER_SIGNER.sign(Request("GET", path), GRANT).headers)
        assert ";path=" not in fields["Signature-Input"]

    def test_a_carried_path_must_match_the_requested_one(self) -> None:
        signed = SIGNER.sign(Request("GET", "/a%2Fb"), GRANT)
        own = signed.target.removeprefix("/a%2Fb")
        for path, raw in (("/a/b", True), ("/a%2fb", True), ("/a%2Fc", True), ("/a/c", False), ("/a/b/", False)):
            refusal_of(Request("GET", path + own, raw=raw))
        assert SIGNER.verify(Request("GET", "/a/b" + own, raw=False), NOW).request == Request("GET", "/a%2Fb")

    @pytest.mark.parametrize(("decoded", "carried"), [("/%C3%BC", "%2F%C3%BC"), ("/%0A", "%2F%0A"), ("/%22", "%2F%22")])
    def test_an_invalid_carried_path_is_refused(self, decoded: str, carried: str) -> None:
        signed = SIGNER.sign(Request("GET", "/a%2Fb"), GRANT)
        own = signed.target.removeprefix("/a%2Fb").replace("%2Fa%252Fb", carried)
        assert carried in own
        refusal_of(Request("GET", decoded + own, raw=False))

    def test_the_error_for_a_decoded_path_mentions_a_proxy(self) -> None:
        signed = SIGNER.sign(Request("GET", "/a%2Fb"), GRANT)
        assert "proxy" in refusal_of(evolve(signed, target=signed.target.replace("/a%2Fb", "/a/b", 1)))

    @pytest.mark.parametrize("target", ["", "work", "*", "/a b", "/é", '/a"b', "/a\\b", "/a#b", "/a?", "/a?b c", "/\n"])
    def test_a_target_that_is_not_normalised_can_not_be_signed(self, target: str) -> None:
        for signer in (SIGNER, HEADER_SIGNER):
            with pytest.raises(InvalidRequest, match="target"):
                signer.sign(Request("GET", target), GRANT)

    def test_an_empty_query_differs_from_none(self) -> None:
        signed = HEADER_SIGNER.sign(Request("GET", "/work"), GRANT)
        refusal_of(evolve(signed, target="/work?"), HEADER_SIGNER)

    @pytest.mark.parametrize("method", ["", "GET ", "G\nT", "GÉT", "G(T", "A" * 65])
    def test_an_invalid_method_can_not_be_signed(self, method: str) -> None:
        with pytest.raises(InvalidRequest, match="method"):
            SIGNER.sign(Request(method, "/"), GRANT)


class TestGrant:
    @pytest.mark.parametrize(
        "grant",
        [
            evolve(GRANT, job_id=""),
            evolve(GRANT, job_id="a.b"),
            evolve(GRANT, job_id='a"b'),
            evolve(GRANT, job_id="é"),
            evolve(GRANT, job_id="a\n"),
            evolve(GRANT, job_id="a" * 129),
            evolve(GRANT, run=-1),
            evolve(GRANT, delivery=-1),
            evolve(GRANT, created=10**15),
            evolve(GRANT, created=-1),
            evolve(GRANT, expires=10**15),
            evolve(GRANT, expires=cast("int", 1.5)),
        ],
    )
    def test_a_grant_that_does_not_fit_can_not_be_signed(self, grant: Grant) -> None:
        with pytest.raises(InvalidRequest, match="grant"):
            SIGNER.sign(REQUEST, grant)

    def test_a_path_that_is_too_long_to_carry_can_not_be_signed(self) -> None:
        with pytest.raises(InvalidRequest, match="path"):
            SIGNER.sign(Request("GET", "/%2F" + "a" * 8192), GRANT)

    def test_errors_about_time_say_by_how_much(self) -> None:
        signed = SIGNER.sign(REQUEST, GRANT)
        with pytest.raises(SignatureError, match="expired 40 s ago"):
            SIGNER.verify(signed, datetime.fromtimestamp(GRANT.expires + 40, UTC))
        with pytest.raises(SignatureError, match="40 s ahead of this host's clock"):
            SIGNER.verify(signed, datetime.fromtimestamp(GRANT.created - 40, UTC))

    def test_any_time_zone_works_and_a_naive_time_is_an_error(self) -> None:
        signed = SIGNER.sign(REQUEST, GRANT)
        local = NOW.astimezone(datetime.strptime("+0530", "%z").tzinfo)
        assert SIGNER.verify(signed, local).grant == GRANT
        with pytest.raises(InvalidRequest, match="now"):
            SIGNER.verify(signed, local.replace(tzinfo=None))

    @pytest.mark.parametrize(
        ("offset", "valid"),
        [(-5_000_001, False), (-5_000_000, True), (599_999_999, True), (600_000_000, False)],
        ids=["5 s and 1 µs before created", "5 s before created", "1 µs before expires", "at expires"],
    )
    def test_the_bounds_of_validity_are_exact(self, offset: int, valid: bool) -> None:
        now = datetime.fromtimestamp(GRANT.created, UTC) + timedelta(microseconds=offset)
        signed = SIGNER.sign(REQUEST, GRANT)
        if valid:
            SIGNER.verify(signed, now)
        else:
            with pytest.raises(SignatureError):
                SIGNER.verify(signed, now)


class TestKeys:
    def test_a_rotation_in_three_steps_refuses_no_request_in_flight(self) -> None:
        before = MessageSigner(OLD)
        prepared = MessageSigner(OLD, fallbacks=[SECRET])
        promoted = MessageSigner(SECRET, fallbacks=[OLD])
        after = MessageSigner(SECRET)
        for signing, verifying in ((before, prepared), (prepared, before), (prepared, promoted), (promoted, prepared)):
            assert verifying.verify(signing.sign(REQUEST, GRANT), NOW).grant == GRANT
        assert promoted.verify(before.sign(REQUEST, GRANT), NOW).grant == GRANT
        assert after.verify(promoted.sign(REQUEST, GRANT), NOW).grant == GRANT
        with pytest.raises(UnknownKey):
            after.verify(prepared.sign(REQUEST, GRANT), NOW)
        with pytest.raises(UnknownKey):
            before.verify(promoted.sign(REQUEST, GRANT), NOW)

    def test_a_known_key_id_with_another_key_is_a_wrong_signature(self) -> None:
        parameters = dict(HEADER_SIGNER.sign(Request("GET", "/work"), GRANT).headers)["Signature-Input"]
        forged = signed_by_hand(parameters.removeprefix("backjob="), key=ANOTHER)
        with pytest.raises(SignatureError) as caught:
            HEADER_SIGNER.verify(forged, NOW)
        assert not isinstance(caught.value, UnknownKey)

    def test_text_and_its_utf_8_are_the_same_key(self) -> None:
        text = "ключ-ß-" + SECRET
        assert MessageSigner(text.encode()).verify(MessageSigner(text).sign(REQUEST, GRANT), NOW).grant == GRANT

    def test_derived_keys_start_with_the_current_one(self) -> None:
        (new,), (old,) = MessageSigner(SECRET).derive("access"), MessageSigner(OLD).derive("access")
        assert MessageSigner(SECRET, fallbacks=[OLD, SECRET, OLD]).derive("access") == (new, old)

    def test_the_repr_shows_the_carrier_and_the_key_ids(self) -> None:
        shown = repr(MessageSigner(SECRET, fallbacks=[OLD], carrier="header"))
        assert "header" in shown
        assert key_id(OLD.encode()) in shown
        assert SECRET not in shown
        assert OLD not in shown

    def test_an_unknown_carrier_and_a_single_fallback_are_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="carrier"):
            MessageSigner(SECRET, carrier="cookie")  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="fallbacks"):
            MessageSigner(SECRET, fallbacks=OLD)


class TestSecrets:
    @pytest.mark.parametrize(
        "weak",
        [
            "",
            "h7Gk2pQ",
            "b1Y8-vK2xQ_gq0Zr5tUw7LmN3oPaHs4",
            b"\x8f" * 31,
            "a" * 32,
            b"\0" * 64,
            "ab" * 20,
            "0123456789abcdef" * 4,
            "correct-horse-" * 3,
            "0123456789abcdefghijklmnopqrstuvwxyz",
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
            bytes(range(32)),
            bytes(range(64, 0, -1)),
            "b1Y8-vK2xQ" + "0" * 40,
            "secretsecretsecretsecretsecretsecret",
            "changeme-changeme-changeme-changeme!",
            "changeme000000000000000000000000",
            "please-change-this-secret-key-in-production",
            "CHANGE_ME_TO_A_LONG_RANDOM_STRING_OF_32_BYTES",
            "your-256-bit-secret-goes-here-1234567890",
            "a-string-secret-at-least-256-bits-long",
            "my-super-secret-key-for-development-only",
            "password12345password12345password12345",
            "django-insecure-x5!k0p$h2v7w@q9z#m3n8b6c1t4y",
            "sjs&sk&F89fksL*987sdKf",
            "sjs&sk&F89fksL*987sdKf0000000000",
            "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
            bytes.fromhex("192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf"),
            "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==",
            "\ud800" * 40,
            None,
            12345678901234567890123456789012,
        ],
    )
    def test_a_secret_that_can_be_guessed_is_refused(self, weak: Any) -> None:
        for argument, make in (
            ("key", lambda: MessageSigner(weak)),
            ("fallbacks", lambda: MessageSigner(SECRET, fallbacks=[OLD, weak])),
            ("key", lambda: derive_key(weak, package="backjob.flask", application="shop")),
            ("SECRET_KEY", lambda: derive_key(weak, package="p", application="a", argument="SECRET_KEY")),
        ):
            with pytest.raises(InvalidRequest) as caught:
                make()
            assert caught.value.argument == argument
            assert not weak or str(weak) not in str(caught.value)

    @pytest.mark.parametrize(
        "strong",
        [
            SECRET,
            "three brown foxes quietly painted Helsinki",
            "the garden's secret gate opens at dusk on Mondays",
            "d41d8cd98f00b204e9800998ecf8427e",
            "5f4dcc3b-5aa7-65d6-1d83-27deb882cf99",
        ],
    )
    def test_other_secrets_are_accepted(self, strong: str) -> None:
        MessageSigner(strong)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: secrets.token_urlsafe(32),
            lambda: secrets.token_urlsafe(24),
            lambda: secrets.token_hex(16),
            lambda: secrets.token_hex(32),
            lambda: secrets.token_bytes(32),
            lambda: "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789!@#$%^&*(-_=+)") for _ in range(50)),
        ],
        ids=["urlsafe 32", "urlsafe 24", "hex 16", "hex 32", "bytes 32", "Django's"],
    )
    def test_no_random_secret_is_refused(self, make: Any) -> None:
        for _ in range(300):
            MessageSigner(make())

    def test_derived_keys_differ_by_secret_package_and_application(self) -> None:
        derived = {
            derive_key(secret, package=package, application=application)
            for secret in (SECRET, OLD)
            for package, application in [("a", "b"), ("ab", ""), ("", "ab"), ("b", "a"), ("a", "c")]
        }
        assert len(derived) == 10
        assert {len(key) for key in derived} == {32}
        assert derive_key(SECRET, package="a", application="b") == derive_key(
            SECRET.encode(), package="a", application="b"
        )


printable = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs", "Cc"]), max_size=30)
requests = st.builds(
    lambda method, path, query, body: Request(
        method, canonical_path(("/" + path.replace("/", "_")).encode()) + (f"?{query}" if query else ""), (), body
    ),
    st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ-", min_size=1, max_size=20),
    printable.filter(lambda path: path not in (".", "..")),
    st.lists(st.tuples(printable, printable), max_size=4).map(join_query),
    st.binary(max_size=100),
)
grants = st.builds(
    Grant,
    st.text("abcXYZ019-_", min_size=1, max_size=30),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 2 * 10**9).map(lambda second: second + 5),
    st.just(4 * 10**9),
)


class TestProperties:
    @given(request=requests, grant=grants, carrier=st.sampled_from(["query", "header"]))
    def test_signing_and_verifying_returns_the_same_request_and_grant(
        self, request: Request, grant: Grant, carrier: Carrier
    ) -> None:
        signer = MessageSigner(SECRET, carrier=carrier)
        signed = signer.sign(request, grant)
        assert signed.target.isascii()
        assert normalise(request.target) == request.target
        for shown in (signed, with_decoded_path(signed)):
            verified = signer.verify(shown, datetime.fromtimestamp(grant.created, UTC))
            assert verified.request == request
            assert verified.grant == grant
            verified.check(request.body)

    @given(place=st.integers(0, 500), removed=st.integers(0, 40), added=st.text(max_size=5) | st.text("&?=%/-.2F\n"))
    def test_no_part_of_a_target_can_be_replaced(self, place: int, removed: int, added: str) -> None:
        self._replace(place, removed, added)

    @pytest.mark.nightly
    @settings(max_examples=5_000, deadline=None)
    @given(place=st.integers(0, 500), removed=st.integers(0, 500), added=st.text() | st.text("&?=%/-.2F\n"))
    def test_no_part_of_a_target_can_be_replaced_in_5000_examples(self, place: int, removed: int, added: str) -> None:
        self._replace(place, removed, added)

    @staticmethod
    def _replace(place: int, removed: int, added: str) -> None:
        for raw in (True, False):
            signed = SIGNER.sign(Request("GET", "/a%2Fb/c?d=e"), GRANT)
            target = signed.target[:place] + added + signed.target[place + removed :]
            changed = Request("GET", target, raw=raw)
            if target == signed.target or not SIGNER.claims(changed):
                continue
            path, _, query = target.partition("?")
            if not raw and unquote_to_bytes(path) == b"/a/b/c" and query == signed.query:
                continue  # without the raw path, all of these look the same
            refusal_of(changed)

    @given(place=st.integers(0, 260), removed=st.integers(0, 20), added=st.text('&?=%/-.2F;",:()a \\', max_size=6))
    def test_no_part_of_the_header_fields_can_be_replaced(self, place: int, removed: int, added: str) -> None:
        signed = HEADER_SIGNER.sign(Request("GET", "/a%2Fb/c?d=e"), GRANT)
        for number, (name, value) in enumerate(signed.headers):
            text = value[:place] + added + value[place + removed :]
            changed = evolve(signed, headers=(*signed.headers[:number], (name, text), *signed.headers[number + 1 :]))
            if text.strip(" ") != value and HEADER_SIGNER.claims(changed):
                refusal_of(changed, HEADER_SIGNER)

    @given(query=st.text(), header=st.text())
    def test_any_garbage_is_refused_with_a_signature_error(self, query: str, header: str) -> None:
        for name in ("backjob-content-digest", "backjob-signature", "backjob-signature-input"):
            refusal_of(Request("GET", f"/?{name}={query}"))
        for value in (f'{header};tag="backjob"', f'backjob={header};tag="backjob"'):
            refusal_of(Request("GET", "/", (("Signature-Input", value), ("Signature", header))), HEADER_SIGNER)
