"""Keys are kept, and nothing shows them."""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest
from attrs import evolve

from backjob.errors import SignatureError
from backjob.model import Request
from backjob.testing._shown import shown
from backjob.testing._signers.case import (
    CREATED,
    EXPIRES,
    GRANT,
    NOW,
    PLAIN,
    SignerCase,
    added_fields,
    added_query,
    at,
    with_added,
)

_REVEALING: Final = 16
"""Characters of a signature that are enough to reveal something."""

_MALFORMED: Final[tuple[Callable[[str], str], ...]] = (
    lambda value: f"x{value}",
    lambda value: f"{value}x",
    lambda value: value[:-1],
    lambda value: value[len(value) // 2 :],
    lambda value: value[: len(value) // 2],
    lambda value: value.replace(" ", "").replace(".", ""),
    lambda value: f"{value} {value}",
)


class KeepsSecrets(SignerCase):
    """Derived keys are independent, and no repr and no error shows a secret."""

    def test_derived_keys_are_stable_have_32_bytes_and_differ_by_label(self) -> None:
        labels = ("access", "seal", "merge", "", "Access")
        derived = [self.make_signer().derive(label) for label in labels]
        assert derived == [self.make_signer().derive(label) for label in labels]
        assert all(len(key) == 32 for keys in derived for key in keys)
        assert all(isinstance(keys, tuple) and keys for keys in derived)
        assert len({key for keys in derived for key in keys}) == sum(map(len, derived))

    def test_another_key_derives_other_keys(self) -> None:
        assert not set(self.make_signer().derive("access")) & set(self.make_stranger().derive("access"))

    def test_no_repr_and_no_signed_request_shows_a_key(self) -> None:
        signer = self.make_signer()
        signed = signer.sign(PLAIN, GRANT)
        texts = [repr(signer), str(signer), repr(signer.verify(signed, NOW)), signed.target, repr(signed.headers)]
        hidden = [*self.secrets(), *(key.hex() for key in signer.derive("access"))]
        assert not [secret for secret in hidden for text in texts if secret in text]

    def test_no_error_shows_a_query_a_header_value_a_body_a_signature_or_a_key(self) -> None:
        signed = self._signed()
        values = [parameter.partition("=")[2] for parameter in added_query(signed, PLAIN).split("&")]
        values += [value for _, value in added_fields(signed, PLAIN)]
        parts = {value[start : start + _REVEALING] for value in values for start in range(len(value) - _REVEALING + 1)}
        hidden = {"QueryMarker", "HeaderMarker", "BodyMarker", *self.secrets(), *parts}
        for error in self._errors(signed):
            text = shown(error)
            assert not [secret for secret in hidden if secret in text], "shown by an error, its cause or its context"

    def _errors(self, signed: Request) -> Iterator[BaseException]:
        """Yield the errors of the calls that a signer refuses."""
        signer = self.make_signer()
        changed = [
            PLAIN,
            evolve(signed, method="PUT"),
            evolve(signed, target=signed.target.replace("id=5", "id=6")),
            evolve(signed, target="/other" + signed.target),
            Request("POST", signed.target + added_query(signed, PLAIN), signed.headers + added_fields(signed, PLAIN)),
            self.make_stranger().sign(PLAIN, GRANT),
            *(mutant for change in _MALFORMED for mutant in with_added(signed, PLAIN, change)),
        ]
        for mutant in changed:
            if mutant != signed:
                with pytest.raises(SignatureError) as caught:
                    signer.verify(mutant, NOW)
                yield caught.value
        for when in (at(CREATED - 60), at(EXPIRES)):
            with pytest.raises(SignatureError) as caught:
                signer.verify(signed, when)
            yield caught.value
        with pytest.raises(SignatureError) as caught:
            signer.verify(signed, NOW).check(b"BodyMarker")
        yield caught.value
        with pytest.raises(ValueError) as twice:  # noqa: PT011 - InvalidRequest, or a signer's own
            signer.sign(signed, GRANT)
        yield twice.value
