"""A secret in a file, for all processes of a machine."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from backjob.signing import MessageSigner, secret_file


def test_a_secret_is_made_once_and_read_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "instance" / "secret_key"
    secret = secret_file(path)
    MessageSigner(secret)
    assert secret_file(str(path)) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_starting_at_once_all_get_the_same_secret(tmp_path: Path) -> None:
    for attempt in range(20):
        barrier = Barrier(4)

        def read(path: Path = tmp_path / str(attempt), barrier: Barrier = barrier) -> str:
            barrier.wait(10)
            return secret_file(path)

        with ThreadPoolExecutor(4) as pool:
            assert len({future.result() for future in [pool.submit(read) for _ in range(4)]}) == 1


def test_a_secret_that_an_operator_wrote_is_used_without_its_line_break(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("Hq7vX2mZ9tB4kW8rN1cJ6yL3pD5sF0gA\n", encoding="ascii")
    assert secret_file(tmp_path / "key") == "Hq7vX2mZ9tB4kW8rN1cJ6yL3pD5sF0gA"


def test_a_file_that_can_not_be_created_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        secret_file(tmp_path / "file" / "key")
