"""Subprocesses of an action: their output arrives as it is written, and they do not outlive the action."""

from __future__ import annotations

import atexit
import codecs
import logging
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from backjob.errors import CommandFailed, InvalidRequest
from backjob.process import PerProcess

Arguments: TypeAlias = "str | bytes | os.PathLike[str] | Sequence[str | bytes | os.PathLike[str]]"

_INTERVAL: Final = 0.2  # s between two checks whether to go on
_LINGER: Final = 1.0  # s for which output is read after the end: a process that it left behind may keep the pipe open
_CHUNK: Final = 1 << 16
_LONGEST_END: Final = 2000  # characters of output in an error
_LONGEST_LINE: Final = 1 << 16  # characters that are kept back until their line is complete
_LAST_LINES: Final = 5
_SIZE: Final = (24, 80)
_OURS: Final = ("stdout", "bufsize", "universal_newlines", "text", "pipesize")

_log = logging.getLogger("backjob")


class Command:
    """A subprocess to `run` once. Raises `InvalidRequest` for arguments that can't be right.

    ``given`` are options of `subprocess.Popen`. The process gets no input unless ``data`` or the option ``stdin`` gives it
    some, and is the first of its own session, so that it can be ended with all processes that it starts. With ``terminal``
    its output is a pseudo-terminal of 80 columns.
    """

    grace: Final = 5.0
    """Seconds from SIGTERM to SIGKILL."""

    def __init__(self, args: Arguments, given: Mapping[str, Any], *, data: str | bytes | None, terminal: bool) -> None:
        options = dict(given)
        self._encoding = options.pop("encoding", None) or "utf-8"
        self._errors = options.pop("errors", None) or "replace"
        _check(args, options, data=data, terminal=terminal)
        codecs.lookup(self._encoding)
        self._args = args
        self._data = data.encode(self._encoding) if isinstance(data, str) else data
        self._terminal = terminal
        self._options = {"start_new_session": True, "stderr": subprocess.STDOUT, **options}
        if options.get("env") is None:
            # Otherwise Python, when it writes to a pipe, keeps its output back until it has 8 kB.
            self._options["env"] = {"PYTHONUNBUFFERED": "1", **os.environ}
            if terminal:  # TERM is that of the server's own terminal, if it has one
                self._options["env"]["TERM"] = "xterm-256color"
        first = args if isinstance(args, str | bytes | os.PathLike) else args[0]
        self.name = "the command" if options.get("shell") else Path(os.fsdecode(first)).name
        """The program's name, for messages; the arguments may have passwords."""
        self._end = self._rest = ""

    def run(self, write: Callable[[str], object], stop: Callable[[], bool]) -> int | None:
        """Run it to its end and pass its output to ``write``. Returns its exit status, negative for a signal.

        ``stop`` is called five times a second; once it returns True, the process is ended, and the result is None. Raises
        `CommandFailed` if the program can't be started.
        """
        with self._started() as (process, output):
            _processes.get().add(process)
            try:
                if self._follow(process, output, write, stop):
                    return process.wait()
                return None
            finally:
                self._kill(process)
                _processes.get().discard(process)

    def failure(self, status: int | None, reason: str = "") -> CommandFailed:
        """Return the error for this exit status, with the last lines of the output."""
        lines = "\n".join([line for line in self._end.splitlines() if line.strip()][-_LAST_LINES:])
        return CommandFailed(self.name, status, lines, reason)

    @contextmanager
    def _started(self) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """Start the process. Yields it, with the descriptor of its output."""
        ours, theirs = _pseudo_terminal() if self._terminal else os.pipe()
        try:
            try:
                with _input(self._data) as data:
                    options: Any = {"stdin": data, "stdout": theirs, **self._options}
                    process: Any = subprocess.Popen(self._args, **options)  # noqa: S603 - the application's command
            except OSError as error:
                raise CommandFailed(self.name, None, "", f"can't be started: {error.strerror or error}") from error
            finally:
                os.close(theirs)
            yield process, ours
        finally:
            os.close(ours)

    def _follow(
        self, process: subprocess.Popen[bytes], output: int, write: Callable[[str], object], stop: Callable[[], bool]
    ) -> bool:
        """Read the output until the process has ended. Returns False if it is to be stopped."""
        decoder = codecs.getincrementaldecoder(self._encoding)(self._errors)
        ended_at: float | None = None
        is_open = True
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not stop():
                if is_open and selector.select(_INTERVAL):
                    data = _read(output)
                    is_open = bool(data)
                    self._take(decoder.decode(data, final=not data), write, whole=is_open)
                    ended_at = time.monotonic() if ended_at is None and process.poll() is not None else ended_at
                    if is_open and (ended_at is None or time.monotonic() < ended_at + _LINGER):
                        continue
                self._take("", write)
                if process.poll() is not None:
                    return True
                if not is_open:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_INTERVAL)
        return False

    def _take(self, text: str, write: Callable[[str], object], *, whole: bool = False) -> None:
        """Pass on a text, but with ``whole`` keep a line that is not complete back, so that several commands mix whole lines."""
        self._end = (self._end + text)[-_LONGEST_END:]
        text = self._rest + text
        size = max(text.rfind("\n"), text.rfind("\r")) + 1 if whole else len(text)
        if len(text) - size > _LONGEST_LINE:
            size = len(text)
        self._rest = text[size:]
        if size:
            write(text[:size])

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """End the process, and those that it has started, unless it has ended by itself."""
        if process.poll() is not None:
            return
        self._signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.grace)
        self._signal(process, signal.SIGKILL)
        process.wait()

    def _signal(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        try:
            if self._options["start_new_session"]:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        except ProcessLookupError:
            pass
        except PermissionError:
            _log.warning("%s, process %d, can't be ended: it runs as another user", self.name, process.pid)


def _check(args: object, options: Mapping[str, Any], *, data: object, terminal: bool) -> None:
    parts = args if isinstance(args, Sequence) and not isinstance(args, str | bytes) else [args]
    if not parts or not all(isinstance(part, str | bytes | os.PathLike) for part in parts):
        raise InvalidRequest("args", 'must be a list of texts, such as ["pg_dump", "shop"]')
    if isinstance(args, str | bytes) and not options.get("shell"):
        raise InvalidRequest("args", 'must be a list, such as ["pg_dump", "shop"]; a text needs shell=True')
    for name in _OURS:
        if name in options:
            raise InvalidRequest(name, "is set by run_command, which makes the output of the command that of the job")
    for name in ("stdin", "stderr"):
        if options.get(name) == subprocess.PIPE:
            what = "input=, or an open file" if name == "stdin" else "subprocess.DEVNULL, or nothing"
            raise InvalidRequest(name, f"can't be a pipe, which nothing would serve; pass {what}")
    if data is not None and not isinstance(data, str | bytes):
        raise InvalidRequest("input", f"must be text or bytes, not {type(data).__name__}")
    if data is not None and "stdin" in options:
        raise InvalidRequest("input", "can't be used together with stdin")
    if terminal and os.name != "posix":
        raise InvalidRequest("terminal", "needs a POSIX system")


@contextmanager
def _input(data: bytes | None) -> Iterator[int | IO[bytes]]:
    """Yield a stdin with this content: a file, since a pipe would have to be written while the output is read."""
    if not data:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file


def _pseudo_terminal() -> tuple[int, int]:
    import pty  # noqa: PLC0415 - POSIX alone
    import termios  # noqa: PLC0415

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, _SIZE)
    return ours, theirs


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _CHUNK)
    except OSError:  # Linux: the other end of a pseudo-terminal is closed
        return b""


_processes: Final[PerProcess[set[subprocess.Popen[bytes]]]] = PerProcess(set)


def _kill_all() -> None:
    """End the processes that run still: a daemon thread does not, at the end of this process."""
    for process in list(_processes.get()):
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()


atexit.register(_kill_all)
