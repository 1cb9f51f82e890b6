"""Progress, status text and output of an action, as read from the store."""

from __future__ import annotations

import pytest

from backjob import Status
from tests.scenarios.client import Gate
from tests.scenarios.sites import Site


def test_the_progress_of_an_action_that_reports_nothing_goes_from_0_to_100(site: Site, gate: Gate) -> None:
    job_id = site.start("/work/hold", {"gate": gate.port})
    held = gate.reached()
    state = site.jobs.status(job_id)
    assert (state.status, state.progress, state.status_text) == (Status.IN_PROGRESS, 0, "")
    held.release()
    site.end(job_id)
    state = site.run("/work/none")
    assert (state.status, state.progress, state.status_text) == (Status.COMPLETED, 100, "")


def test_printed_text_is_the_output_and_the_status_text(site: Site) -> None:
    job_id = site.start("/work/print", {"lines": 300})
    expected = "".join(f"line {number} – ä\n" for number in range(300))
    assert site.end(job_id).status_text == expected
    assert site.text(job_id) == expected


@pytest.mark.every_server
def test_the_output_contains_streamed_and_printed_text(site: Site) -> None:
    job_id = site.start("/work/stream")
    assert site.end(job_id).status is Status.COMPLETED
    assert site.text(job_id) == "first second ä printed third"


def test_a_streamed_binary_response_is_not_output(site: Site) -> None:
    job_id = site.start("/work/stream", {"type": "application/octet-stream"})
    assert site.end(job_id).status is Status.COMPLETED
    assert site.text(job_id) == "printed "


def test_a_response_with_a_length_is_not_output(site: Site) -> None:
    job_id = site.start("/work/none")
    site.end(job_id)
    assert site.text(job_id) == ""


@pytest.mark.parametrize(
    ("steps", "progress", "text"),
    [
        ([["update", 20]], 20, ""),
        ([["update", 3, {"total": 7}]], 43, ""),
        ([["update", 60, "Chugging along"]], 60, "Chugging along"),
        ([["update", 30], ["update", {"status_text": "Half"}]], 30, "Half"),
        ([["update", 10, "Here"], ["update"]], 10, "Here"),
        ([["update", 250]], 100, ""),
        ([["update", 10], ["increment", 5], ["increment"]], 16, ""),
        ([["update", 98], ["increment", 5]], 100, ""),
        ([["track", 4, "Reading"]], 100, "Reading"),
        ([["track", 4, {"total": 8}]], 50, ""),
        ([["echo", "one "], ["echo", "two"]], 0, "one two"),
        ([["echo", "out"], ["update", {"status_text": "text"}]], 0, "text"),
    ],
)
def test_each_kind_of_report_sets_progress_and_status_text(
    site: Site, steps: list[list[object]], progress: int, text: str
) -> None:
    # fail() without a text keeps the current values, whereas success would set progress to 100.
    state = site.steps(*steps, ["fail"])
    assert (state.status, state.progress, state.status_text) == (Status.FAILED, progress, text)


@pytest.mark.every_server
def test_reports_are_visible_while_the_action_runs(site: Site, gate: Gate) -> None:
    job_id = site.start("/work/hold", {"gate": gate.port})
    held = gate.reached()
    before = site.jobs.status(job_id)
    held.proceed()
    state = site.until(job_id, lambda state: state.status_text == "released")
    assert (state.status, state.progress) == (Status.IN_PROGRESS, 50)
    assert state.updated_time >= before.updated_time
    held.release()
    assert site.end(job_id).status is Status.COMPLETED


def test_the_last_progress_is_written_without_further_updates(site: Site, gate: Gate) -> None:
    job_id = site.start("/work/hold", {"gate": gate.port, "quietly": 5})
    held = gate.reached()
    held.proceed()
    assert site.until(job_id, lambda state: state.progress == 5).status is Status.IN_PROGRESS
    held.release()
    site.end(job_id)


def test_finish_sets_a_status_text_and_a_result(site: Site) -> None:
    state = site.run("/work/finish")
    assert (state.status, state.progress, state.status_text) == (Status.COMPLETED, 100, "And done")
    assert state.result == {"href": "/export.csv", "rows": [1, None, "ä"]}


@pytest.mark.every_server
def test_bound_threads_report_for_their_job(site: Site) -> None:
    job_id = site.start("/work/threads")
    assert site.end(job_id).status is Status.COMPLETED
    assert sorted(site.text(job_id).split()) == ["0", "1", "2", "3", "4"]


def test_output_past_the_limit_is_truncated_and_marked(site: Site) -> None:
    job_id = site.start("/work/print", {"lines": 80_000})
    assert site.end(job_id).status is Status.COMPLETED
    size, whole = 0, ""
    while (chunk := site.jobs.output(job_id, size)).text:
        size, whole = chunk.next_offset, whole + chunk.text
    assert (1 << 20) - 4 < size <= 1 << 20
    assert whole.startswith("line 0 – ä\nline 1 – ä\n")
    assert site.jobs.output(job_id, size).truncated


@pytest.mark.every_server
def test_concurrent_jobs_do_not_mix_their_output(site: Site) -> None:
    ids = {lines: site.start("/work/print", {"lines": lines}) for lines in range(20, 40)}
    for lines, job_id in ids.items():
        site.end(job_id)
        assert site.text(job_id) == "".join(f"line {number} – ä\n" for number in range(lines))
