"""A job's session: backjob merges the job's changes into the session as stored when the job's response is complete.

Server-side interfaces, such as Flask-Session's, save the whole session at the end of each request: a job would write back
the session of minutes ago. Sessions in cookies can't be saved, because no browser gets the response of a job.
"""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Any, Final

from flask import Flask, Request, Response, has_request_context, request
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.local import LocalProxy

from backjob.overriding import override
from backjob.worker.running import current

_KEY: Final = "backjob.session"
_ABSENT: Final = object()

_log = logging.getLogger("backjob")


def merge_sessions_of_jobs(app: Flask) -> None:
    """Make the application's session interface save only the changes of a job. Call it before a job's request context."""
    interface = app.session_interface
    if type(interface) is not _Interface:
        app.session_interface = _Interface(interface)


class _Interface(SessionInterface):
    """Stands in for the application's interface, also for `isinstance`. It acts on the requests of jobs alone."""

    def __init__(self, interface: SessionInterface) -> None:
        object.__setattr__(self, "_backjob_interface", interface)

    @override
    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "_backjob_interface"), name)

    @override
    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._backjob_interface, name, value)

    @override
    def open_session(self, app: Flask, request: Request) -> SessionMixin | None:
        session: SessionMixin | None = self._backjob_interface.open_session(app, request)
        if session is not None and current.get() is not None:
            request.environ[_KEY] = _Opened(session)
        return session

    @override
    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        if isinstance(session, LocalProxy):  # flask.session itself
            session = session._get_current_object()  # noqa: SLF001 - the proxy's own method
        opened = request.environ.get(_KEY) if has_request_context() else None
        if isinstance(opened, _Opened) and opened.session is session:
            opened.save(self._backjob_interface, app, response)
        else:
            self._backjob_interface.save_session(app, session, response)


_OWN: Final = frozenset({"open_session", "save_session", "_backjob_interface"})


class _Opened:
    """A job's session, and how it was when the job's request began."""

    def __init__(self, session: SessionMixin) -> None:
        self.session = session
        self._id = _id_of(session)
        self._existed = bool(session)
        self._before = deepcopy(dict(session))

    def save(self, interface: SessionInterface, app: Flask, response: Response) -> None:
        """Write what the job has changed, if the session still exists; log a warning if no browser can see it."""
        before, ours = self._before, dict(self.session)
        changed = {name: value for name, value in ours.items() if before.get(name, _ABSENT) != value}
        gone = before.keys() - ours.keys()
        if not changed and not gone:
            return
        self._before = deepcopy(ours)  # start() saves it too
        stored = _read(interface, app)
        if stored is None or (self._existed and (not stored or _id_of(stored) != self._id)):
            return  # it has ended meanwhile, by a logout
        if self._existed:
            then = deepcopy(dict(stored))
            for name in gone:
                stored.pop(name, None)
            stored.update(changed)
            interface.save_session(app, stored, response)
            written = _read(interface, app)
            if written is None or dict(written) != then or dict(stored) == then:
                return
        running = current.get()
        _log.warning(
            "job %s changed its session (%s), but no browser gets the response of a job, and so not the cookie with the "
            "session: the change is lost; return results with finish(result=…), or keep sessions on the server",
            running.job.id if running is not None else "",
            ", ".join(sorted(map(str, {*changed, *gone}))),
        )


def _read(interface: SessionInterface, app: Flask) -> SessionMixin | None:
    """Return the session as it is stored now. Within the job's application context a database session may keep it as read."""
    here: Request = request._get_current_object()  # type: ignore[attr-defined] # noqa: SLF001 - the proxy's own method
    with app.app_context():
        return interface.open_session(app, here)


def _id_of(session: SessionMixin) -> object:
    """Return the id of a server-side session, or None."""
    return getattr(session, "sid", None)
