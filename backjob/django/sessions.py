"""A job's session: backjob merges the job's changes into the session as stored when the job saves it, minutes later."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpRequest

from backjob.errors import InvalidRequest

_ABSENT: Final = object()


def saved_session(request: HttpRequest) -> dict[str, str | None]:
    """Save the session if it was changed, and return its cookie: after a login it is not in the request yet.

    Raises `InvalidRequest` ("as_current_user") where saving would block an event loop.
    """
    session = getattr(request, "session", None)
    if not isinstance(session, SessionBase) or not session.modified:
        return {}
    try:
        if session.is_empty():  # after a logout
            return {settings.SESSION_COOKIE_NAME: None}
        session.save()
    except UpdateError:
        raise InvalidRequest("as_current_user", "the session has ended meanwhile, by a logout") from None
    except SynchronousOnlyOperation:
        raise InvalidRequest(
            "as_current_user", "the session was changed, and saving it would block the event loop: await astart()"
        ) from None
    return {settings.SESSION_COOKIE_NAME: session.session_key}


def merge_session_changes(request: HttpRequest) -> None:
    """Make the request's session save only the job's changes, where Django would write back the whole session.

    Call it before the job's view. A session that has ended meanwhile, by a logout, is not written again.
    """
    session = getattr(request, "session", None)
    if isinstance(session, SessionBase):
        _Changes(session)


class _Changes:
    """Replaces the methods that load and save a session, of any engine."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._load, self._save = session.load, session.save
        self._before: dict[str, Any] | None = None
        self._has_ended = False
        if session.accessed and session.session_key is not None:
            # A middleware has read it already. Its changes count as the job's, like those of the view.
            self._note(self._load() if session.modified else dict(session.items()))
        session.load, session.save = self.load, self.save
        session.aload, session.asave = sync_to_async(self.load), sync_to_async(self.save)

    def load(self) -> dict[str, Any]:
        """Return the stored session; the first call notes how it was before the job."""
        loaded: dict[str, Any] = self._load()
        self._note(loaded)
        return loaded

    def save(self, must_create: bool = False) -> None:
        """Write only what has changed since the session was loaded."""
        session = self._session
        if self._has_ended and not must_create:
            return
        if must_create or session.session_key is None:  # after a login, or a visitor's first session
            self._save(must_create)
            self._has_ended = False
            self._note(dict(session.items()))
            return
        ours = dict(session.items())
        stored = self._load()
        self._has_ended = session.session_key is None
        if self._has_ended:
            return
        before = stored if self._before is None else self._before  # None: the job cleared it without reading
        gone = before.keys() - ours.keys()
        changed = {name: value for name, value in ours.items() if before.get(name, _ABSENT) != value}
        session.clear()
        session.update({name: value for name, value in stored.items() if name not in gone} | changed)
        try:
            self._save()
        except UpdateError:  # it ended between the load and the save
            self._has_ended = True
            return
        self._note(dict(session.items()))

    def _note(self, values: dict[str, Any]) -> None:
        self._before = deepcopy(values)
