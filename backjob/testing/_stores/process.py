"""One of the processes that share a store in `SharesJobs`: ``python -m backjob.testing._stores.process``.

It reads a task as a line of JSON, opens the store, and prints that it is ready. In a race it starts at the next line, and
prints the results of its threads. Otherwise it makes the call that each line describes, and prints the result, until an
empty line. Then it closes the store, prints that, and waits for the next task. An error is its last line. It needs neither
pytest nor hypothesis.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
import traceback
from base64 import b64decode, b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from threading import Barrier
from typing import Any, Final, TypeAlias, cast

from backjob.errors import SlotTaken
from backjob.lifecycle import cancelled, claimed, completed, ended, failed
from backjob.model import Changes, Draft, Expect, Report, Request, Status
from backjob.protocols import Store

Task: TypeAlias = dict[str, Any]
_PATIENCE: Final = 60.0
LEASE: Final = 3600.0
_ANSWERS: Final = sys.stdout
_ENDS: Final = (completed("done"), failed("broken"), cancelled())


def open_by(opener: str, address: str) -> Store:
    """The store that the function ``package.module:function`` opens at the address."""
    module, _, name = opener.partition(":")
    function = cast("Callable[[str], Store]", getattr(import_module(module), name))
    return function(address)


def chunk(racer: str, number: int) -> str:
    """The output of a thread's ``number``-th report."""
    return f"{racer} {number} ß€😀;"


# --- one thread ------------------------------------------------------------------------------------------------


def _claim(store: Store, racer: str, task: Task) -> list[tuple[str, str]]:
    """Claim each job, some of them repeatedly. Returns (job, token) of each claim that won."""
    won = []
    for name, times in task["jobs"]:
        for number in range(times):
            token = f"{racer} {number}"
            if store.change(name, *claimed(token, 1, LEASE)) is not None:
                won.append((name, token))
    return won


def _create(store: Store, racer: str, task: Task) -> list[tuple[str, str]]:
    """Create jobs with one merge key. Returns (id of the draft, id of the returned job) for each."""
    tried = [f"{racer} {number}" for number in range(task["times"])]
    return [(name, store.create(Draft(id=name, request=Request("GET", "/work")), "key").id) for name in tried]


def _end(store: Store, racer: str, task: Task) -> dict[str, Task]:
    """Report on each job until it has ended, and try to end it. Returns the number of accepted reports and the winning end."""
    process, thread = map(int, racer.split("."))
    done: dict[str, Task] = {}
    for name in task["jobs"]:
        accepted, end = 0, None
        while store.report(name, "token", Report(output=chunk(racer, accepted))):
            accepted += 1
            if thread >= len(_ENDS) or not _has_said(store, name, task["enough"]):
                continue
            mine = _ENDS[(process + thread) % len(_ENDS)]
            job = store.change(name, Expect(status=Status.IN_PROGRESS), ended(mine))
            end = None if job is None else job.status.name
        late = store.report(name, "token", Report(output="late"))
        done[name] = {"accepted": accepted, "end": end, "late": late}
    return done


def _has_said(store: Store, name: str, size: int) -> bool:
    job = store.get(name)
    return job is not None and job.output_size >= size


def _take(store: Store, racer: str, task: Task) -> list[str]:
    """Lease due jobs until none is left, and return their ids."""
    taken: list[str] = []
    while batch := store.take_due(racer, 3600, task["at_once"]):
        taken += [job.id for job in batch]
    return taken


def _slots(store: Store, racer: str, task: Task) -> list[tuple[int, float, float]]:
    """Take one slot after the other for this thread's job, and release it. Returns (slot, begin, end) of each that it got.

    Processes of one machine share the clock.
    """
    held = []
    for number in range(task["rounds"]):
        slot = number % task["slots"]
        try:
            store.change(racer, Expect(unclaimed=True), Changes(slot=f"default/{slot}"))
        except SlotTaken:
            continue
        begin = time.monotonic()
        store.get(racer)  # takes a moment, in which others try
        held.append((slot, begin, time.monotonic()))
        store.change(racer, Expect(), Changes(slot=None))
    return held


_SCENARIOS: Final[dict[str, Callable[[Store, str, Task], object]]] = {
    "claim": _claim,
    "create": _create,
    "end": _end,
    "slots": _slots,
    "take": _take,
}


# --- the process ----------------------------------------------------------------------------------------------------


def _run(store: Store, task: Task) -> list[object]:
    """The result of each thread."""
    scenario = _SCENARIOS[task["scenario"]]
    barrier = Barrier(task["threads"])

    def act(thread: int) -> object:
        barrier.wait(_PATIENCE)
        return scenario(store, f"{task['process']}.{thread}", task)

    with ThreadPoolExecutor(task["threads"]) as pool:
        futures = [pool.submit(partial(act, thread)) for thread in range(task["threads"])]
        return [future.result() for future in futures]


def packed(value: object) -> str:
    """A value for another process of this suite, as text."""
    return b64encode(pickle.dumps(value)).decode()


def unpacked(text: str) -> Any:
    """The value that `packed` took."""
    return pickle.loads(b64decode(text))  # noqa: S301 - the other process is this suite's too


def _serve(store: Store) -> None:
    """Make the call that each line describes, until an empty one."""
    while line := sys.stdin.readline().strip():
        name, arguments, named = unpacked(line)
        _say({"done": packed(getattr(store, name)(*arguments, **named))})


def _say(value: object) -> None:
    _ANSWERS.write(json.dumps(value) + "\n")
    _ANSWERS.flush()


def _perform(task: Task) -> None:
    """Open the store, race or serve, and close it."""
    store = open_by(task["opener"], task["address"])
    try:
        store.get("nobody")  # keeps work of the first call out of the race
        _say({"ready": True})
        if task["scenario"] == "serve":
            _serve(store)
        elif sys.stdin.readline():
            _say({"done": _run(store, task)})
    finally:
        store.close()
    _say({"closed": True})


def main() -> None:
    """Perform the tasks from standard input, one for each line, until one fails."""
    sys.stdout = sys.stderr  # a store may print
    try:
        while line := sys.stdin.readline():
            _perform(json.loads(line))
    except Exception as error:
        _say({"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})


if __name__ == "__main__":
    main()
