"""Who may connect to a database, and who is told at once that it is not there."""

from __future__ import annotations

import threading

import pytest

from backjob.errors import StoreUnavailable
from backjob.stores.sql.gate import Gate


def test_there_is_room_for_so_many_and_no_more() -> None:
    gate = Gate("db", 2, 0.01)
    full = pytest.raises(StoreUnavailable, match="db: no connection became free")
    with gate.passing(), gate.passing(), full, gate.passing():
        pass
    with gate.passing(), gate.passing():
        pass


def test_who_leaves_by_an_error_leaves_room() -> None:
    gate = Gate("db", 1, 0.01)
    for _ in range(3):
        with pytest.raises(ValueError, match="mine"), gate.passing():
            raise ValueError("mine")


def test_without_a_server_one_tries_and_the_others_are_told() -> None:
    gate = Gate("db", 3, 5)
    gate.shut("db: connection refused")
    with gate.passing():
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="db: connection refused"), gate.passing():
                pass
    with gate.passing():  # the next to try
        gate.open()
        with gate.passing(), gate.passing():
            pass


def test_a_forked_child_finds_room_whoever_was_inside() -> None:
    gate = Gate("db", 1, 0.01)
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with gate.passing():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=stay)
    thread.start()
    assert inside.wait(10)
    gate.open_anew()
    with gate.passing():
        pass
    leave.set()
    thread.join(10)
