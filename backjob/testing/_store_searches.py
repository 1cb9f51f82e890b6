"""The promises of the methods that look for something: output, take_due, purge, find."""

# ruff: noqa: S106 - a token is no password

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from attrs import evolve

from backjob.lifecycle import cancelled as cancellation
from backjob.lifecycle import claimed, completed, ended, failed
from backjob.model import (
    Changes,
    Expect,
    Output,
    Query,
    Report,
    Status,
)
from backjob.testing._store_case import MICROSECOND, StoreCase, draft, kept, same, whole_output

__all__ = ["FindCalls", "OutputCalls", "TimeCalls"]


class OutputCalls(StoreCase):
    """``output``: bytes of UTF-8 from any offset, and never half a character."""

    TEXT = "aß€😀\n" * 3  # 1, 2, 3, 4 and 1 bytes

    def test_output_is_what_was_reported_in_order(self) -> None:
        self.running()
        for part in ("one\n", "", "two\r\n", "ß€", "😀", " end\n"):
            self.store.report("job", "token", Report(output=part))
        expected = "one\ntwo\r\nß€😀 end\n"
        same(self.store.output("job"), Output(expected, len(expected.encode())), "output is all that was reported")
        same(self.read().output_size, len(expected.encode()), "output_size counts bytes of UTF-8")

    @pytest.mark.parametrize("cuts", [(), (1,), (1, 3, 6, 10), (4, 5), tuple(range(1, 15))])
    def test_every_offset_and_limit_gives_whole_characters(self, cuts: tuple[int, ...]) -> None:
        self.running()
        bounds = (0, *[cut for cut in cuts if cut < len(self.TEXT)], len(self.TEXT))
        for begin, end in pairwise(bounds):
            self.store.report("job", "token", Report(output=self.TEXT[begin:end]))
        data = self.TEXT.encode()
        for offset in range(len(data) + 1):
            begin = offset
            while begin < len(data) and data[begin] & 0xC0 == 0x80:
                begin += 1
            for limit in range(4, 13):
                piece = self.store.output("job", offset, limit)
                where = f"(offset {offset}, limit {limit})"
                size = len(piece.text.encode())
                kept(size <= limit, f"a piece is no longer than its limit {where}")
                same(piece.next_offset, begin + size, f"next_offset is where the piece ends {where}")
                same(
                    piece.text.encode(),
                    data[begin : begin + size],
                    f"a piece begins at the next whole character {where}",
                )
                kept(size > limit - 4 or begin + size == len(data), f"a piece is as long as it can be {where}")

    @pytest.mark.parametrize("limit", [4, 5, 7, 1000, 65536])
    def test_pieces_join_to_the_whole(self, limit: int) -> None:
        self.running()
        line = "0123456789 äöü €uro 😀\n"
        for _ in range(40):
            self.store.report("job", "token", Report(output=line))
        same(whole_output(self.store, "job", limit), line * 40, "reading on from next_offset gives the whole output")

    def test_an_offset_at_or_past_the_end_gives_an_empty_piece_there(self) -> None:
        self.running()
        same(self.store.output("job", 0), Output("", 0), "a job that said nothing has no output")
        self.store.report("job", "token", Report(output="ten bytes\n"))
        for offset in (10, 11, 5000, 1 << 40):
            same(self.store.output("job", offset), Output("", offset), "a piece past the end is empty and ends there")

    def test_a_single_large_report_is_read_piece_by_piece(self) -> None:
        self.running()
        text = "0123456789abcd€" * 20000
        self.store.report("job", "token", Report(output=text))
        kept(self.store.output("job", 123456, 16).text in text, "a piece is found in the midst of a large report")
        kept(whole_output(self.store, "job") == text, "a large report comes back whole")

    def test_truncation_is_the_jobs_and_stays(self) -> None:
        self.running()
        self.store.report("job", "token", Report(output="some"))
        same(self.store.output("job").truncated, False, "output that was not cut is not marked")
        self.store.report("job", "token", Report(truncated=True))
        self.store.report("job", "token", Report(progress=1))
        kept(self.read().output_truncated, "the mark of truncated output stays")
        for offset in (0, 2, 4, 100):
            kept(self.store.output("job", offset).truncated, "every piece of truncated output is marked")

    def test_outputs_of_two_jobs_do_not_mix_and_outlive_the_end(self) -> None:
        for name in ("a", "b"):
            self.running(name, token=name)
        for number in range(5):
            for name in ("a", "b"):
                self.store.report(name, name, Report(output=f"{name}{number} "))
        self.store.change("a", Expect(token="a"), ended(completed()))
        same(whole_output(self.store, "a"), "a0 a1 a2 a3 a4 ", "a job's output is its own, after its end too")
        same(whole_output(self.store, "b"), "b0 b1 b2 b3 b4 ", "a job's output is its own")


class TimeCalls(StoreCase):
    """``take_due`` and ``purge``: what time decides, to the microsecond."""

    def taken(self, limit: int = 10, lessee: str = "me", lease: float = 5) -> list[str]:
        return [job.id for job in self.store.take_due(lessee, lease, limit)]

    def test_a_job_is_taken_when_it_is_due_and_not_before(self) -> None:
        self.store.create(draft(due=10))
        self.clock.advance(10 - MICROSECOND)
        same(self.taken(), [], "a job is not taken a microsecond before it is due")
        self.clock.advance(MICROSECOND)
        same(self.taken(), ["job"], "a job is taken at the very moment it is due")

    def test_a_taken_job_is_leased(self) -> None:
        before = self.store.create(draft())
        self.clock.advance(1)
        taken = self.store.take_due("me", 5.5, 10)
        now = self.clock.now()
        expected = evolve(
            before, lessee="me", lease_until=now + timedelta(seconds=5.5), read_time=now, version=before.version + 1
        )
        same(taken, [expected], "take_due returns the job with its lease, its version one higher")
        same(self.read(), expected, "what take_due returned is what stands")

    def test_a_lease_is_over_at_its_exact_end(self) -> None:
        self.store.create(draft(lessee="first", lease=5))
        self.clock.advance(5 - MICROSECOND)
        same(self.taken(lease=7), [], "nobody takes a job a microsecond before its lease ends, its lessee neither")
        self.clock.advance(MICROSECOND)
        same(self.taken(lease=7), ["job"], "a lease is over at its exact end")
        self.clock.advance(7 - MICROSECOND)
        same(self.taken(), [], "a taken job is leased as long as was asked for")
        self.clock.advance(MICROSECOND)
        same(self.taken(), ["job"], "a taken job's lease is over at its exact end")

    def test_a_lease_given_up_frees_the_job_at_once(self) -> None:
        self.store.create(draft(lessee="first", lease=500))
        self.store.change("job", Expect(), Changes(lessee=None, lease=None))
        same(self.taken(), ["job"], "a job whose lease was given up can be taken")

    def test_only_started_jobs_are_taken(self) -> None:
        self.running("running")
        for end in (completed(), failed("x"), cancellation()):
            self.ended(end.status.name, end)
        self.clock.advance(10000)
        same(self.taken(), [], "only STARTED jobs are taken")
        self.store.change("running", Expect(), Changes(status=Status.STARTED, attempt=2))
        same(self.taken(), ["running"], "a job that is STARTED again is taken again")

    def test_the_longest_due_come_first_and_no_more_than_asked_for(self) -> None:
        for job_id, due in (("c", 3), ("a", 1), ("e", 5), ("b", 2), ("d", 4), ("later", 100)):
            self.store.create(draft(job_id, due=due))
        self.clock.advance(10)
        same(self.taken(limit=2), ["a", "b"], "the longest due are taken first, no more than the limit")
        same(self.taken(limit=0), [], "a limit of 0 takes nothing")
        same(self.taken(limit=10), ["c", "d", "e"], "the longest due are taken first")

    def test_jobs_due_at_once_are_taken_in_the_order_of_their_creation(self) -> None:
        names = [f"{number * 7 % 10}" for number in range(10)]
        for name in names:
            self.store.create(draft(name))
        same(self.taken(), names, "among those due at once, the first created comes first")

    def test_a_job_past_its_deadline_is_still_handed_out(self) -> None:
        self.store.create(draft(delivery_timeout=1))
        self.clock.advance(100)
        same(self.taken(), ["job"], "whether it is too late is not the store's to decide")

    def purged(self, completed_age: float, ended_age: float) -> list[str]:
        before = {job.id for job in self.store.find(Query(limit=100))}
        count = self.store.purge(completed_age, ended_age)
        gone = before - {job.id for job in self.store.find(Query(limit=100))}
        same(count, len(gone), "purge returns how many it removed")
        return sorted(gone)

    def of_every_kind(self) -> None:
        self.store.create(draft("started"))
        self.running("running")
        self.ended("cancelled", cancellation())
        self.ended("completed", completed())
        self.ended("failed", failed("x"))

    @pytest.mark.parametrize(
        ("ages", "gone"),
        [
            ((10, 0), ["completed"]),
            ((0, 10), ["cancelled", "completed", "failed"]),
            ((10, 10), ["cancelled", "completed", "failed"]),
            ((10, 20), ["completed"]),
            ((20, 10), ["cancelled", "completed", "failed"]),
        ],
    )
    def test_purge_removes_what_ended_longer_ago_than_its_age(self, ages: tuple[float, float], gone: list[str]) -> None:
        self.of_every_kind()
        self.clock.advance(10)
        same(self.purged(*ages), [], "a job that ended exactly so long ago stays")
        self.clock.advance(MICROSECOND)
        same(self.purged(*ages), gone, "a job that ended a microsecond longer ago than its age is removed")
        same(self.purged(*ages), [], "what is gone is not counted again")

    def test_an_age_of_zero_keeps_for_ever(self) -> None:
        self.of_every_kind()
        self.clock.advance(10**9)
        same(self.purged(0, 0), [], "0 keeps for ever")
        same(self.purged(1, 0), ["completed"], "an age for COMPLETED jobs touches no others")
        same(self.purged(0, 1), ["cancelled", "failed"], "the age of ended jobs removes those with any final status")
        same(sorted(job.id for job in self.store.find(Query())), ["running", "started"], "living jobs are never purged")

    def test_a_purged_job_leaves_nothing_behind(self) -> None:
        self.running()
        self.store.report("job", "token", Report(output="old", truncated=True))
        self.store.change("job", Expect(), ended(completed("old", ["old"])))
        self.clock.advance(2)
        same(self.store.purge(1, 1), 1, "purge returns how many it removed")
        same(self.store.get("job"), None, "a purged job is gone")
        same(self.store.output("job"), Output("", 0), "a purged job's output is gone")
        self.running("job")
        same(self.store.output("job"), Output("", 0), "a new job under an old id begins anew")
        self.store.report("job", "token", Report(output="new"))
        same(self.store.output("job"), Output("new", 3), "a new job under an old id begins anew")

    def test_purge_removes_more_than_a_batch(self) -> None:
        many = 1201
        for number in range(many):
            self.store.create(draft(f"{number}"))
            self.store.change(f"{number}", *claimed("token"))
            if number % 100 == 0:
                self.store.report(f"{number}", "token", Report(output="some output\n"))
            self.store.change(f"{number}", Expect(), ended(completed()))
        self.running("alive")
        self.clock.advance(2)
        same(self.store.purge(1, 0), many, "purge removes all that is old, in however many batches")
        same([job.id for job in self.store.find(Query())], ["alive"], "purge removes nothing else")


class FindCalls(StoreCase):
    """``find``: filters, order, pages, and what is overdue."""

    def found(self, query: Query) -> list[str]:
        return [job.id for job in self.store.find(query)]

    def test_the_newest_come_first(self) -> None:
        names = [f"{number * 7 % 10}" for number in range(10)]
        for name in names:
            self.store.create(draft(name, due=int(name) % 5))
        self.store.change(names[3], *claimed("token"))
        same(self.found(Query()), names[::-1], "the newest come first, whatever became of them since")
        same(self.found(Query(limit=3)), names[:-4:-1], "no more than the limit are found")
        same(self.found(Query(limit=0)), [], "a limit of 0 finds nothing")

    def test_pages_follow_one_another(self) -> None:
        for number in range(25):
            self.store.create(draft(f"{number}", scope="odd" if number % 2 else "even"))
        seen: list[str] = []
        for _ in range(8):
            seen += self.found(Query(limit=4, before=seen[-1] if seen else None))
        same(seen, [f"{number}" for number in reversed(range(25))], "pages by `before` show each job once, in order")
        same(
            self.found(Query(scope="odd", before="10", limit=3)), ["9", "7", "5"],
            "`before` need not match the filter itself",
        )  # fmt: skip
        same(self.found(Query(before="0")), [], "nothing follows the oldest")

    def test_each_filter_and_all_together(self) -> None:
        made: list[tuple[str, str, str | None, Status]] = []
        for scope in ("", "a", "A", "ä%"):
            for owner in (None, "", "o", "p"):
                for status in Status:
                    job_id = f"{scope}/{owner}/{status.name}"
                    self.store.create(draft(job_id, scope=scope, owner=owner))
                    if status is not Status.STARTED:
                        self.store.change(job_id, *claimed("token"))
                    if status.is_final:
                        self.store.change(job_id, Expect(), Changes(status=status, end=True))
                    made.append((job_id, scope, owner, status))
        made.reverse()
        for scope_asked in (None, "", "a", "A", "ä%", "none"):
            for owner_asked in (None, "", "o", "nobody"):
                for status_asked in (None, *Status):
                    expected = [
                        job_id
                        for job_id, scope, owner, status in made
                        if scope_asked in (None, scope)
                        and (owner_asked is None or owner_asked == owner)
                        and status_asked in (None, status)
                    ]
                    query = Query(scope=scope_asked, owner=owner_asked, status=status_asked, limit=100)
                    same(self.found(query), expected, f"find gives the jobs that match, newest first ({query})")

    def test_a_silent_job_is_overdue_exactly_at_its_limit(self) -> None:
        self.running(error_timeout=10.000001)
        self.clock.advance(3)
        self.store.report("job", "token", Report())
        self.clock.advance(10)
        same(self.found(Query(overdue=True)), [], "a job is not overdue a microsecond before its time-out is over")
        self.clock.advance(MICROSECOND)
        same(self.found(Query(overdue=True)), ["job"], "a job is overdue exactly when its time-out is over")
        self.store.beat({"job": "token"})
        same(self.found(Query(overdue=True)), [], "a sign of life starts the time-out anew")

    def test_an_undelivered_job_is_overdue_exactly_at_its_deadline(self) -> None:
        self.store.create(draft(due=5, delivery_timeout=10, error_timeout=1, lessee="me", lease=1000))
        self.clock.advance(15 - MICROSECOND)
        same(self.found(Query(overdue=True)), [], "a STARTED job is not overdue a microsecond before deliver_by")
        self.clock.advance(MICROSECOND)
        same(self.found(Query(overdue=True)), ["job"], "a STARTED job is overdue exactly at deliver_by, leased or not")

    def test_overdue_goes_with_the_other_filters(self) -> None:
        self.store.create(draft("late", delivery_timeout=10, scope="a"))
        self.store.create(draft("waiting", due=100, delivery_timeout=10, scope="a"))
        self.running("silent", error_timeout=10, scope="a", owner="o")
        self.running("patient", error_timeout=1000, scope="a")
        self.ended("over", error_timeout=10, scope="a")
        self.clock.advance(50)
        for query, expected in (
            (Query(overdue=True), ["silent", "late"]),
            (Query(overdue=True, limit=1), ["silent"]),
            (Query(overdue=True, before="silent"), ["late"]),
            (Query(overdue=True, status=Status.STARTED), ["late"]),
            (Query(overdue=True, status=Status.IN_PROGRESS, scope="a"), ["silent"]),
            (Query(overdue=True, owner="o"), ["silent"]),
            (Query(overdue=True, scope="b"), []),
            (Query(overdue=True, status=Status.COMPLETED), []),
        ):
            same(self.found(query), expected, f"only living jobs past their own time-out are overdue ({query})")
