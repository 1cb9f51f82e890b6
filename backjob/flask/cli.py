"""The commands ``flask backjob …``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import flask
from flask.cli import AppGroup

from backjob.cli.console import job_details, job_line, run_monitor
from backjob.cli.following import NO_SUCH_JOB
from backjob.cli.following import watch as watch_job
from backjob.errors import AddressUnknown, BackJobError, JobNotFound
from backjob.jobs import facade as core
from backjob.model import Status

__all__ = ["commands"]

commands = AppGroup("backjob", help="Look at background jobs, end them, and look after them.")


class _NoSuchJob(click.ClickException):
    exit_code = NO_SUCH_JOB


@contextmanager
def _jobs() -> Iterator[core.BackJob]:
    """The current application's jobs; errors are for a person at a terminal."""
    try:
        yield flask.current_app.extensions["backjob"].extension
    except BackJobError as error:
        raise click.ClickException(str(error)) from error


@commands.command("list")
@click.option("--scope", help="Only jobs of this scope.")
@click.option("--owner", help="Only jobs of this owner.")
@click.option("--status", type=click.Choice([status.name for status in Status], case_sensitive=False))
@click.option("--limit", default=50, show_default=True, help="At most so many, the newest.")
def list_jobs(scope: str | None, owner: str | None, status: str | None, limit: int) -> None:
    """List jobs, the newest first: id, status, progress, due time, scope, owner, text."""
    with _jobs() as jobs:
        wanted = None if status is None else Status[status.upper()]
        for state in jobs.find(scope=scope, owner=owner, status=wanted, limit=limit):
            click.echo(job_line(state))


@commands.command()
@click.argument("job_id")
def show(job_id: str) -> None:
    """Show a job and its output."""
    with _jobs() as jobs:
        click.echo(job_details(jobs, job_id))


@commands.command()
@click.argument("job_id")
def watch(job_id: str) -> None:
    """Follow a job to its end; exits with 0 COMPLETED, 1 FAILED, 2 CANCELLED, 3 no such job.

    Ctrl-C asks whether to leave the job running, to cancel it, or to go on.
    """
    with _jobs() as jobs:
        try:
            code = watch_job(jobs, job_id, sys.stdout, sys.stdin)
        except JobNotFound as error:
            raise _NoSuchJob(str(error)) from error
    click.get_current_context().exit(code)


@commands.command()
@click.argument("job_id")
def cancel(job_id: str) -> None:
    """Cancel a job."""
    with _jobs() as jobs:
        if not jobs.cancel(job_id):
            raise click.ClickException(f"not cancelled: the job is {jobs.status(job_id).status.name}")
        click.echo(f"{job_id} is cancelled")


@commands.command()
def cleanup() -> None:
    """Remove jobs past their retention time."""
    with _jobs() as jobs:
        click.echo(f"{jobs.cleanup()} removed")


@commands.command()
def monitor() -> None:
    """Deliver jobs and watch over them until Ctrl-C: for a site without traffic. Needs BACKJOB_BASE_URL."""
    with _jobs() as jobs:
        try:
            run_monitor(jobs)
        except AddressUnknown as error:
            raise click.ClickException(f"{error} (BACKJOB_BASE_URL)") from error
