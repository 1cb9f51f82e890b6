"""The tables. Only the store writes them; start, change and end jobs with `backjob.django.jobs`.

Times are microseconds since 1970 in UTC, so that TIME_ZONE, USE_TZ and a server's time zone don't affect them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import models
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from backjob.django.fields import ExactField
from backjob.http.targets import local_path
from backjob.model import DEFAULT_QUEUE
from backjob.status.words import WORDS
from backjob.stores.rows import moment

__all__ = ["Job", "Output"]


class Job(models.Model):
    """One job. `backjob.model.Job` explains the columns."""

    STATUSES = [(int(status), word) for status, word in WORDS.items()]

    seq = models.BigAutoField(primary_key=True)
    id = ExactField(max_length=128, unique=True)
    status = models.SmallIntegerField(choices=STATUSES)
    progress = models.SmallIntegerField()
    output_size = models.BigIntegerField()
    output_truncated = models.SmallIntegerField()
    created_time = models.BigIntegerField()
    start_time = models.BigIntegerField()
    deliver_by = models.BigIntegerField(null=True)
    updated_time = models.BigIntegerField()
    end_time = models.BigIntegerField(null=True)
    error_timeout = models.BigIntegerField()
    attempt = models.IntegerField()
    version = models.BigIntegerField()
    held = models.SmallIntegerField()
    depth = models.IntegerField()
    token = ExactField(max_length=128, null=True)
    lessee = models.TextField(null=True)
    lease_until = models.BigIntegerField(null=True)
    merge_key = ExactField(max_length=255, null=True, unique=True)
    owner = ExactField(max_length=255, null=True)
    scope = ExactField(max_length=255)
    label = ExactField(max_length=128, default="", db_default="")
    proof = ExactField(max_length=128, null=True)
    root = ExactField(max_length=128, null=True)
    waiting_for = ExactField(max_length=128, null=True)
    run = models.IntegerField(default=1, db_default=1)
    delivery = models.IntegerField(default=1, db_default=1)
    retries = models.IntegerField(default=0, db_default=0)
    retry_delay = models.BigIntegerField(default=10_000_000, db_default=10_000_000)
    queue = ExactField(max_length=255, default=DEFAULT_QUEUE, db_default=DEFAULT_QUEUE)
    slot = ExactField(max_length=128, null=True, unique=True)
    as_owner = models.SmallIntegerField(default=0, db_default=0)
    claimed_time = models.BigIntegerField(null=True)
    expires = models.BigIntegerField(null=True)
    title = ExactField(max_length=255, null=True)
    method = ExactField(max_length=20, default="", db_default="")
    keep_request = models.SmallIntegerField(default=0, db_default=0)
    error = ExactField(max_length=255, null=True)
    path = models.TextField(null=True)
    request = models.TextField(null=True)
    status_text = models.TextField(null=True)
    result = models.TextField(null=True)
    history = models.TextField(null=True)
    file = models.TextField(null=True)
    cursor = models.TextField(null=True)
    sealed = models.BinaryField(null=True)
    body = models.BinaryField(null=True)

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        ordering = ["-seq"]
        default_permissions = ("view", "delete")
        permissions = [
            ("cancel_job", "Can cancel job"),
            ("run_again_job", "Can run job again"),
            ("inspect_job", "Can see arguments and tracebacks of tasks"),
        ]
        indexes = [
            models.Index(fields=["status", "label", "start_time", "seq"], name="backjob_job_due"),
            models.Index(fields=["status", "label", "end_time"], name="backjob_job_ageing"),
            models.Index(fields=["status", "label", "deliver_by", "expires"], name="backjob_job_limits"),
            models.Index(fields=["owner"], name="backjob_job_owner"),
            models.Index(fields=["scope"], name="backjob_job_scope"),
            models.Index(fields=["root"], name="backjob_job_root"),
        ]

    def __str__(self) -> str:
        """Return what people call the job: its title or else its path."""
        return str(self.title or self.path or self.id)

    def get_absolute_url(self) -> str:
        """Return the URL of the job's status page, which its owner may open."""
        return local_path(reverse("backjob:status", args=[self.id]))

    @property
    def created(self) -> datetime:
        """The time of its creation, in UTC."""
        return moment(self.created_time)

    @property
    def ended(self) -> datetime | None:
        """The time of its end, in UTC."""
        return None if self.end_time is None else moment(self.end_time)

    def save(self, *_args: Any, **_options: Any) -> None:
        """Raise TypeError: jobs change only by compare-and-set."""
        raise TypeError("change jobs with backjob.django.jobs, not with save()")


class Output(models.Model):
    """A chunk of a job's output, of at most 16 KiB. ``start`` is its position in bytes."""

    pk = models.CompositePrimaryKey("job", "start")
    job = models.BigIntegerField()
    start = models.BigIntegerField()
    piece = models.BinaryField()

    class Meta:
        default_permissions = ()
        verbose_name = _("piece of output")

    def __str__(self) -> str:
        return f"{self.job}:{self.start}"
