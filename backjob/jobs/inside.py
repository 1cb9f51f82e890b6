"""Reporting from an action: progress, output, the end. The half of `BackJob` that is used inside of actions.

Outside of a background request these methods do no harm: the same route also works in a browser.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, overload

from backjob.errors import BackgroundOnly, InvalidRequest, JobFailed, NoCurrentRequest
from backjob.http.values import json_text, text_of
from backjob.jobs.commands import Commands
from backjob.jobs.tracking import Tracking
from backjob.lifecycle import completed, failed
from backjob.model import short_text
from backjob.worker.files import Content, spooled
from backjob.worker.outcomes import describe
from backjob.worker.running import current
from backjob.worker.unwritten import percent

_P = ParamSpec("_P")
_R = TypeVar("_R")

_MAX_RESULT: Final = 1 << 20


class Inside(Tracking, Commands):
    """The methods for use inside of an action; `BackJob` inherits them."""

    # --- progress ---------------------------------------------------------------------------------------------------

    def update(
        self, progress: float | None = None, status_text: str | None = None, *, total: float | None = None
    ) -> None:
        """Report progress (0–100, or a part of ``total``), a status text, or both. Without either: a sign of life.

        You may call it in a tight loop: it writes at most every 0.1 s, the first report at once, and always the last state.
        Raises `InvalidRequest` if the progress is not a number or the text is none, and `JobEnded` once the job has ended.
        """
        if status_text is not None:
            status_text = text_of("status_text", status_text)
        running = current.get()
        if running is None or running.owner is not self:
            return
        if progress is not None and not (total is None and type(progress) is int and 0 <= progress <= 100):
            progress = percent(progress, total)
        if status_text is not None:
            running.set_text(status_text, progress)
        elif progress is None:
            running.sign_of_life()
        else:
            running.set_progress(progress)

    async def aupdate(
        self, progress: float | None = None, status_text: str | None = None, *, total: float | None = None
    ) -> None:
        """`update` that does not block the event loop."""
        if status_text is not None:
            status_text = text_of("status_text", status_text)
        running = self._running()
        if running is None:
            return
        if status_text is not None:
            if running.note_text(status_text, None if progress is None else percent(progress, total)):
                await self._engine.offload(running.write_now)
        elif running.note_life() if progress is None else running.note_progress(percent(progress, total)):
            await self._engine.offload(running.write_now)

    def increment(self, amount: float = 1) -> None:
        """Add to the progress, up to 100."""
        running = self._running()
        if running is not None:
            running.raise_progress(amount)
            running.sign_of_life()

    async def aincrement(self, amount: float = 1) -> None:
        """`increment` that does not block the event loop."""
        running = self._running()
        if running is None:
            return
        running.raise_progress(amount)
        if running.note_life():
            await self._engine.offload(running.write_now)

    def echo(self, text: str) -> None:
        """Append to the job's output. Outside of a background request, print the text.

        Raises `InvalidRequest` for what is no text, and `JobEnded` once the job has ended.
        """
        text = text_of("text", text)
        running = self._running()
        if running is None:
            print(text, end="")
        else:
            running.echo(text)

    # --- the end ----------------------------------------------------------------------------------------------------

    def finish(
        self,
        text: str | None = None,
        result: Any = None,
        *,
        file: Content | None = None,
        name: str | None = None,
        job_id: str | None = None,
    ) -> str:
        """Have the job end COMPLETED, with a text, a result and a file, when the response is complete.

        The result may contain dates, times, durations (as ISO 8601), decimals, UUIDs and enum members. ``file`` is a path, a
        file that is open in binary mode, or bytes; it is copied now, and users download it as ``name``, by default the
        path's. Returns ``""``, which a view may return. The first call counts. With a ``job_id``, end that job now, from
        outside, without a file; a job that has ended stays as it is. Raises `JobNotFound`, `InvalidRequest` for a text, result
        or file that is none, or if no files can be kept, and `OSError` for a file that can't be read.
        """
        text = None if text is None else text_of("text", text, "; pass a value as the result: finish(result=…)")
        encoded = json_text("result", result)
        if len(encoded) > _MAX_RESULT:
            raise InvalidRequest("result", f"its JSON has {len(encoded)} characters, more than {_MAX_RESULT}")
        end = completed(text, json.loads(encoded))  # a copy: the action may change the result later
        if job_id is not None:
            if file is not None:
                raise InvalidRequest("file", "only the job's own action can give it a file: leave job_id out")
            self._engine.end(job_id, end)
            return ""
        running = self._running()
        if running is None:
            return ""
        if file is not None and running.finish is None:
            running.file = spooled(running.keeping, file, name)
        if running.finish is None:
            running.finish = end
        return ""

    async def afinish(
        self,
        text: str | None = None,
        result: Any = None,
        *,
        file: Content | None = None,
        name: str | None = None,
        job_id: str | None = None,
    ) -> str:
        """`finish` that does not block the event loop."""
        return await self._engine.offload(self.finish, text, result, file=file, name=name, job_id=job_id)

    @overload
    def fail(self, text: str = "") -> NoReturn: ...

    @overload
    def fail(self, text: str = "", *, job_id: str) -> None: ...

    def fail(self, text: str = "", *, job_id: str | None = None) -> None:
        """End the action now; its job ends FAILED with this text, or keeps its status text if this one is empty.

        In an ordinary request, the response is a 500. With a ``job_id``, fail that job from outside, and return; a job that
        has ended stays as it is. Raises `JobNotFound`, and `InvalidRequest` for what is no text; an exception means its
        message.
        """
        text = short_text(text_of("text", text))
        if job_id is not None:
            self._engine.end(job_id, failed(text or None))
            return
        running = self._running()
        if running is None and self._here() is None:
            raise NoCurrentRequest(
                f"fail({text!r}) ends an action, but no action runs here: no request passed the middleware, or this is a "
                "process that the action has forked"
            )
        if running is not None and running.error is None:
            running.error = failed(text or None)
        raise JobFailed(text)

    async def afail(self, text: str = "", *, job_id: str | None = None) -> None:
        """`fail` that does not block the event loop. Without a ``job_id`` it has nothing to wait for."""
        if job_id is None:
            self.fail(text)
        await self._engine.offload(self.fail, text, job_id=job_id)

    def note_error(self, error: BaseException) -> None:
        """Keep an error that the framework turns into a response: it becomes the job's status text.

        Call it from an error handler. In an ordinary request it does nothing.
        """
        running = self._running()
        if running is not None and running.error is None:
            running.error = failed(describe(error), may_retry=True, unexpected=True)
            running.left_by = None  # it was raised while leaving, and counts more

    # --- around actions ---------------------------------------------------------------------------------------------

    def bind(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Return the function bound to the current job, to run in your own thread: ``pool.submit(jobs.bind(f), row)``."""
        running = self._running()
        if running is None:
            return function

        @functools.wraps(function)
        def bound(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with running.active():
                return function(*args, **kwargs)

        return bound

    def background_only(self, action: Callable[_P, _R]) -> Callable[_P, _R]:
        """Decorate an action, sync or async, that only a verified worker request may run: others get a 403."""
        if inspect.iscoroutinefunction(action):

            @functools.wraps(action)
            async def guarded_async(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                self._require_background()
                return await action(*args, **kwargs)

            _copy_signature(action, guarded_async)
            return guarded_async  # type: ignore[return-value]

        @functools.wraps(action)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            self._require_background()
            return action(*args, **kwargs)

        _copy_signature(action, guarded)
        return guarded

    def _require_background(self) -> None:
        if self.is_background:
            return
        text = "this route runs only as a background job"
        if self._here() is None:
            raise NoCurrentRequest(f"{text}, but no request passed the middleware")
        raise BackgroundOnly(text)


def _copy_signature(action: Callable[..., object], guarded: Any) -> None:
    """Give a decorated action the signature of the action, for frameworks that do not follow ``__wrapped__``: Pyramid."""
    with suppress(TypeError, ValueError):  # some callables have none
        guarded.__signature__ = inspect.signature(action)
