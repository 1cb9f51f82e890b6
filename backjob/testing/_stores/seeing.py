"""The promises to processes that take turns: each sees what the others have written, whoever opened or closed the store."""

# ruff: noqa: S106 - a token is no password

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from backjob.lifecycle import claimed, completed, ended
from backjob.model import Changes, Expect, Job, Output, Query, Report, Request, Status, check_duration
from backjob.protocols import Store
from backjob.testing._stores.case import LEASE, PATIENCE, draft, kept, same, unread
from backjob.testing._stores.children import Children, StoreElsewhere
from backjob.testing._stores.deadline import Deadline
from backjob.testing._stores.process import open_by
from backjob.testing._stores.watched import WatchedStore

__all__ = ["SeesOthers"]

_MOMENTS: Final = 4  # a clock may show zeros by chance, but hardly so many times


class SeesOthers:
    """A store at an address that several processes open. See `SharesJobs` for what to override."""

    opener = "backjob.stores:open_store"
    patience = PATIENCE
    """Seconds after which an unfinished process or call counts as a deadlock."""
    clock_tolerance = 5.0
    """Seconds by which the store's clock may differ from this computer's."""

    directory: Path
    store: Store
    children: ClassVar[Children]

    def address(self) -> str:
        """The address of a new, empty store, as ``opener`` expects it; override this."""
        raise NotImplementedError("a subclass of SharesJobs must override address()")

    def remove(self, address: str) -> None:
        """Delete the data at this address; override this if it is not in ``directory``."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _children_of_each_class(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        cls.children = Children(tmp_path_factory.mktemp("processes"), check_duration("patience", cls.patience))
        yield
        cls.children.end()

    @pytest.fixture(autouse=True)
    def _an_address_for_each_test(self, tmp_path: Path) -> Iterator[None]:
        with self.placed(tmp_path):
            yield

    @contextmanager
    def placed(self, directory: Path) -> Iterator[None]:
        """The attributes of one test."""
        self.directory = directory
        self._address = self.address()
        self.patience = check_duration("patience", self.patience)
        self.clock_tolerance = check_duration("clock_tolerance", self.clock_tolerance)
        self._deadline = Deadline(self.patience)
        try:
            with self._deadline.watched(), closing(self.reopened()) as self.store:
                yield
        finally:
            self.remove(self._address)

    def reopened(self) -> WatchedStore:
        """The store, opened once more in this process."""
        return WatchedStore(self._deadline.call("the opener", open_by, self.opener, self._address), self._deadline)

    @contextmanager
    def elsewhere(self) -> Iterator[WatchedStore]:
        """The store, opened in another process that is in another time zone. It closes the store at the end."""
        task: dict[str, object] = {"opener": self.opener, "address": self._address}
        with self.children.some(1) as (child,):
            store: Any = StoreElsewhere(child, task)
            yield WatchedStore(store, self._deadline)
            store.close()

    def test_jobs_that_two_processes_create_do_not_mix(self) -> None:
        with self.elsewhere() as other:
            names = [f"{number}" for number in range(6)]
            for number, name in enumerate(names):
                writer = (self.store, other)[number % 2]
                writer.create(draft(name, scope=f"scope {name}", request=Request("PUT", "/", body=name.encode())))
                writer.change(name, *claimed(f"token {name}", 1, LEASE))
            for number, name in enumerate(names):
                writer = (other, self.store)[number % 2]
                kept(
                    writer.report(name, f"token {name}", Report(output=f"output {name}")),
                    "jobs that several processes create do not mix: each takes the reports of its own run",
                )
            for reader in (self.store, other):
                for name in names:
                    job = _whole(reader, name)
                    same(
                        (job.scope, job.token, None if job.request is None else job.request.body, job.version),
                        (f"scope {name}", f"token {name}", name.encode(), 3),
                        "jobs that several processes create do not mix",
                    )
                    same(reader.output(name).text, f"output {name}", "the outputs of two processes' jobs do not mix")
                found = [job.id for job in reader.find(Query())]
                same(found, names[::-1], "find returns the jobs of all processes, newest first")

    def test_each_process_sees_what_the_other_has_written(self) -> None:
        store = self.store
        with self.elsewhere() as other:
            self._agree(other, store.create(draft("job", label="old")), "create")
            self._agree(other, other.change("job", *claimed("token", 1, LEASE)), "a claim")
            kept(other.report("job", "token", Report(progress=50, output="first;")), "a report is written")
            same(_whole(store, "job").progress, 50, "a process sees the progress that another has reported")
            kept(store.report("job", "token", Report(output="second;")), "a report is written")
            for reader in (store, other):
                same(reader.output("job"), Output("first;second;", 13), "all processes append to one output")
            same(other.beat({"job": "token"}, 99.0, frozenset()), frozenset(), "a running job is not stale")
            self._agree(other, _whole(other, "job"), "a beat")
            self._agree(other, store.change("job", Expect(token="token"), Changes(label="new")), "a new label")
            self._agree(other, other.change("job", Expect(token="token"), ended(completed("done", [1]))), "an end")
            late = store.change("job", Expect(status=Status.IN_PROGRESS), Changes(progress=1))
            same(late, None, "a process can't change what another has ended")
            same(store.report("job", "token", Report(output="late")), False, "an ended job takes no report")
            stale = store.beat({"job": "token"}, LEASE, frozenset())
            same(stale, frozenset(("job",)), "a job that another process has ended is stale")
            same(other.delete("job"), True, "delete of a job returns True")
            for reader in (store, other):
                same(reader.get("job"), None, "a job that another process has deleted is unknown")
                same(reader.output("job"), Output("", 0), "a deleted job has no output")

    def test_jobs_outlive_the_stores_that_wrote_them(self) -> None:
        writer, whole = self.store, Request("PUT", "/", body=b"rows" * 100)
        for name in ("waiting", "running", "ended", "gone"):
            writer.create(draft(name, request=whole, sealed=b"sealed", keep_request=True), f"key of {name}")
            if name != "waiting":
                writer.change(name, *claimed("token", 1, LEASE))
                writer.report(name, "token", Report(output=f"output of {name}", truncated=True, tail="tail"))
        writer.change("ended", Expect(), ended(completed("done", [1])))
        writer.delete("gone")
        jobs = {name: (_whole(writer, name), writer.output(name)) for name in ("waiting", "running", "ended")}
        with closing(self.reopened()) as second:
            self._unchanged(second, jobs)
        self._unchanged(writer, jobs)
        writer.close()
        with self.elsewhere() as other:
            self._unchanged(other, jobs)
            other.create(draft("theirs"))
        with closing(self.reopened()) as again:
            self._unchanged(again, jobs)
            kept(again.get("theirs") is not None, "a job outlives the store that created it, in another process")
            new = again.create(draft("new"))
            same(unread(_whole(again, "new")), unread(new), "get returns the job that create returned")
            for name in ("theirs", "new"):
                promise = "a new job has nothing of a removed one, also in a new process"
                same(again.output(name), Output("", 0), promise)
            self._unchanged(again, jobs)
            merged = again.create(draft("late"), "key of waiting")
            same(merged.id, "waiting", "a merge key outlives the store that wrote it")

    def test_the_clock_of_the_store_is_right_and_exact(self) -> None:
        moments: list[datetime] = []
        with self.elsewhere() as other:
            for number in range(_MOMENTS):
                store = (self.store, other)[number % 2]
                before = datetime.now(UTC)
                job = store.create(draft(f"{number}"))
                self._is_between(job.created_time, before, datetime.now(UTC))
                self._is_between(_whole(store, job.id).read_time, before, datetime.now(UTC))
                moments.append(job.created_time)
        kept(
            any(moment.microsecond % 1000 for moment in moments),
            f"the store's clock counts microseconds; here {', '.join([f'{moment:%S.%f}' for moment in moments])} s",
        )

    def _is_between(self, moment: datetime, before: datetime, after: datetime) -> None:
        __tracebackhide__ = True
        tolerance = timedelta(seconds=self.clock_tolerance)
        kept(
            before - tolerance <= moment <= after + tolerance,
            f"the store's clock is right, to {self.clock_tolerance:g} s (clock_tolerance), in any time zone; "
            f"it showed {moment}, at {before}",
        )

    def _agree(self, other: Store, job: Job | None, what: str) -> None:
        """Check that this process and the other read the job that a call has returned."""
        __tracebackhide__ = True
        kept(job is not None, f"{what} is possible in any process")
        for reader in (self.store, other):
            found = reader.get("job")
            same(
                None if found is None else unread(found),
                None if job is None else unread(job),
                f"each process sees {what} of another",
            )

    def _unchanged(self, reader: Store, jobs: dict[str, tuple[Job, Output]]) -> None:
        __tracebackhide__ = True
        for name, (job, output) in jobs.items():
            same(
                unread(_whole(reader, name)), unread(job), "a job outlives the stores that wrote it, and their close()"
            )
            same(reader.output(name), output, "output outlives the stores that wrote it, and their close()")


def _whole(store: Store, name: str) -> Job:
    """The job with the body of its request."""
    __tracebackhide__ = True
    job = store.get(name, body=True)
    if job is None:
        raise AssertionError(f"promise broken: a job that was written can be read, in any process ({name!r})")
    return job
