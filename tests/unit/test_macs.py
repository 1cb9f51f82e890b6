"""Tests of the MACs."""

from __future__ import annotations

import hmac

import pytest

from backjob.macs import mac


@pytest.mark.parametrize("size", [0, 1, 32, 64, 65, 200])
def test_it_is_the_hmac_of_rfc_2104(size: int) -> None:
    key = bytes(range(size))
    for message in (b"", b"a message", bytes(5000)):
        assert mac(key, message) == hmac.digest(key, message, "sha256")


def test_a_value_of_rfc_4231() -> None:
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"  # test case 2
    assert mac(b"Jefe", b"what do ya want for nothing?").hex() == expected


def test_messages_do_not_add_up() -> None:
    assert mac(b"key", b"a") == mac(b"key", b"a") != mac(b"key", b"aa")
