"""`run_command`: the output of a subprocess is the job's, and the subprocess ends with the job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from backjob.errors import JobEnded
from backjob.jobs.slices import Slices

if TYPE_CHECKING:
    from backjob.worker.commands import Arguments, Command


class Commands(Slices):
    """The methods that run subprocesses; `BackJob` inherits them."""

    def run_command(
        self,
        args: Arguments,
        *,
        input: str | bytes | None = None,  # noqa: A002 - as subprocess.run
        check: bool = True,
        terminal: bool = False,
        **options: Any,
    ) -> int:
        """Run a program; what it writes to stdout and stderr is output of the job, as it comes. Returns its exit status.

        ``args`` is a list, ``options`` are those of `subprocess.Popen`, such as ``cwd`` and ``env``; the output is read as
        ``encoding``, UTF-8 by default. The program gets ``input``, or none. With ``terminal`` it writes to a pseudo-terminal of
        80 columns, for programs that show colours and progress only there. With ``check``, an exit status other than 0 raises
        `CommandFailed` with the last lines.

        If the job has ended meanwhile, because it was cancelled for example, or this process shuts down, the program and
        all that it has started get SIGTERM, and SIGKILL 5 s later; then this raises `JobEnded` or `CommandFailed`. Outside of
        a background request the output is printed.
        """
        command = _command(args, options, input, terminal)
        return self._run(command, check=check, is_abandoned=lambda: False)

    async def arun_command(
        self,
        args: Arguments,
        *,
        input: str | bytes | None = None,  # noqa: A002
        check: bool = True,
        terminal: bool = False,
        **options: Any,
    ) -> int:
        """`run_command` that does not block the event loop. If its task is cancelled, the program is ended too."""
        import asyncio  # noqa: PLC0415 - takes as long to import as this package

        command = _command(args, options, input, terminal)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        abandoned = threading.Event()
        run = self._bound(lambda: self._run(command, check=check, is_abandoned=abandoned.is_set))

        def settle(set_outcome: Callable[[Any], None], outcome: object) -> None:
            if not done.done():
                set_outcome(outcome)

        def work() -> None:
            settled: tuple[Callable[[Any], None], object]
            try:
                settled = (done.set_result, run())
            except BaseException as error:
                settled = (done.set_exception, error)
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, *settled)

        # A thread of its own: those of `offload` are few, and a program may run for hours.
        threading.Thread(target=work, name="backjob-command", daemon=True).start()
        try:
            return await done
        finally:
            abandoned.set()

    def _bound(self, function: Callable[[], int]) -> Callable[[], int]:
        running = self._running()
        if running is None:
            return function

        def bound() -> int:
            with running.active():
                return function()

        return bound

    def _run(self, command: Command, *, check: bool, is_abandoned: Callable[[], bool]) -> int:
        running = self._running()
        draining = self._engine.draining
        monotonic = self._engine.clock.monotonic
        drains_since: float | None = None

        def leaves() -> bool:
            nonlocal drains_since
            if not draining.is_on:
                return False
            drains_since = monotonic() if drains_since is None else drains_since
            return monotonic() >= drains_since + max(0.0, draining.limit - command.grace - 1)

        def stop() -> bool:
            return is_abandoned() or (running is not None and (running.ended or leaves()))

        status = command.run(_print if running is None else running.write, stop)
        if status is None:
            if running is not None and running.ended:
                raise JobEnded(running.job.id)
            raise command.failure(None, "was ended, because this process shuts down")
        if status and check:
            raise command.failure(status)
        return status


def _command(args: Arguments, options: Mapping[str, Any], data: str | bytes | None, terminal: bool) -> Command:
    from backjob.worker.commands import Command  # noqa: PLC0415 - it imports subprocess, and few jobs run commands

    return Command(args, options, data=data, terminal=terminal)


def _print(text: str) -> None:
    print(text, end="", flush=True)
