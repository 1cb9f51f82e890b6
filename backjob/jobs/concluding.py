"""Ending jobs from outside of their actions, and what follows an end, such as ``on_end``."""

from __future__ import annotations

import logging
from functools import partial

from attrs import evolve

from backjob.endings import log_conclusion, write_end
from backjob.errors import JobExit, JobNotFound, StoreError
from backjob.jobs.callbacks import Callbacks
from backjob.jobs.reading import Reading
from backjob.lifecycle import End, cancelled
from backjob.model import Expect, Job
from backjob.observers import Observers
from backjob.overriding import override
from backjob.process import PerProcess
from backjob.worker.exits import call_contained

_log = logging.getLogger("backjob")


class Concluding(Reading):
    """The part of an engine that ends jobs, and follows up on the ends that this process has written."""

    callbacks: PerProcess[Callbacks]
    observers: Observers
    calls_back_inline = False
    """Whether `call_back` is called at once, in the thread that writes the end."""

    def cancel(self, job_id: str) -> bool:
        """See `BackJob.cancel`."""
        return self.end(job_id, cancelled())

    def end(self, job_id: str, end: End) -> bool:
        """End a job from outside its action. Returns whether this call did it. Raises `JobNotFound`."""
        while True:
            job = self.find(job_id)
            if job is None:
                raise JobNotFound(job_id)
            if job.status.is_final:
                return False
            written = self.complete_end(job, end)
            # An end that was computed from the job as read must match that version; otherwise read again and retry.
            version = None if written is end else job.version
            expect = Expect(status=job.status, token=job.token, version=version)
            changed = write_end(self.store, job, expect, written)
            if changed is not None:
                log_conclusion(job, written)
                self.when_committed(job_id, partial(self.conclude, changed))
                return True

    @override
    def conclude(self, job: Job) -> None:
        """Follow up on an end or a requeue that was written here: stop delivering the run, and announce an end."""
        for carrier in self.carriers:
            carrier.forget(job)
        self.monitor.forget(job)
        self.monitor.run_ended(job)
        if job.status.is_final:
            self.announce(job)

    def announce(self, job: Job) -> None:
        """Have ``on_end`` called, in another thread, for a job whose end this process wrote."""
        self.observers.ended(job)
        if not self.has_receivers(job):
            return
        if self.calls_back_inline:
            call_contained(lambda: self.call_back(job), "job %s: announcing its end", job.id)
        else:
            self.callbacks.get().call(job.id, lambda: self.call_back(job))

    def call_back(self, job: Job) -> None:
        """Call ``on_end`` for a job that has ended."""
        if self.options.on_end is None:
            return
        try:
            try:
                state = self.state(job)
            except StoreError:  # the output can't be read now, and the end is announced only once
                state = self.state(evolve(job, output_size=0))
            self.options.on_end(state)
        except (Exception, JobExit):
            _log.exception("on_end failed for job %s", job.id)
