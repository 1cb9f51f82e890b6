"""The file that an action makes: collected on disk while it grows, and kept when the job ends COMPLETED."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

from attrs import frozen

from backjob.errors import BackJobError, InvalidRequest
from backjob.http.content import file_name, file_type
from backjob.model import Changes, Expect, Job, JsonValue, Status
from backjob.protocols import Files, Store

_IN_MEMORY: Final = 1 << 18
_CHUNK: Final = 1 << 18

_log = logging.getLogger("backjob")

Content: TypeAlias = "str | os.PathLike[str] | BinaryIO | bytes"
"""What ``finish(file=…)`` takes: a path, a file that is open in binary mode, or bytes."""


class TooLarge(BackJobError):
    """A file has more bytes than MAX_FILE."""


class NotKept(BackJobError):
    """A file can't be kept."""


@frozen(eq=False, repr=False)
class Keeping:
    """What is kept of an action's response and how much: ``max_result`` and ``max_file`` are in bytes.

    Without ``files`` no file is kept, for the reason that ``refusal`` gives, with its remedy.
    """

    max_result: int = 1 << 16
    max_file: int = 1 << 30
    files: Files | None = None
    refusal: str = "no place for files is set"
    is_stock_message: Callable[[int, str], bool] = lambda _status, _message: False
    """Whether the framework itself says this in every response with the status."""


class Spool:
    """A file that grows. It has no name, so nothing is left of it if the process is killed."""

    def __init__(self, keeping: Keeping, name: str, content_type: str | None) -> None:
        """``name`` is what the user calls the file. Raises `OSError`."""
        import tempfile  # noqa: PLC0415 - takes its time to import, and few jobs make files

        files = keeping.files
        folder = getattr(files, "spool_directory", None)
        self._most = keeping.max_file
        self.content_type = file_type(content_type, name)
        self.name = file_name(name, self.content_type)
        self.size = 0
        self.content = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=None if folder is None else folder())  # noqa: SIM115

    def write(self, chunk: bytes) -> None:
        """Append bytes. Raises `TooLarge` and `OSError`."""
        self.size += len(chunk)
        if self.size > self._most:
            raise TooLarge(f"the file {self.name!r} has more than {self._most} bytes, the value of MAX_FILE")
        self.content.write(chunk)

    def close(self) -> None:
        self.content.close()


def spooled(keeping: Keeping, content: Content, name: str | None) -> Spool:
    """Return a copy of what ``finish(file=…)`` was given. Raises `InvalidRequest`, naming the argument, and `OSError`."""
    if keeping.files is None:
        raise InvalidRequest("file", keeping.refusal)
    if name is None:
        found = content if isinstance(content, str | os.PathLike) else getattr(content, "name", None)
        name = Path(found).name if isinstance(found, str | os.PathLike) else ""
        if not name:
            raise InvalidRequest("name", 'give the file a name: finish(file=…, name="report.csv")')
    spool = Spool(keeping, name, None)
    try:
        _fill(spool, content)
    except TooLarge as error:
        spool.close()
        raise InvalidRequest("file", str(error)) from None
    except BaseException:
        spool.close()
        raise
    return spool


def _fill(spool: Spool, content: object) -> None:
    if isinstance(content, bytes | bytearray | memoryview):
        spool.write(bytes(content))
    elif isinstance(content, str | os.PathLike):
        with Path(content).open("rb") as file:
            _copy(file, spool)
    elif hasattr(content, "read"):
        _copy(content, spool)
    else:
        raise InvalidRequest("file", f"must be a path, an open file or bytes, not {type(content).__name__}")


def _copy(file: Any, spool: Spool) -> None:
    while chunk := file.read(_CHUNK):
        if not isinstance(chunk, bytes):
            raise InvalidRequest("file", 'must be open in binary mode: open(path, "rb")')
        spool.write(chunk)


def kept(store: Store, keeping: Keeping, job: Job, token: str, spool: Spool) -> JsonValue:
    """Keep the file of a run. Returns what to write into the job at its end; None if the run is over. Another call repeats it.

    The row names the file before the content is written, so that no content is ever without a row. Raises `NotKept` and
    `StoreError`.
    """
    if keeping.files is None:
        raise NotKept(keeping.refusal)
    # With a random part, because a framework may serve its storage to everyone who knows a file's name.
    key = f"{job.run}-{secrets.token_urlsafe(16)}"
    described: Mapping[str, JsonValue] = {
        "name": spool.name,
        "type": spool.content_type,
        "size": spool.size,
        "key": key,
    }
    expect = Expect(status=Status.IN_PROGRESS, run=job.run, token=token)
    if store.change(job.id, expect, Changes(file={**described, "size": None})) is None:
        return None
    try:
        spool.content.seek(0)
        keeping.files.write(job.id, key, cast("BinaryIO", spool.content))
    except Exception as error:
        _log.exception("job %s: its file can't be kept", job.id)
        raise NotKept(f"{type(error).__name__}: {error}") from error
    return described
