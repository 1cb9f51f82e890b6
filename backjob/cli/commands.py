"""The commands: each gets the parsed arguments, prints, and returns the exit code."""

from __future__ import annotations

import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

from backjob.cli.bar import columns_of
from backjob.cli.completion import shell_code
from backjob.cli.console import has_colours, job_details, run_monitor, whole_output
from backjob.cli.demo import server
from backjob.cli.doctor import examine
from backjob.cli.exits import OF_STATUS, Exit
from backjob.cli.opening import PREFIX, Source, environment_settings
from backjob.cli.speaking import language_for
from backjob.cli.table import job_table
from backjob.cli.watching import watch
from backjob.delivery.leaving import wait_for_claims
from backjob.errors import DeliveryRefused, InvalidRequest
from backjob.jobs import engine_of
from backjob.protocols import Transport
from backjob.settings import Settings
from backjob.signing import MessageSigner
from backjob.status.words import WORDS
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport

_FILTERS: Final = ("status", "queue", "scope", "owner", "q", "before")


def _log_here(args: Namespace) -> None:
    if args.jobs is None:  # a framework configures logging itself
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


def _source(args: Namespace) -> Source:
    return Source(args.jobs, args.app, args.store)


def list_jobs(args: Namespace) -> int:
    """Print a table of jobs, their ids, or a line of JSON for each."""
    with _source(args).open() as jobs:
        filters = {name: getattr(args, name) for name in _FILTERS}
        found = jobs.find(**filters, limit=args.limit)
        if args.json:
            _print_lines(json.dumps(state.as_dict()) for state in found)
        elif args.quiet:
            _print_lines(state.id for state in found)
        elif found:
            columns = columns_of(sys.stdout) if sys.stdout.isatty() else None
            _print_lines(job_table(found, engine_of(jobs).clock.now(), columns, language_for(sys.stdout)))
            if len(found) == args.limit and sys.stdout.isatty():
                hint = {"count": len(found), "option": f"--before {found[-1].position}"}
                sys.stderr.write(f"{language_for(sys.stderr).say('newest', **hint)}\n")
        else:
            word = "no_matches" if any(filters.values()) else "no_jobs"
            sys.stderr.write(f"{language_for(sys.stderr).say(word)}\n")
    return Exit.SUCCESS


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def show_job(args: Namespace) -> int:
    """Print a job's state and output."""
    with _source(args).open() as jobs:
        if args.json:
            state = jobs.status(args.job_id)
            output = whole_output(jobs, args.job_id)
            kept = {"output": output.text, "truncated": output.truncated, "tail": output.tail}
            print(json.dumps({**state.as_dict(), **kept}))
        else:
            escape, colours = sys.stdout.isatty(), has_colours(sys.stdout)
            print(job_details(jobs, args.job_id, escape=escape, colours=colours, language=language_for(sys.stdout)))
    return Exit.SUCCESS


def watch_job(args: Namespace) -> int:
    """Print a job's output and progress until it ends. Ctrl-C stops watching; the job continues."""
    with _source(args).open() as jobs:
        try:
            return watch(jobs, args.job_id, sys.stdout)
        except KeyboardInterrupt:
            sys.stderr.write(f"\nThe job continues. To cancel it: {args.prog} cancel {args.job_id}\n")
            return Exit.INTERRUPTED


def wait_for_job(args: Namespace) -> int:
    """Wait until a job has ended."""
    with _source(args).open() as jobs:
        try:
            state = jobs.join(args.job_id, args.timeout)
        except TimeoutError:
            sys.stderr.write(f"{args.prog}: {args.job_id} has not ended within {args.timeout:g} s\n")
            return Exit.TIMEOUT
    return OF_STATUS[state.status]


def cancel_job(args: Namespace) -> int:
    """Cancel a job, unless it had already ended."""
    with _source(args).open() as jobs:
        cancelled = jobs.cancel(args.job_id)
        state = jobs.status(args.job_id)
    if args.json:
        print(json.dumps({**state.as_dict(), "cancelled": cancelled}))
    elif cancelled:
        print(f"cancelled {args.job_id}")
    else:
        sys.stderr.write(f"{args.prog}: {args.job_id} had already ended: {WORDS[state.status]}\n")
    return Exit.SUCCESS if cancelled else Exit.ENDED


def run_again(args: Namespace) -> int:
    """Start the kept request of an ended job again, as a new job, and print its id."""
    with _source(args).open_to_deliver() as jobs:
        job_id = jobs.run_again(args.job_id)
        state = jobs.status(job_id)
        if args.jobs is None:  # otherwise the process waits when it ends
            wait_for_claims([engine_of(jobs).monitor])
    print(json.dumps(state.as_dict()) if args.json else job_id)
    return Exit.SUCCESS


def delete_jobs(args: Namespace) -> int:
    """Delete a job, or all jobs of an owner."""
    with _source(args).open() as jobs:
        deleted = int(jobs.delete(args.job_id)) if args.owner is None else jobs.delete_all(owner=args.owner)
    print(json.dumps({"deleted": deleted}) if args.json else f"deleted {_jobs(deleted)}")
    return Exit.SUCCESS


def _jobs(count: int) -> str:
    return f"{count} {'job' if count == 1 else 'jobs'}"


def clean_up(args: Namespace) -> int:
    """Remove the jobs past their retention age."""
    with _source(args).open() as jobs:
        removed = jobs.cleanup()
    print(json.dumps({"removed": removed}) if args.json else f"removed {_jobs(removed)}")
    return Exit.SUCCESS


def run_monitor_here(args: Namespace) -> int:
    """Run the monitor in the foreground."""
    _log_here(args)
    with _source(args).open_to_deliver() as jobs:
        run_monitor(jobs)
    return Exit.SUCCESS


def run_worker_here(args: Namespace) -> int:
    """Run jobs in this process until a signal, and then drain."""
    from backjob.cli.working import run_worker, transport_of  # noqa: PLC0415 - only this command runs the application

    _log_here(args)
    with _source(args).open_to_run() as jobs:
        transport = transport_of(jobs, args.wsgi, args.asgi, args.threads)
        if not run_worker(jobs, transport, frozenset(args.queue) or None):
            logging.shutdown()
            sys.stdout.flush()
            os._exit(Exit.SUCCESS)  # Python would wait for the threads of an event loop's executor
    return Exit.SUCCESS


def deliver_here(args: Namespace) -> int:
    """Deliver a job and wait for its end; with an application, run it in this process."""
    _log_here(args)
    source = _source(args)
    runs_here = args.in_process or args.wsgi is not None or args.asgi is not None
    with source.open_to_run() if runs_here else source.open_to_deliver() as jobs, ExitStack() as stack:
        transport = None
        if runs_here:
            from backjob.cli.working import transport_of  # noqa: PLC0415 - only then this command runs the application

            transport = transport_of(jobs, args.wsgi, args.asgi, 1)
            stack.callback(transport.close)
            jobs.drain_on_signals()
        try:
            state = jobs.deliver(args.job_id, transport)
        except DeliveryRefused as refusal:
            sys.stderr.write(f"{args.prog}: {refusal}\n")
            return Exit.ENDED if refusal.reason == "ended" else Exit.NOT_DELIVERED
    if args.json:
        print(json.dumps(state.as_dict()))
    return OF_STATUS[state.status]


def run_demo(args: Namespace) -> int:
    """Serve the demo, or run its job once."""
    if args.once:
        return server.run_once(sys.stdout, fail=args.fail)
    return server.serve(sys.stdout, args.host, args.port)


def examine_application(args: Namespace) -> int:
    """Print the doctor's findings; the exit code is that of the first problem."""
    source = _source(args)
    settings = Settings() if source.is_application else environment_settings()
    code = 0
    with ExitStack() as stack:
        jobs, signer, own_transport = None, None, None
        if source.is_application:
            jobs = stack.enter_context(source.open())
            signer, own_transport = jobs.signer, jobs.transport
        else:
            if args.store or settings.store:
                jobs = stack.enter_context(source.open())
            if settings.key is not None:
                signer = MessageSigner(settings.key, fallbacks=settings.key_fallbacks or ())
        transport, url = _transport(args, settings, own_transport)
        if transport is not own_transport:
            stack.callback(transport.close)
        options = {"path": args.path, "methods": tuple(args.method), "timeout": args.timeout}
        for finding in examine(transport, url, signer=signer, jobs=jobs, **options):
            print(json.dumps(finding.as_dict()) if args.json else finding, flush=True)
            code = code or int(finding.problem or 0)
    return code


def _transport(args: Namespace, settings: Settings, own: Transport | None) -> tuple[Transport, str]:
    """Return the transport to examine and its base URL: the application's ``own``, unless the options name another address.

    Raises `InvalidRequest` if there is no base URL.
    """
    base_url = settings.base_url
    if isinstance(own, SocketTransport):
        base_url = own.base_url
        if args.url is None and args.connect_to is None:
            return own, base_url
    url = args.url or base_url
    if url is None:
        raise InvalidRequest("url", f"pass the application's base URL, or set BASE_URL ({PREFIX}BASE_URL)")
    return SocketTransport(url, args.connect_to or settings.connect_to, connect_timeout=args.timeout), url


def print_schema(args: Namespace) -> int:
    """Print the SQL that creates a store's tables."""
    if args.dialect == "sqlite":
        if args.schema is not None:
            raise InvalidRequest("schema", "SQLite has no schemas")
        print(SQLiteStore.schema(args.table_name), end="")
        return Exit.SUCCESS
    from backjob.stores.sql import SQLStore  # noqa: PLC0415 - needs an extra

    print(SQLStore.schema(args.dialect, table_name=args.table_name, schema=args.schema), end="")
    return Exit.SUCCESS


def print_completion(args: Namespace) -> int:
    """Print the code for a shell's completion."""
    print(shell_code(args.shell))
    return Exit.SUCCESS
