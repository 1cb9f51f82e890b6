"""The promises about ``create`` and ``get``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve

from backjob.model import Caller, Draft, Job, Output, Request, Status
from backjob.testing._stores.case import UNKNOWN, StoreCase, bodiless, draft, kept, refused, same

FULL: Final = Draft(
    id="full",
    request=Request(
        "CHICKEN",
        "/a%2Fb?x=%C3%A9",
        (("X-A", "one"), ("Cookie", "s=\xe9"), ("x-a", "two"), ("X-A", "three"), ("X-A", "one")),
        bytes(range(256)) * 3,
        raw=False,
    ),
    caller=Caller(
        "https",
        "example.org:8443",
        "2001:db8::1",
        (("X-Forwarded-For", "192.0.2.1, 10.0.0.1"), ("Via", "a"), ("X-Forwarded-For", "10.0.0.2")),
        "/shop",
    ),
    owner="us\u00e9r \U0001f600",
    scope="n\u00efghtly 'report' %_",
    due=12.000001,
    expires=77.5,
    error_timeout=2.25,
    retries=4,
    retry_delay=0.125,
    queue="qu\u00e9ue 1",
    as_owner=True,
    lessee="monitor 1",
    lease=3.5,
    held=True,
    sealed=b"\x00\xffsealed",
    depth=3,
    label="l\u00e4bel 1",
    proof="pr00f",
    root="first",
    title="R\u00e9port 50\u00a0% \U0001f600",
    keep_request=True,
)


class CreateCalls(StoreCase):
    """``create`` and ``get``."""

    def test_a_created_job_has_the_fields_of_its_draft(self) -> None:
        now = self.clock.now()
        start = now + timedelta(seconds=12.000001)
        expected = Job(
            id="full",
            created_time=now,
            start_time=start,
            expires=now + timedelta(seconds=77.5),
            updated_time=now,
            read_time=now,
            error_timeout=2.25,
            retries=4,
            retry_delay=0.125,
            queue=FULL.queue,
            as_owner=True,
            lessee="monitor 1",
            lease_until=now + timedelta(seconds=3.5),
            owner=FULL.owner,
            scope=FULL.scope,
            request=FULL.request,
            caller=FULL.caller,
            held=True,
            sealed=FULL.sealed,
            depth=3,
            label=FULL.label,
            proof=FULL.proof,
            root=FULL.root,
            title=FULL.title,
            method="CHICKEN",
            path="/a%2Fb",
            keep_request=True,
        )
        same(self.store.create(FULL), expected, "create returns the job as it was written")
        same(self.store.get("full", body=True), expected, "get returns the job as it was written")
        same(self.read("full"), bodiless(expected), "get returns all but the body if it is not asked for")

    def test_a_bare_draft_gives_a_bare_job(self) -> None:
        job = self.store.create(draft())
        same(self.read(), job, "get returns the job that create returned")
        kept(job.lessee is None and job.lease_until is None, "without a lessee there is no lease")
        kept(job.token is None and job.end_time is None and job.result is None, "a new job has no token, end or result")
        same(
            (job.status, job.progress, job.attempt, job.version),
            (Status.STARTED, 0, 1, 1),
            "a new job is STARTED, at 0 %, attempt 1, version 1",
        )
        same(
            (job.status_text, job.output_size, job.output_truncated),
            (None, 0, False),
            "a new job has no status text and no output",
        )
        same((job.label, job.proof, job.root, job.waiting_for), ("", None, None, None), "a draft may lack them all")
        same((job.run, job.delivery, job.retries), (1, 1, 0), "a new job is at run 1, delivery 1, without retries")
        same((job.queue, job.slot, job.as_owner), ("default", None, False), "a new job has a queue, but no slot")
        same(
            (job.deliver_by, job.expires, job.claimed_time, job.cursor, job.history),
            (None, None, None, None, None),
            "a new job has no deadline, was not claimed, and has no cursor and no history",
        )

    def test_the_due_time_may_be_an_aware_datetime_of_any_zone(self) -> None:
        due = datetime(2031, 6, 1, 3, 0, 0, 7, tzinfo=timezone(timedelta(hours=5, minutes=30)))
        expires = due + timedelta(seconds=1.5)
        job = self.store.create(draft(due=due, expires=expires))
        same(job.start_time, due, "start_time is the draft's due time, to the microsecond")
        same(job.expires, expires, "expires is the draft's moment, to the microsecond")

    @pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/St_Johns", "Asia/Kathmandu", "Europe/Berlin"])
    @pytest.mark.parametrize("month", [1, 7])
    def test_a_due_time_in_any_zone_is_one_moment(self, zone: str, month: int) -> None:
        due = datetime(2032, month, 3, 4, 5, 6, 999_999, tzinfo=ZoneInfo(zone))
        same(self.store.create(draft(due=due)).start_time, due.astimezone(UTC), "a due time keeps its microseconds")
        same(self.read().start_time, due.astimezone(UTC), "a due time is the same moment in any time zone")

    @pytest.mark.parametrize("year", [1815, 1969, 1970, 2038, 2106, 9998])
    def test_any_year_can_be_due(self, year: int) -> None:
        due = datetime(year, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
        self.store.create(draft(due=due, expires=due))
        found = (self.read().start_time, self.read().expires)
        same(found, (due, due), "any moment of the calendar can be due")

    def test_a_request_of_a_mebibyte_comes_back_whole(self) -> None:
        target, fields = "/shop/work?" + "q" * 8000, (("Cookie", "c" * 8000),)
        request = Request("POST", target, fields, bytes(range(256)) * 4096, mount="/shop")
        self.store.create(draft(request=request))
        job = self.store.get("job", body=True)
        kept(job is not None and job.request == request, "a request comes back byte for byte")

    def test_repeated_header_fields_come_back_apart_and_in_order(self) -> None:
        fields = (("Cookie", "a=1"), ("Accept", "x"), ("Cookie", "b=2"), ("cookie", "c=3"), ("Cookie", "a=1"))
        self.store.create(draft(request=Request("POST", "/work", fields, b"body")))
        for body in (False, True):
            job = self.store.get("job", body=body)
            found = None if job is None or job.request is None else job.request.headers
            same(found, fields, "repeated header fields are neither joined nor lost, and keep their order")

    @pytest.mark.parametrize("job_id", UNKNOWN)
    def test_an_unknown_id_finds_nothing(self, job_id: str) -> None:
        self.store.create(draft())
        same(self.store.get(job_id), None, "get of an unknown id is None")
        same(self.store.output(job_id), Output("", 0), "an unknown job has no output")

    def test_an_id_that_exists_is_refused(self) -> None:
        first = self.store.create(draft(scope="first"))
        refused(lambda: self.store.create(draft(scope="second")), "an id that exists is refused")
        same(self.read(), first, "a refused create changes nothing")

    def test_reading_changes_only_read_time(self) -> None:
        job = self.store.create(draft())
        self.clock.advance(1.000001)
        same(self.read(), evolve(job, read_time=self.clock.now()), "only read_time changes between two reads")

    def test_a_second_close_has_no_effect(self) -> None:
        self.store.create(draft())
        self.store.close()
        self.store.close()
