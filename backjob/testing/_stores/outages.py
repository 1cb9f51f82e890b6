"""The promises about errors: a store that can't be reached raises a `StoreError`, and no error shows what a job contains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

import pytest
from attrs import evolve

from backjob.errors import BackJobError, InvalidRequest, StoreError
from backjob.model import Caller, Changes, Draft, Expect, Query, Report, Request
from backjob.protocols import Capability, Store, lacks
from backjob.testing._stores.case import StoreCase, kept
from backjob.testing._stores.deadline import Deadlock
from backjob.testing._stores.watched import WatchedStore

__all__ = ["OutageCalls"]

_MARK: Final = "h0ld-tight"
"""Part of every value that an error must not show."""
_DRAFT: Final = Draft(
    id="secretive",
    request=Request(
        "POST",
        f"/work?code=query-{_MARK}",
        (("Cookie", f"session=cookie-{_MARK}"),),
        f"body-{_MARK}".encode(),
    ),
    caller=Caller("https", "example.org", "192.0.2.1", (("X-Forwarded-For", f"forwarded-{_MARK}"),), "/"),
    sealed=f"sealed-{_MARK}".encode(),
    proof=f"proof-{_MARK}",
    title=f"title-{_MARK}",
)
_TOKEN: Final = f"token-{_MARK}"
_REPORT: Final = Report(
    text=f"text-{_MARK}",
    output=f"output-{_MARK}",
    cursor=f"cursor-{_MARK}",
    tail=f"tail-{_MARK}",
    truncated=True,
)
_RESULT: Final = f"result-{_MARK}"


class OutageCalls(StoreCase):
    """Errors: their classes and their texts."""

    secrets: tuple[str, ...] = ()
    """Texts that no error may show, such as the password in the URL of your store."""

    def outage(self) -> AbstractContextManager[object] | None:
        """A context in which the store can't be reached, for example because its server is stopped. Override this.

        It is for ``self.store``, and begins after the store was used. Without it, the tests of outages are skipped.
        """
        return None

    def test_an_id_that_exists_is_refused_without_the_values_of_its_job(self) -> None:
        self.store.create(_DRAFT)
        text = self._error_of("create", lambda store: store.create(_DRAFT), InvalidRequest)
        self._check("create", text)

    def test_in_an_outage_every_call_raises_a_store_error_without_values(self) -> None:
        outage = self.outage()
        if outage is None:
            pytest.skip(
                "define outage(self) -> AbstractContextManager: a context in which self.store can't be reached, for example "
                "because its server is stopped"
            )
        self.store.create(_DRAFT)
        self.claimed(_DRAFT.id, _TOKEN)
        with outage:
            for name, call in self._calls().items():
                self._check(name, self._error_of(name, call, StoreError))
        kept(
            self.store.report(_DRAFT.id, _TOKEN, _REPORT),
            "the store works again after an outage; what failed meanwhile changed nothing",
        )

    def _calls(self) -> dict[str, Callable[[Store], object]]:
        """One call of each method that reaches the store's data."""
        changes = Changes(result=_RESULT, cursor=_RESULT, token=f"new-{_TOKEN}", status_text=_RESULT, error=_RESULT)
        calls: dict[str, Callable[[Store], object]] = {
            "create": lambda store: store.create(evolve(_DRAFT, id="another"), f"key-{_MARK}"),
            "get": lambda store: store.get(_DRAFT.id, body=True),
            "output": lambda store: store.output(_DRAFT.id),
            "change": lambda store: store.change(_DRAFT.id, Expect(token=_TOKEN), changes),
            "report": lambda store: store.report(_DRAFT.id, _TOKEN, _REPORT),
            "take_due": lambda store: store.take_due("me", 5.0, 10),
            "beat": lambda store: store.beat({_DRAFT.id: _TOKEN}, 18.0, frozenset((_DRAFT.id,))),
            "find": lambda store: store.find(Query(overdue=True)),
            "count": lambda store: store.count(Query(overdue=True)),
            "delete": lambda store: store.delete(_DRAFT.id),
            "purge": lambda store: store.purge(1.0, 1.0),
        }
        if Capability.LISTING in lacks(self.store):
            del calls["purge"]  # it need do nothing
        return calls

    def _error_of(self, name: str, call: Callable[[Store], object], kind: type[BackJobError]) -> str:
        """The texts of a call's error and of its causes, which a log shows too."""
        __tracebackhide__ = True
        store = self.store.inner if isinstance(self.store, WatchedStore) else self.store
        expected = (
            f"{name} raises {kind.__name__} in an outage" if kind is StoreError else f"{name} raises {kind.__name__}"
        )
        try:
            returned = self.deadline.call(name, call, store)
        except Deadlock:
            raise
        except Exception as error:
            kept(
                isinstance(error, kind), f"{expected}; it raised {type(error).__name__}, so the driver's errors escape"
            )
            kept(str(error).strip(), f"{expected} that says what is wrong; its text was empty")
            return "\n".join(_texts(error))
        raise AssertionError(f"promise broken: {expected}; it returned {returned!r}")

    def _check(self, name: str, text: str) -> None:
        __tracebackhide__ = True
        for secret in (_MARK, *self.secrets):
            at = text.find(secret)
            shown = text[max(0, at - 40) : at + len(secret) + 10]
            kept(at < 0, f"no error shows a value of a job, a token or a password; that of {name} shows {shown!r}")


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
