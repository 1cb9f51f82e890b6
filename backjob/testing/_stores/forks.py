"""The promises to a forked child and its parent."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Final

from backjob.model import Report
from backjob.protocols import Capability, lacks
from backjob.testing._stores.case import StoreCase, draft, kept, same, whole_output

_REPORTS: Final = 20


class ForkCalls(StoreCase):
    """A process may fork while it has a store; afterwards both can use it."""

    def test_a_forked_child_and_its_parent_both_work(self) -> None:
        self.running()
        self.store.report("job", "token", Report(output="before;"))

        def report_all(who: str) -> None:
            for number in range(_REPORTS):
                written = self.store.report("job", "token", Report(output=f"{who} {number};"))
                kept(written, "a report with the current token is written")
            self.store.create(draft(who))
            self.read(who)

        def child() -> None:
            known = whole_output(self.store, "job").startswith("before;")  # the parent may have written more by now
            kept(known, "a forked child reads its parent's output")
            report_all("child")
            self.store.close()

        finish = _fork(child, self.patience)
        report_all("parent")
        finish()
        if Capability.SHARED not in lacks(self.store):
            self.read("child")
            chunks = whole_output(self.store, "job").split(";")
            for who in ("child", "parent"):
                mine = [chunk for chunk in chunks if chunk.startswith(who)]
                same(mine, [f"{who} {number}" for number in range(_REPORTS)], "child and parent share the job's output")
        kept(self.store.report("job", "token", Report(output="after;")), "the parent can write after its child's end")


def _fork(run: Callable[[], None], patience: float) -> Callable[[], None]:
    """Run this in a forked child. Call the result to wait for its end and to raise its error."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork while threads run is what this tests
        child = os.fork()
    if child == 0:
        answer = ""
        try:
            run()
        except BaseException as error:
            answer = f"{error}\n{traceback.format_exc()}"
        finally:
            os.write(writing, answer.encode("utf-8", "replace")[:4096] or b"ok")
            os._exit(0)
    os.close(writing)

    def finish() -> None:
        __tracebackhide__ = True
        answer = b""
        deadline = time.monotonic() + patience
        with open(reading, "rb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor has no path
            while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                chunk = pipe.read(4096)
                answer += chunk
                if not chunk:
                    break
        if not answer:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kept(answer, f"a forked child can use the store; no answer within {patience:g} s")
        if answer != b"ok":
            text = answer.decode("utf-8", "replace").removeprefix("promise broken: ")
            raise AssertionError(f"promise broken: a forked child can use the store; {text}")

    return finish
