"""The state machine of a job: pure functions that decide what to write or to do next.

They use no clock, store or socket; `backjob.delivery` and `backjob.worker` carry out their decisions.
"""

from backjob.lifecycle.delivered import (
    BUSY,
    CLAIM_REFUSED,
    REFUSAL_HEADER,
    Next,
    Step,
    after_answer,
    after_silence,
    backoff,
)
from backjob.lifecycle.ends import (
    ROW_CHANGED,
    UNEXPECTED,
    Conclusion,
    End,
    Requeue,
    cancelled,
    completed,
    ended,
    failed,
    status_line,
    verdict,
)
from backjob.lifecycle.keys import LASTING, lasts, waits_until_sent
from backjob.lifecycle.limits import TIMED_OUT, Late, late, overdue, past_end, reaped, timed_out
from backjob.lifecycle.runs import (
    DELIVERY_LEASE,
    after_run,
    claimed,
    concluded,
    continued,
    given_back,
    handed_over,
    history_of,
    is_next_slice,
    requeued,
)
from backjob.lifecycle.waiting import WAITING_TEXTS, local_deadline, waiting_for

__all__ = [
    "BUSY",
    "CLAIM_REFUSED",
    "DELIVERY_LEASE",
    "LASTING",
    "REFUSAL_HEADER",
    "ROW_CHANGED",
    "TIMED_OUT",
    "UNEXPECTED",
    "WAITING_TEXTS",
    "Conclusion",
    "End",
    "Late",
    "Next",
    "Requeue",
    "Step",
    "after_answer",
    "after_run",
    "after_silence",
    "backoff",
    "cancelled",
    "claimed",
    "completed",
    "concluded",
    "continued",
    "ended",
    "failed",
    "given_back",
    "handed_over",
    "history_of",
    "is_next_slice",
    "lasts",
    "late",
    "local_deadline",
    "overdue",
    "past_end",
    "reaped",
    "requeued",
    "status_line",
    "timed_out",
    "verdict",
    "waiting_for",
    "waits_until_sent",
]
