"""Mistakes in the signer of docs/own-signer.md, each with the test of the signer contract that finds it."""

from __future__ import annotations

from typing import Final

from tests.contracts.mutants import mutant

CLAIMS: Final = "        return any(name.lower() == FIELD for name, _ in request.headers)\n"
MATCH: Final = 'raise SignatureError("the signature does not match this request")'
ONE: Final = 'raise SignatureError(f"expected one {FIELD}, found {len(values)}")'
SIGNED: Final = '        signed, _, mac = values[0].rpartition(" ")\n'
COVERED: Final = "json.dumps([method, target, signed])"
VALUE: Final = """        value = f"{signed} {self._mac(request.method, request.target, signed)}"\n"""
EXPECTED: Final = "        expected = self._mac(request.method, target, signed)\n"
SECRETS: Final = "test_no_error_shows_a_query_a_header_value_a_body_a_signature_or_a_key"
GARBAGE: Final = "test_garbage_in_a_signature_is_refused"
ODD: Final = "test_an_odd_request_is_ordinary"
CASE: Final = "test_a_server_may_change_the_case_of_field_names"


def covering(text: str) -> tuple[tuple[str, str], ...]:
    """The signature also covers this text, which both sides make from ``these`` header fields, all but the signature."""
    these = "        these = [pair for pair in request.headers if pair[0].lower() != FIELD]\n"
    return (
        (VALUE, f"{these}{VALUE.replace(', signed)', f', signed + {text})')}"),
        (EXPECTED, f"{these}{EXPECTED.replace(', signed)', f', signed + {text})')}"),
    )


BROKEN_SIGNERS: Final = (
    # --- what the signature covers ------------------------------------------------------------------------------------
    mutant(
        "it covers the first KiB of the body",
        "test_the_whole_of_a_long_body_is_signed",
        ("hashlib.sha256(body)", "hashlib.sha256(body[:1024])"),
    ),
    mutant(
        "it covers the first and the last KiB of the body",
        "test_the_whole_of_a_long_body_is_signed",
        ("hashlib.sha256(body)", "hashlib.sha256(body[:1024] + body[-1024:])"),
    ),
    mutant(
        "it does not cover the method",
        "test_another_method_is_refused",
        (COVERED, "json.dumps([target, signed])"),
    ),
    mutant(
        "it covers the method in any case",
        "test_no_bit_of_the_method_can_be_changed",
        (COVERED, "json.dumps([method.upper(), target, signed])"),
    ),
    mutant(
        "it does not cover the query",
        "test_another_target_is_refused",
        (COVERED, 'json.dumps([method, target.partition("?")[0], signed])'),
    ),
    mutant(
        "it covers the decoded path",
        "test_with_the_raw_path_its_decoded_form_is_refused",
        ("same = request.path == path if request.raw else ", "same = "),
    ),
    mutant(
        "it does not cover the run",
        "test_no_bit_of_the_headers_that_the_signer_added_can_be_changed",
        (COVERED, 'json.dumps([method, target, signed.split(" ")[0], signed.split(" ")[2:]])'),
    ),
    # --- servers ------------------------------------------------------------------------------------------------------
    mutant(
        "it covers the names of header fields in their case",
        CASE,
        *covering("str([name for name, _ in these])"),
    ),
    mutant(
        "it finds its field in its own case only",
        CASE,
        (CLAIMS, "        return FIELD in dict(request.headers)\n"),
    ),
    mutant(
        "it verifies its field in its own case only",
        CASE,
        (
            "for name, value in request.headers if name.lower() == FIELD]",
            "for name, value in request.headers if name == FIELD]",
        ),
    ),
    mutant(
        "it leaves its field in the request if a server changed the case",
        CASE,
        ("if name.lower() != FIELD)", "if name != FIELD)"),
    ),
    mutant(
        "it covers all header fields",
        "test_proxies_may_add_header_fields_and_change_their_order",
        *covering("str(these)"),
    ),
    mutant(
        "it expects its field at the end",
        "test_proxies_may_add_header_fields_and_change_their_order",
        (CLAIMS, "        return bool(request.headers) and request.headers[-1][0].lower() == FIELD\n"),
    ),
    mutant(
        "its claims() raises for a target that is not ASCII",
        ODD,
        (CLAIMS, f'        request.target.encode("ascii")\n{CLAIMS}'),
    ),
    mutant(
        "its claims() raises for an empty target",
        ODD,
        (CLAIMS, f"        request.target[0]\n{CLAIMS}"),
    ),
    mutant(
        "its claims() raises for a value that is not Latin-1",
        ODD,
        (CLAIMS, f'        str(request.headers).encode("latin-1")\n{CLAIMS}'),
    ),
    mutant(
        "its claims() is true for a target that does not parse",
        ODD,
        (CLAIMS, f'        if not request.target.startswith("/"):\n            return True\n{CLAIMS}'),
    ),
    mutant(
        "its claims() is true for header fields that do not parse",
        ODD,
        (CLAIMS, f"        if not str(request.headers).isascii():\n            return True\n{CLAIMS}"),
    ),
    mutant(
        "its verify() raises ValueError for garbage",
        GARBAGE,
        (SIGNED, f"{SIGNED}        *_, _created, _expires, _digest_, _path = signed.split(' ')\n"),
    ),
    mutant(
        "its verify() raises UnicodeEncodeError for garbage",
        GARBAGE,
        ('mac.encode("utf-8", "surrogatepass")', 'mac.encode("ascii")'),
    ),
    mutant(
        "its verify() raises RecursionError for garbage",
        GARBAGE,
        (
            SIGNED,
            f"        with __import__('contextlib').suppress(ValueError):\n            json.loads(values[0])\n{SIGNED}",
        ),
    ),
    # --- secrets ------------------------------------------------------------------------------------------------------
    mutant("its error shows the query", SECRETS, (MATCH, MATCH.replace('request")', 'request: " + request.target)'))),
    mutant("its error shows the signature", SECRETS, (MATCH, MATCH.replace('request")', 'request: " + values[0])'))),
    mutant(
        "the cause of its error shows a header value", SECRETS, (MATCH, f"{MATCH} from ValueError(request.headers)")
    ),
    mutant("the cause of its error shows the key", SECRETS, (MATCH, f"{MATCH} from KeyError(self._key.decode())")),
    mutant("the cause of its error shows the query", SECRETS, (MATCH, f"{MATCH} from LookupError(target)")),
    mutant(
        "the context of its error shows the signature",
        SECRETS,
        (SIGNED, f"{SIGNED}        try:\n            int(mac, 16)\n        except ValueError:\n            {MATCH}\n"),
    ),
    mutant(
        "the context of its error shows a header value",
        SECRETS,
        (
            ONE,
            f"try:\n                raise KeyError(request.headers)\n            except KeyError:\n                {ONE}",
        ),
    ),
    mutant(
        "its error for a second signature shows a header value",
        SECRETS,
        (
            'InvalidRequest("headers", "are already signed")',
            'InvalidRequest("headers", f"are signed: {request.headers}")',
        ),
    ),
    mutant(
        "its error for another body shows that body",
        SECRETS,
        ('SignatureError("the body is not the signed one")', "SignatureError(repr(body))"),
    ),
    mutant(
        "its repr shows the key",
        "test_no_repr_and_no_signed_request_shows_a_key",
        ("class HMACSigner:\n", "class HMACSigner:\n    __repr__ = lambda self: str(self._key)\n"),
    ),
    # --- time, keys, repetition ---------------------------------------------------------------------------------------
    mutant(
        "it is valid when it expires",
        "test_a_signature_is_valid_from_5_s_before_created_until_just_before_expires",
        ("< grant.expires", "<= grant.expires"),
    ),
    mutant(
        "it tolerates no late clock",
        "test_a_signature_is_valid_from_5_s_before_created_until_just_before_expires",
        ("grant.created - 5", "grant.created"),
    ),
    mutant(
        "its error at a wrong time is like any other",
        "test_the_error_of_a_signature_at_a_wrong_time_is_untimely",
        ("raise Untimely(", "raise SignatureError("),
    ),
    mutant(
        "it has one key for all purposes",
        "test_derived_keys_are_stable_have_32_bytes_and_differ_by_label",
        ('b"derive " + label.encode()', 'b"derive"'),
    ),
    mutant(
        "it verifies the first of two signatures",
        "test_a_repeated_signature_is_refused",
        ("if len(values) != 1:", "if not values:"),
    ),
    mutant(
        "it signs a signed request",
        "test_a_signed_request_can_not_be_signed_again",
        ("if self.claims(request):", "if False:"),
    ),
    mutant(
        "it accepts any key", "test_a_signature_by_another_key_is_refused", ("hmac.new(self._key,", 'hmac.new(b"key",')
    ),
)
