"""A job's session: what the job changed of it is written into the session as it is by then, minutes later perhaps."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.http import HttpRequest

__all__ = ["keep_what_pages_write"]

_ABSENT: Final = object()


def keep_what_pages_write(request: HttpRequest) -> None:
    """Have a job's session saved by what the job changes of it, where Django would write all that it once read.

    To be called before the job's view. A session that has ended meanwhile, by a logout, is not written again.
    """
    session = getattr(request, "session", None)
    if isinstance(session, SessionBase):
        _Changes(session)


class _Changes:
    """Stands before a session's ways to be loaded and saved, whatever its engine."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._load, self._save = session.load, session.save
        self._before: dict[str, Any] | None = None
        self._is_over = False
        if session.accessed and session.session_key is not None:
            # A middleware has read it already. What one has written to it is as much the job's as what the view writes.
            self._note(self._load() if session.modified else dict(session.items()))
        session.load, session.save = self.load, self.save
        session.aload, session.asave = sync_to_async(self.load), sync_to_async(self.save)

    def load(self) -> dict[str, Any]:
        """The session as it is stored; the first time, as it was before the job."""
        loaded: dict[str, Any] = self._load()
        self._note(loaded)
        return loaded

    def save(self, must_create: bool = False) -> None:
        """Write what was changed since it was loaded, and nothing else."""
        session = self._session
        if self._is_over and not must_create:
            return
        if must_create or session.session_key is None:  # a login's, or the first of a visitor
            self._save(must_create)
            self._is_over = False
            self._note(dict(session.items()))
            return
        ours = dict(session.items())
        stored = self._load()
        self._is_over = session.session_key is None
        if self._is_over:
            return
        before = stored if self._before is None else self._before  # None: it was cleared unread
        gone = before.keys() - ours.keys()
        changed = {name: value for name, value in ours.items() if before.get(name, _ABSENT) != value}
        session.clear()
        session.update({name: value for name, value in stored.items() if name not in gone} | changed)
        try:
            self._save()
        except UpdateError:  # ended between our look and this
            self._is_over = True
            return
        self._note(dict(session.items()))

    def _note(self, values: dict[str, Any]) -> None:
        self._before = deepcopy(values)
