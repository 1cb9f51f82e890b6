"""The promises to concurrent threads."""

from __future__ import annotations

import time
from functools import partial

from backjob.lifecycle import cancelled, claimed, completed, ended, failed
from backjob.model import Changes, Expect, Report, Status
from backjob.testing._stores.case import LEASE, PATIENCE, StoreCase, draft, kept, same, whole_output


class Races(StoreCase):
    """Races between threads of one process: one winner, one end, no lost and no repeated write."""

    racers = 8
    """Threads in each race."""

    def test_of_many_claims_one_wins(self) -> None:
        names = [f"{number}" for number in range(60)]
        for name in names:
            self.store.create(draft(name))

        def claim_all(racer: int) -> list[tuple[str, str]]:
            token = f"token {racer}"
            return [(name, token) for name in names if self.store.change(name, *claimed(token, 1, LEASE)) is not None]

        won = [
            pair
            for pairs in self.at_once([partial(claim_all, racer) for racer in range(self.racers)])
            for pair in pairs
        ]
        same(sorted(name for name, _ in won), sorted(names), "of many claims of one job, exactly one wins")
        for name, token in won:
            job = self.read(name)
            same((job.token, job.version), (token, 2), "a claimed job has its winner's token and one write")

    def test_of_many_changes_of_one_version_one_wins(self) -> None:
        self.running()

        def raise_version(racer: int) -> int:
            wins = 0
            for version in range(2, 32):
                wins += self.store.change("job", Expect(version=version), Changes(progress=racer)) is not None
            return wins

        wins = sum(self.at_once([partial(raise_version, racer) for racer in range(self.racers)]))
        same(wins, self.read().version - 2, "each version is changed exactly once")

    def test_reports_from_many_threads_are_all_kept(self) -> None:
        self.running()

        def report_all(racer: int) -> None:
            for number in range(12):
                text = f"{racer}:{number} ß€😀\n"
                kept(
                    self.store.report("job", "token", Report(output=text)), "a report with the current token is written"
                )

        self.at_once([partial(report_all, racer) for racer in range(self.racers)])
        lines = whole_output(self.store, "job").splitlines()
        for racer in range(self.racers):
            mine = [line for line in lines if line.startswith(f"{racer}:")]
            expected = [f"{racer}:{number} ß€😀" for number in range(12)]
            same(mine, expected, "each thread's output is kept, in its order")
        job = self.read()
        same(len(lines), 12 * self.racers, "output has no gaps and no repetitions")
        same(job.version, 2 + 12 * self.racers, "every write raises the version by one")

    def test_an_end_among_reports_is_final(self) -> None:
        ends = (completed("done"), failed("broken"), cancelled())
        for number in range(10):
            name = f"{number}"
            self.running(name)

            def report_all(racer: int, name: str = name) -> list[str]:
                accepted = []
                for count in range(10):
                    text = f"{racer}.{count};"
                    if self.store.report(name, "token", Report(output=text)):
                        accepted.append(text)
                return accepted

            def end(index: int, name: str = name) -> list[str]:
                job = self.store.change(name, Expect(status=Status.IN_PROGRESS), ended(ends[index]))
                return [] if job is None else [job.status.name]

            calls = [partial(report_all, racer) for racer in range(3)] + [partial(end, index) for index in range(3)]
            results = self.at_once(calls)
            won = [status for statuses in results[3:] for status in statuses]
            same(won, [self.read(name).status.name], "of several ends, the job keeps the one that won")
            output = whole_output(self.store, name)
            accepted = [text for texts in results[:3] for text in texts]
            same(
                sorted(output.split(";")[:-1]), sorted(text[:-1] for text in accepted), "output is the accepted reports"
            )
            same(self.read(name).output_size, len(output), "output_size is the output's size")

    def test_a_reader_among_writers_sees_whole_reports(self) -> None:
        self.running()
        line = "0123456789 ß€😀\n"

        def write() -> str:
            for _ in range(60):
                self.store.report("job", "token", Report(output=line))
            self.store.change("job", Expect(), ended(completed()))
            return ""

        def read() -> str:
            text, offset, over = "", 0, False
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                over = over or self.read().status.is_final  # read before the output, which does not grow after the end
                chunk = self.store.output("job", offset)
                if not chunk.text and over:
                    return text
                kept(len(chunk.text) % len(line) == 0, "readers see whole reports")
                text, offset = text + chunk.text, chunk.next_offset
            return text

        _, *texts = self.at_once([write, read, read])
        for text in texts:
            same(text, line * 60, "a reader that follows next_offset sees all output once, in order")
