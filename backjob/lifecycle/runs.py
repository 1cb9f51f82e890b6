"""The runs of a job: the claim of one, and what follows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, cast

from backjob.lifecycle.ends import UNEXPECTED, Conclusion, End, Requeue, ended
from backjob.lifecycle.limits import Late, late
from backjob.lifecycle.waiting import CARRIER
from backjob.model import UNSET, Changes, Expect, Job, JsonValue, Status, Unset

DELIVERY_LEASE: Final = 30.0
"""Seconds that a monitor's lease of a waiting job lasts. The monitor renews it after half of them."""

_LONGEST_RETRY_DELAY: Final = 3600.0  # s
_JITTER: Final = 0.2
_FIRST_ENTRIES: Final = 50
_MOST_ENTRIES: Final = 100


def claimed(token: str, run: int, lease: float) -> tuple[Expect, Changes]:
    """The claim of this run, for ``lease`` seconds, with the token that fences every later write of the run.

    ``lessee`` stays: with credentials that only the delivering process has, it must deliver the next slice too.
    """
    return Expect(run=run, unclaimed=True), Changes(
        status=Status.IN_PROGRESS,
        token=token,
        lease=lease,
        waiting_for=None,
        expires=None,
        claimed=True,
        alive=True,
    )


def continued(cursor: JsonValue | Unset = UNSET) -> Requeue:
    """The next slice, from a cursor (UNSET: from the last checkpoint)."""
    return Requeue("continued", is_retry=False, cursor=cursor)


def after_run(job: Job, end: End, spread: float) -> Conclusion:
    """The end of a job, or another run if it may be retried and has a retry left.

    ``spread``, from -1 to 1, is random: it keeps jobs that failed together from returning together.
    """
    if not end.may_retry or job.attempt > job.retries:
        return end
    delay = min(_LONGEST_RETRY_DELAY, job.retry_delay * 2.0 ** min(job.attempt - 1, 30)) * (1 + _JITTER * spread)
    delay = min(_LONGEST_RETRY_DELAY, delay)
    if end.retry_after is not None:
        delay = max(0.0, end.retry_after)
    return Requeue(end.text or "failed", delay, unexpected=end.unexpected)


def requeued(job: Job, requeue: Requeue, at: datetime) -> Changes:
    """The changes that end a run and have the job wait for the next one.

    ``at`` is the end of the run (UTC). A job between two slices stays IN_PROGRESS, and a moved cursor resets the attempts.
    A retry without a checkpoint begins from the start. If only its lessee has the credentials, the lease stays there; so it
    does with a carrier, unless the run's process died, and perhaps its carrier with it.
    """
    is_kept = job.held or (is_carried(job) and late(job) is not Late.DEAD)
    has_moved = not isinstance(requeue.cursor, Unset)
    has_cursor = (requeue.cursor if has_moved else job.cursor) is not None
    attempt = job.attempt + 1 if requeue.is_retry else 1 if has_moved else job.attempt
    return Changes(
        status=Status.STARTED if requeue.is_retry else UNSET,
        run=job.run + 1,
        attempt=attempt,
        delivery=1,
        token=None,
        progress=0 if requeue.is_retry and not has_cursor else UNSET,
        lessee=UNSET if is_kept else None,
        lease=requeue.delay + DELIVERY_LEASE if is_kept else None,
        due=requeue.delay,
        deliver_by=None,
        slot=None,
        cursor=requeue.cursor,
        history=_lengthened(job, requeue, at),
        alive=True,
    )


def given_back(job: Job) -> Changes:
    """The changes after which a claimed job waits again, for its next run, because its action could not begin.

    This counts neither as an attempt nor as a slice, and the job keeps its turn in the queue.
    """
    is_kept = job.held or is_carried(job)
    return Changes(
        status=UNSET if is_next_slice(job) else Status.STARTED,
        run=job.run + 1,
        delivery=1,
        token=None,
        lessee=UNSET if is_kept else None,
        lease=DELIVERY_LEASE if is_kept else None,
        deliver_by=None,
        slot=None,
    )


def is_carried(job: Job) -> bool:
    """Whether a carrier delivers the job, which keeps the lease from run to run."""
    return job.lessee is not None and job.lessee.startswith(CARRIER)


def concluded(job: Job, conclusion: Conclusion, at: datetime) -> Changes:
    """The changes that follow a run which ended at ``at`` (UTC)."""
    return ended(conclusion, job) if isinstance(conclusion, End) else requeued(job, conclusion, at)


def history_of(job: Job) -> Sequence[Mapping[str, JsonValue]]:
    """The earlier runs, oldest first: ``run``, ``begin`` and ``end`` (ISO 8601), ``reason``. Of many, some are left out."""
    return cast("Sequence[Mapping[str, JsonValue]]", job.history or ())


def handed_over(entry: Mapping[str, JsonValue]) -> bool:
    """Whether this earlier run did not fail, but handed over to the next slice."""
    return entry["reason"] == continued().reason


def is_next_slice(job: Job) -> bool:
    """Whether the job's run continues where the last one handed over, so that it is no new attempt."""
    history = history_of(job)
    return bool(history) and handed_over(history[-1])


def _lengthened(job: Job, requeue: Requeue, at: datetime) -> JsonValue:
    begin = job.claimed_time
    entry: dict[str, JsonValue] = {
        "run": job.run,
        "begin": None if begin is None else begin.isoformat(),
        "end": at.isoformat(),
        "reason": requeue.reason[:500],
    }
    if requeue.unexpected:
        entry["error"] = UNEXPECTED
    entries = list(history_of(job))
    if len(entries) >= _MOST_ENTRIES:
        del entries[_FIRST_ENTRIES]
    return [*entries, entry]
