"""How long the admin's list takes with 100,000 jobs: ``python -m pytest -n 0 -s -m benchmark`` with this file."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from backjob.django import jobs
from backjob.django.models import Job
from backjob.django.testing import recorded

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600), pytest.mark.usefixtures("any_database")]

LIST: Final = "/admin/backjob/job/"
FEW, MANY, BATCH, TIMES = 1_000, 100_000, 2_000, 3
QUERIES: Final[dict[str, dict[str, str]]] = {
    "the newest": {},
    "page 150": {"p": "150"},
    "failed": {"status__exact": "3"},
    "past 24 hours": {"created": "day"},
    "without an owner": {"owned": "no"},
    "a text that many have": {"q": "invoices"},
    "a text that no job has": {"q": "nothing at all"},
    "an id": {"q": f"job{77:020}"},
}


def add(count: int, first: int) -> None:
    """Add ended jobs, as many a minute as a busy site has."""
    with recorded():
        model = Job.objects.get(id=jobs.start("/see", as_current_user=False))
    same = {field.attname: getattr(model, field.attname) for field in Job._meta.fields if field.attname != "seq"}
    for begin in range(first, first + count, BATCH):
        Job.objects.bulk_create(
            Job(
                **same
                | {
                    "id": f"job{number:020}",
                    "title": f"Invoices {number}",
                    "status": 2 + number % 3,
                    "owner": str(number % 500),
                    "queue": ("default", "exports")[number % 2],
                    "created_time": model.created_time - (MANY - number) * 6_000_000,
                }
            )
            for number in range(begin, min(begin + BATCH, first + count))
        )
    table = "TABLE backjob_job" if connection.vendor == "mysql" else "backjob_job"
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {table}")


def seconds(client: Client, query: dict[str, str]) -> float:
    """The median of some requests."""
    taken = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        assert client.get(LIST, query).status_code == 200
        taken.append(time.perf_counter() - begin)
    return median(taken)


def test_a_hundred_times_as_many_jobs_take_less_than_ten_times_as_long(any_database: str) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("Al"))
    add(FEW, 0)
    client.get(LIST)
    few = {name: seconds(client, query) for name, query in QUERIES.items() if name != "page 150"}
    add(MANY - FEW, FEW)
    many = {name: seconds(client, query) for name, query in QUERIES.items()}
    for name, taken in many.items():
        print(f"\n{any_database:<12} {name:<24} {few.get(name, 0) * 1000:7.0f} ms {taken * 1000:7.0f} ms", end="")
    assert all(many[name] < max(10 * taken, 0.3) for name, taken in few.items())
