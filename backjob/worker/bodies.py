"""What becomes of the body of an action's response: one class for each use that backjob makes of it."""

from __future__ import annotations

import json
import logging
import re
import zlib
from typing import Final, NoReturn

from backjob.errors import InvalidRequest
from backjob.http.content import TextDecoder
from backjob.http.values import json_text
from backjob.lifecycle import End, failed
from backjob.model import JsonValue
from backjob.overriding import override
from backjob.worker.files import Spool, TooLarge
from backjob.worker.messages import message_of
from backjob.worker.running import Running

_MAX_MESSAGE_BODY: Final = 1 << 16
_MAX_UNMARKED: Final = 1 << 20  # characters
_DECODED_CHUNK: Final = 1 << 16
_ENCODING: Final = zlib.MAX_WBITS | 32  # either of the two, by its header
_GZIP: Final = b"\x1f"  # the first byte of each of its members
_MARKUP: Final = re.compile(r"<[A-Za-z/!?]")

_log = logging.getLogger("backjob")


class Body:
    """A body and what it yields: a ``result``, an error's ``message``, a ``file``, or a ``problem`` that fails the job.

    ``may_block``: `write` writes to a disk.
    """

    may_block = False
    result: JsonValue = None
    message: str | None = None
    file: Spool | None = None
    problem: End | None = None

    def write(self, chunk: bytes) -> None:
        """Take a chunk. Raises nothing: the action can't help it."""

    def end(self) -> None:
        """Note that the body is complete."""

    def drop(self) -> None:
        """Remove what was collected: the action has failed."""


class NoBody(Body):
    """A body of which nothing is kept."""


class Unreadable(Body):
    """A body in an encoding that backjob can't decode."""

    def __init__(self, job_id: str, encoding: str) -> None:
        _log.warning(
            "job %s: nothing of its response is kept, because it has the Content-Encoding %r; a worker request accepts none, "
            "so don't compress the response to it", job_id, encoding[:50],
        )  # fmt: skip


class NotHere(Body):
    """The body of a file that the action leaves to the web server, such as with X-Accel-Redirect: it is not in the response."""

    def __init__(self, field: str) -> None:
        self.problem = failed(
            f"its response names a file for the web server ({field}), which only a browser's request gets: in a job, return "
            "the content, or call finish(file=…)"
        )


class TextBody(Body):
    """A text, which becomes output chunk by chunk."""

    def __init__(self, running: Running, content_type: str) -> None:
        self._running = running
        self._decoder = TextDecoder(content_type)

    @override
    def write(self, chunk: bytes) -> None:
        self._running.write(self._decoder.decode(chunk))

    @override
    def end(self) -> None:
        self._running.write(self._decoder.decode(b"", final=True))


class Unmarked(TextBody):
    """A complete ``text/html`` body: output if it has no markup; otherwise it is a page, of which nothing is kept."""

    def __init__(self, running: Running, content_type: str) -> None:
        super().__init__(running, content_type)
        self._text = ""
        self._is_page = False

    @override
    def write(self, chunk: bytes) -> None:
        if self._is_page:
            return
        searched = max(0, len(self._text) - 1)  # a "<" at the end of a chunk may begin markup
        self._text += self._decoder.decode(chunk)
        if _MARKUP.search(self._text, searched) or len(self._text) > _MAX_UNMARKED:
            self._is_page, self._text = True, ""

    @override
    def end(self) -> None:
        if not self._is_page:
            self._running.write(self._text + self._decoder.decode(b"", final=True))


class JsonBody(Body):
    """A JSON value: the result of the job. A larger one than ``most`` bytes is dropped, with a warning."""

    def __init__(self, job_id: str, most: int) -> None:
        self._job_id = job_id
        self._most = most
        self._size = 0
        self._data = bytearray()

    @override
    def write(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self._most:
            self._data += chunk
        else:
            self._data.clear()

    @override
    def end(self) -> None:
        if self._size > self._most:
            self._drop(f"it has {self._size} bytes, more than {self._most} (MAX_RESULT); return it as a file instead")
        elif self._data.strip():
            try:
                value = json.loads(self._data, parse_constant=_refuse)
                json_text("result", value)  # refuses what is nested too deeply
                self.result = value
            except InvalidRequest as error:
                self._drop(error.reason)
            except (ValueError, RecursionError) as error:
                self._drop(f"it is not valid JSON: {error}")

    def _drop(self, reason: str) -> None:
        _log.warning("job %s: its response is not kept as its result: %s", self._job_id, reason)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


class ErrorBody(Body):
    """The body of an error response, whose message is kept."""

    def __init__(self, content_type: str, line: str) -> None:
        self._content_type = content_type
        self._line = line
        self._data = bytearray()
        self._is_whole = True

    @override
    def write(self, chunk: bytes) -> None:
        room = _MAX_MESSAGE_BODY - len(self._data)
        self._data += chunk[:room]
        self._is_whole = self._is_whole and len(chunk) <= room

    @override
    def end(self) -> None:
        self.message = message_of(bytes(self._data), self._content_type, self._line, is_whole=self._is_whole)


class FileBody(Body):
    """A body that becomes the job's file. ``is_asked_for``: the action says that it is one, by its Content-Disposition."""

    may_block = True

    def __init__(self, running: Running, name: str, content_type: str, *, is_asked_for: bool) -> None:
        self._job_id = running.job.id
        keeping = running.keeping
        if keeping.files is None:
            text = f"its response is a file, which is not kept: {keeping.refusal}"
            if is_asked_for:
                self.problem = failed(text)
            else:
                _log.warning("job %s: %s", self._job_id, text)
            return
        try:
            self.file = Spool(keeping, name, content_type)
        except Exception as error:
            self._fail(error)

    @override
    def write(self, chunk: bytes) -> None:
        if self.file is None:
            return
        try:
            self.file.write(chunk)
        except TooLarge as error:
            self.problem = failed(str(error))
            self.drop()
        except Exception as error:
            self._fail(error)

    @override
    def drop(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _fail(self, error: Exception) -> None:
        _log.error("job %s: its file can't be written", self._job_id, exc_info=error)
        self.problem = failed(f"the job's file can't be written: {type(error).__name__}: {error}", unexpected=True)
        self.drop()


class Encoded(Body):
    """A body that some middleware has compressed although the worker request accepts no encoding: gzip or deflate.

    gzip may have several members, one after the other (RFC 1952, section 2.2).
    """

    def __init__(self, inner: Body) -> None:
        self.may_block = inner.may_block
        self._inner = inner
        self._inflate = zlib.decompressobj(wbits=_ENCODING)
        self._is_broken = False

    @override
    def write(self, chunk: bytes) -> None:
        while chunk and not self._is_broken:
            if self._inflate.eof:
                if not chunk.startswith(_GZIP):
                    return  # padding
                self._inflate = zlib.decompressobj(wbits=_ENCODING)
            try:
                decoded = self._inflate.decompress(chunk, _DECODED_CHUNK)
            except zlib.error:
                self._is_broken = True
                return
            self._inner.write(decoded)
            chunk = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail

    @override
    def end(self) -> None:
        if self._is_broken or not self._inflate.eof:
            self._inner.drop()
            if isinstance(self._inner, FileBody):
                self.problem = failed("the response is not in the encoding that its Content-Encoding names")
            return
        self._inner.end()
        self.result, self.message = self._inner.result, self._inner.message
        self.file, self.problem = self._inner.file, self._inner.problem

    @override
    def drop(self) -> None:
        self._inner.drop()
