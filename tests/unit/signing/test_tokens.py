from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob.signing import MessageSigner
from backjob.signing.tokens import Access, Right, new_job_id, reference

SECRET = "b1Y8-vK2xQ_gq0Zr5tUw7LmN3oPaHs4E"
OTHER = "Xo5TgHq1_iWn8-eRkUz3McVb6YsLa0Pd"
ACCESS = Access(MessageSigner(SECRET))


def test_ids_have_more_than_128_bits_no_dot_and_no_leading_dash() -> None:
    ids = {new_job_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{23}", job_id) for job_id in ids)


def test_a_token_grants_the_right_it_was_made_for() -> None:
    assert ACCESS.rights("job", ACCESS.token("job")) is Right.VIEW
    assert ACCESS.rights("job", ACCESS.token("job", Right.CANCEL)) is Right.CANCEL


def test_tokens_have_23_url_safe_characters() -> None:
    for token in (ACCESS.token("job"), ACCESS.token("job", Right.CANCEL)):
        assert re.fullmatch(r"[vc][A-Za-z0-9_-]{22}", token)


def test_a_token_is_valid_for_its_own_job_only() -> None:
    assert ACCESS.rights("job2", ACCESS.token("job")) is None
    assert ACCESS.rights("ob", ACCESS.token("job")) is None


def test_a_view_token_can_not_be_turned_into_a_cancel_token() -> None:
    token = ACCESS.token("job")
    assert ACCESS.rights("job", "c" + token[1:]) is None


@pytest.mark.parametrize("token", ["", "v", "c", "v" * 23, "\ud800", "é", "v\0", "x" * 100_000])
def test_an_invalid_token_grants_nothing(token: str) -> None:
    assert ACCESS.rights("job", token) is None


@given(place=st.integers(0, 22), character=st.characters())
def test_a_token_with_a_changed_character_grants_nothing(place: int, character: str) -> None:
    token = ACCESS.token("job")
    changed = token[:place] + character + token[place + 1 :]
    assert (ACCESS.rights("job", changed) is None) == (changed != token)


def test_tokens_stay_valid_until_their_key_is_dropped() -> None:
    token = ACCESS.token("job", Right.CANCEL)
    assert Access(MessageSigner(OTHER, fallbacks=[SECRET])).rights("job", token) is Right.CANCEL
    assert Access(MessageSigner(OTHER)).rights("job", token) is None


def test_new_tokens_use_the_current_key() -> None:
    rotated = Access(MessageSigner(OTHER, fallbacks=[SECRET]))
    assert rotated.token("job") == Access(MessageSigner(OTHER)).token("job")


def test_a_dot_joins_an_id_and_its_token() -> None:
    assert reference("job", "vtoken") == "job.vtoken"


def test_equal_parts_make_the_same_merge_key_with_the_same_key_only() -> None:
    key = ACCESS.merge_key("user", None, b"body")
    assert key == ACCESS.merge_key("user", None, "body")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", key)
    assert key != Access(MessageSigner(OTHER)).merge_key("user", None, b"body")


def test_any_difference_of_a_part_changes_the_merge_key() -> None:
    calls = list(product([None, "", "1", "-", "+0:"], repeat=3))
    assert len({ACCESS.merge_key(*call) for call in calls}) == len(calls)


def test_merge_keys_keep_the_boundaries_of_their_parts() -> None:
    assert ACCESS.merge_key("ab", "c") != ACCESS.merge_key("a", "bc")
    assert ACCESS.merge_key("a") != ACCESS.merge_key("a", "")
