"""Reading jobs: their state and output, now or as they change. The half of `BackJob` that is used outside of actions."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import BinaryIO, Final

from backjob.errors import InvalidRequest
from backjob.jobs.engine import UsesEngine
from backjob.model import JobState, Output, Query, Seconds, Status, check_duration, parse_position
from backjob.model.durations import LONGEST
from backjob.status.embedding import ElementOptions, Markup, element, text_of
from backjob.worker.offload import sleep
from backjob.worker.running import current

_MIN_INTERVAL: Final = 0.05
_MAX_INTERVAL: Final = 1.0


class Outside(UsesEngine):
    """The methods that read jobs; `BackJob` inherits them."""

    def status(self, job_id: str) -> JobState:
        """Return the state of the job. A job that is past its timeout ends FAILED first. Raises `JobNotFound`."""
        return self._engine.status(job_id)

    def exists(self, job_id: str) -> bool:
        """Return whether the store has this job."""
        return self._engine.find(job_id) is not None

    def scope(self, job_id: str) -> str:
        """Return the scope that ``start()`` was given. Raises `JobNotFound`."""
        return self._engine.job(job_id).scope

    def output(self, job_id: str, offset: int = 0) -> Output:
        """Return up to 64 KiB of output from byte ``offset`` on; continue at its ``next_offset``. Raises `JobNotFound`."""
        return self._engine.output(job_id, offset)

    def open_file(self, job_id: str) -> BinaryIO:
        """Open the job's file in binary mode. You close it. Its name and type are in ``status(job_id).file``.

        Raises `JobNotFound`, and `InvalidRequest` ("job_id") if the job has no file, or none that can be read: then the log
        says why.
        """
        file = self._engine.open_file(job_id)
        if file is None:
            raise InvalidRequest("job_id", "this job has no file, or its file can't be read: then the log says why")
        return file

    def find(
        self,
        scope: str | None = None,
        status: Status | None = None,
        owner: str | None = None,
        limit: int = 50,
        before: str | None = None,
        *,
        queue: str | None = None,
        q: str = "",
    ) -> list[JobState]:
        """Return the jobs that match all arguments, newest first. ``q`` is a part of the title or the path, in any case.

        None matches all: with ``owner=None`` the jobs are those of every user. ``before`` is the ``position`` of the last job of the previous page; its id works as long as the job exists. Raises
        `InvalidRequest`, also for the name of a status, and `StoreUnusable` for a store that can't list its jobs, such as a cache alone.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000:
            raise InvalidRequest("limit", f"must be a whole number from 1 to 1000, not {limit!r}")
        for name, text in (("scope", scope), ("owner", owner), ("queue", queue)):
            if text is not None and not isinstance(text, str):  # a user in place of an id would match no job
                raise InvalidRequest(name, f"must be text, not {text!r}")
        if status is not None and not isinstance(status, Status):
            raise InvalidRequest("status", f"must be a Status, such as Status.FAILED, not {status!r}")
        after, created = (None, None) if before is None else parse_position(before)
        query = Query(
            scope=scope,
            status=status,
            owner=owner,
            limit=limit,
            before=after,
            before_time=created,
            queue=queue,
            text=q,
        )
        return self._engine.listed(query)

    async def afind(
        self,
        scope: str | None = None,
        status: Status | None = None,
        owner: str | None = None,
        limit: int = 50,
        before: str | None = None,
        *,
        queue: str | None = None,
        q: str = "",
    ) -> list[JobState]:
        """`find` that does not block the event loop."""
        return await self._engine.offload(self.find, scope, status, owner, limit, before, queue=queue, q=q)

    def status_url(self, job_id: str, cancel: bool = False, absolute: bool = False) -> str:
        """Return the signed path of the job's status. It is valid until the job is purged.

        Anyone who has it may view the job, and with ``cancel=True`` also cancel it. With ``absolute=True`` it is a URL below
        PUBLIC_URL, for mails and other sites; without that setting it raises `InvalidRequest`.
        """
        return self._engine.status_url(job_id, cancel, absolute)

    def element(
        self,
        job_id: str,
        *,
        output: bool = False,
        cancel: bool = False,
        stream: bool = False,
        label: str = "",
        on_done_href: str | None = None,
        texts: Mapping[str, str] | None = None,
        lang: str | None = None,
    ) -> Markup:
        """Return the progress element as HTML for a template, with its script and style: ``{{ jobs.element(job_id) }}``.

        It contains the job's state and a link to its page, which browsers show until the script runs, or without it.
        ``output`` shows what the job prints, and ``cancel`` a button with which everyone who sees the page can cancel the
        job. With ``stream`` it uses server-sent events if the server has them. ``label`` names the bar for screen readers.
        When the job is done the browser goes to ``on_done_href``, or for ``""`` to the job's result. ``texts`` replaces
        words, and ``lang`` is the language of the others if it is not that of the page.
        """
        options = ElementOptions(
            output=output,
            cancel=cancel,
            stream=stream,
            label=label,
            on_done_href=on_done_href,
            texts=texts,
            lang=lang,
        )
        return element(self._engine, job_id, options)

    def text_of(self, state: JobState, lang: str = "") -> str:
        """Return what a job's visitors read about it: its text, or why it waits, or else the word for its status.

        backjob's own words are in the language ``lang``, such as ``"de"`` or ``"de-AT"``; by default, and if backjob does
        not speak it, in English. As on the status pages, "internal error" and the job's id stand for the text of an
        unexpected error, unless ``SHOW_ERRORS`` is set. It is text: escape it in HTML. Reads nothing from the store.
        """
        return text_of(self._engine, state, lang)

    def watch(self, job_id: str) -> Iterator[JobState]:
        """Yield the state now and whenever it changes, ending with the final one. Raises `JobNotFound`.

        In an action, it raises `InvalidRequest` unless the job has ended, as `join` does.
        """
        self._check_wait("watch", job_id)
        pause = threading.Event()
        for item in self._polls(job_id):
            if isinstance(item, JobState):
                yield item
            else:
                pause.wait(item)

    def join(self, job_id: str, timeout: Seconds | None = None) -> JobState:
        """Wait for the end, and return the final state. Raises `JobNotFound`, and `TimeoutError` after ``timeout`` s.

        None waits without a limit. In an action, it raises `InvalidRequest` unless the job has ended: both might wait for the
        place of the other.
        """
        limit = _limit(timeout)
        self._check_wait("join", job_id)
        pause = threading.Event()
        polls = self._polls(job_id, limit)
        while True:
            item = next(polls)
            if not isinstance(item, JobState):
                pause.wait(item)
            elif item.status.is_final:
                return item

    def _check_wait(self, method: str, job_id: str) -> None:
        if current.get() is not None and not self.status(job_id).status.is_final:
            raise InvalidRequest(
                "job_id",
                f"{method}() in an action keeps this job's place while the other one may wait for a place: read status() later, "
                "in a job that on_end starts or after continue_later()",
            )

    def _polls(self, job_id: str, limit: float | None = None) -> Iterator[JobState | float]:
        """Yield each new state, and between two polls the seconds to wait; ends after the final state."""
        clock = self._engine.clock
        until = None if limit is None else clock.monotonic() + limit
        wait = _MIN_INTERVAL
        last: JobState | None = None
        while True:
            state = self.status(job_id)
            if state != last:
                yield state
                last, wait = state, _MIN_INTERVAL
            if state.status.is_final:
                return
            if until is not None:
                left = until - clock.monotonic()
                if left <= 0:
                    raise TimeoutError(f"job {job_id} has not ended within {limit:g} s: {state.status.name}")
                wait = min(wait, left)
            yield wait
            wait = min(_MAX_INTERVAL, wait * 1.5)

    # --- for async handlers -----------------------------------------------------------------------------------------

    async def aexists(self, job_id: str) -> bool:
        """`exists` that does not block the event loop."""
        return await self._engine.offload(self.exists, job_id)

    async def ascope(self, job_id: str) -> str:
        """`scope` that does not block the event loop."""
        return await self._engine.offload(self.scope, job_id)

    async def aelement(
        self,
        job_id: str,
        *,
        output: bool = False,
        cancel: bool = False,
        stream: bool = False,
        label: str = "",
        on_done_href: str | None = None,
        texts: Mapping[str, str] | None = None,
        lang: str | None = None,
    ) -> Markup:
        """`element` that does not block the event loop."""
        return await self._engine.offload(
            self.element,
            job_id,
            output=output,
            cancel=cancel,
            stream=stream,
            label=label,
            on_done_href=on_done_href,
            texts=texts,
            lang=lang,
        )

    async def astatus(self, job_id: str) -> JobState:
        """`status` that does not block the event loop."""
        return await self._engine.offload(self.status, job_id)

    async def aoutput(self, job_id: str, offset: int = 0) -> Output:
        """`output` that does not block the event loop."""
        return await self._engine.offload(self.output, job_id, offset)

    async def aopen_file(self, job_id: str) -> BinaryIO:
        """`open_file` that does not block the event loop. Reading from the file may block it."""
        return await self._engine.offload(self.open_file, job_id)

    async def awatch(self, job_id: str) -> AsyncIterator[JobState]:
        """`watch` for an async handler."""
        await self._engine.offload(self._check_wait, "watch", job_id)
        polls = self._polls(job_id)
        while (item := await self._engine.offload(next, polls, None)) is not None:
            if isinstance(item, JobState):
                yield item
            else:
                await sleep(item)

    async def ajoin(self, job_id: str, timeout: Seconds | None = None) -> JobState:  # noqa: ASYNC109 - join's twin
        """`join` for an async handler."""
        limit = _limit(timeout)
        await self._engine.offload(self._check_wait, "join", job_id)
        polls = self._polls(job_id, limit)
        while True:
            item = await self._engine.offload(next, polls)
            if not isinstance(item, JobState):
                await sleep(item)
            elif item.status.is_final:
                return item


def _limit(timeout: Seconds | None) -> float | None:
    # Of a deadline that is over less than 0 may be left, which the standard library's time limits allow.
    return None if timeout is None else max(0.0, check_duration("timeout", timeout, -LONGEST))
