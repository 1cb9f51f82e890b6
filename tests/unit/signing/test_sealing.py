from __future__ import annotations

import sys

import pytest
from cryptography.fernet import MultiFernet
from hypothesis import given
from hypothesis import strategies as st

from backjob.errors import MissingExtra
from backjob.model import Credentials
from backjob.signing import MessageSigner
from backjob.signing.sealing import Sealer

SECRET = "b1Y8-vK2xQ_gq0Zr5tUw7LmN3oPaHs4E"
OTHER = "Xo5TgHq1_iWn8-eRkUz3McVb6YsLa0Pd"
CREDENTIALS = Credentials((("Cookie", "session=très secret"), ("Authorization", "Bearer hidden-token")))


def test_sealed_credentials_open_in_another_process_with_the_same_key() -> None:
    sealed = Sealer(MessageSigner(SECRET)).seal(CREDENTIALS, "row")
    assert Sealer(MessageSigner(SECRET)).open(sealed, "row") == CREDENTIALS


@given(st.lists(st.tuples(st.text(), st.text())))
def test_any_credentials_can_be_sealed_and_opened(fields: list[tuple[str, str]]) -> None:
    sealer = Sealer(MessageSigner(SECRET))
    assert sealer.open(sealer.seal(Credentials(tuple(fields)), "row"), "row") == Credentials(tuple(fields))


def test_sealed_credentials_and_the_repr_show_no_secret() -> None:
    sealed = Sealer(MessageSigner(SECRET)).seal(CREDENTIALS, "row")
    for word in (b"Cookie", b"session", b"hidden-token", SECRET.encode()):
        assert word not in sealed
    assert "hidden" not in repr(Sealer(MessageSigner(SECRET)))


def test_another_key_opens_nothing() -> None:
    assert Sealer(MessageSigner(OTHER)).open(Sealer(MessageSigner(SECRET)).seal(CREDENTIALS, "row"), "row") is None


def test_after_a_rotation_old_seals_open_and_new_ones_use_the_new_key() -> None:
    rotated = Sealer(MessageSigner(OTHER, fallbacks=[SECRET]))
    assert rotated.open(Sealer(MessageSigner(SECRET)).seal(CREDENTIALS, "row"), "row") == CREDENTIALS
    assert Sealer(MessageSigner(OTHER)).open(rotated.seal(CREDENTIALS, "row"), "row") == CREDENTIALS


def test_sealed_credentials_do_not_open_for_another_row() -> None:
    sealer = Sealer(MessageSigner(SECRET))
    assert sealer.open(sealer.seal(CREDENTIALS, "admin's row"), "Eve's row") is None


@pytest.mark.parametrize("place", [0, 10, 40, -40, -1])
def test_changed_credentials_do_not_open(place: int) -> None:
    sealer = Sealer(MessageSigner(SECRET))
    sealed = bytearray(sealer.seal(CREDENTIALS, "row"))
    sealed[place] ^= 1
    assert sealer.open(bytes(sealed), "row") is None


@pytest.mark.parametrize("garbage", [b"", b"x", b"\xff" * 200, b"gAAAA"])
def test_garbage_does_not_open(garbage: bytes) -> None:
    assert Sealer(MessageSigner(SECRET)).open(garbage, "row") is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"1", b"null", b"[1]", b'["row", ["a"]]', b'["row", [["a", "b", "c"]]]', b"\xff"]
)
def test_unexpected_sealed_content_does_not_open(content: bytes) -> None:
    sealer = Sealer(MessageSigner(SECRET))
    fernet = sealer._fernet
    assert isinstance(fernet, MultiFernet)
    assert sealer.open(fernet.encrypt(content), "row") is None


def test_without_cryptography_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(MissingExtra, match=r"pip install 'backjob\[sealed\]'"):
        Sealer(MessageSigner(SECRET))
