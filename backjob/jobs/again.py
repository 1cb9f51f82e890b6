"""Starts the kept request of an ended job again, as another job."""

from __future__ import annotations

import logging
from typing import Final

from attrs import evolve

from backjob.errors import InvalidRequest, JobNotFound
from backjob.http.inherited import TRACING_FIELDS
from backjob.jobs.engine import Engine
from backjob.jobs.starting import Prepared, Terms, with_user_agent
from backjob.jobs.storing import started
from backjob.lifecycle import ROW_CHANGED
from backjob.model import Credentials, Job, Request, is_storable

_NO_CREDENTIALS: Final = Credentials()

_log = logging.getLogger("backjob")


def run_again(engine: Engine, job_id: str) -> str:
    """See `backjob.BackJob.run_again`."""
    job = engine.store.get(job_id, body=True) if is_storable(job_id) else None
    if job is None:
        raise JobNotFound(job_id)
    request = job.request
    if not job.status.is_final:
        raise InvalidRequest("job_id", "the job has not ended: wait for its end, or cancel it first")
    if not job.keep_request or request is None:
        raise InvalidRequest("job_id", "the request of this job was not kept: start such jobs with keep_request=True")
    credentials = engine.row_keys.credentials_of(job)
    if credentials is None:
        _log.error("job %s: its stored row is not as this application wrote it, so it is not run again", job.id)
        raise InvalidRequest("job_id", ROW_CHANGED)
    is_users = credentials in ("held", "sealed")
    work = _as_current_user(engine, job, request) if is_users else _as_before(engine, job, request)
    terms = Terms(
        scope=job.scope,
        owner=job.owner,
        as_owner=job.as_owner,
        error_timeout=job.error_timeout,
        retries=job.retries,
        retry_delay=job.retry_delay,
        queue=job.queue,
        title=job.title,
        keep_request=True,
    )
    # Whatever `merge` the old job had: a second press of this button, or of the one that starts such jobs, is a mistake.
    return started(engine, work, terms, "unfinished").id


def _as_before(engine: Engine, job: Job, request: Request) -> Prepared:
    """Return the request as it was: without credentials, from the client that started the job."""
    return Prepared(_traced(engine, request), _NO_CREDENTIALS, None, job.caller)


def _as_current_user(engine: Engine, job: Job, request: Request) -> Prepared:
    """Return the request with the credentials of the request being served, which must be the owner's."""
    here = engine.here()
    if here is None or job.owner is None or engine.current_owner() != job.owner:
        raise InvalidRequest(
            "job_id",
            "this job ran with its user's login, which is never kept: only its owner can run it again, in a request of "
            "theirs; for others, start such jobs with as_owner=True",
        )
    served = here.request
    inherited = engine.inheritance.credentials(served, _NO_CREDENTIALS, engine.changed_cookies)
    # A login may be tied to the browser and the address, so the request comes from the present client.
    without_agent = tuple(field for field in request.headers if field[0].lower() != "user-agent")
    request = evolve(request, headers=with_user_agent(engine, without_agent, served))
    return Prepared(_traced(engine, request), _NO_CREDENTIALS, inherited, evolve(here.caller, mount=here.mount))


def _traced(engine: Engine, request: Request) -> Request:
    """Return the request as a part of the trace of the request being served, if there is one. Nothing else of it changes."""
    here = engine.here()
    headers = tuple(field for field in request.headers if not _is_of_trace(field))
    if here is not None:
        served = here.request
        traced = evolve(served, headers=tuple(filter(_is_of_trace, served.headers)))
        headers += engine.inheritance.context_of(traced, headers)
    return evolve(request, headers=headers)


def _is_of_trace(field: tuple[str, str]) -> bool:
    return field[0].lower() in TRACING_FIELDS
