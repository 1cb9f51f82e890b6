"""The public names and their parameters, which applications depend on."""

from __future__ import annotations

import inspect
import pickle
import pydoc
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

import pytest
from attrs import fields

import backjob
from backjob import BackJob, JobState, Status, adapters, errors
from backjob.adapters import ActionCall, ActionResponse, Arrival, Receiver
from backjob.model import Output
from backjob.protocols import Clock, Delivery, Signer, Store, Transport, Verified

EMPTY: Final = "–"
"""Marks a required parameter."""

NAMES: Final = {
    "backjob": ["BackJob", "JobState", "Output", "Status"],
    "backjob.protocols": [
        *("Capability", "Clock", "Delivery", "Files", "Signer", "Store", "Transport", "Verified", "lacks"),
        *("UNSET", "Caller", "Changes", "Credentials", "Draft", "Expect", "Grant", "Headers", "Job", "JobState"),
        *("JsonValue", "Output", "Query", "Report", "Request", "Response", "Status", "Unset"),
    ],
    "backjob.process": ["PerProcess"],
    "backjob.lifecycle": ["late", "overdue_from"],
    "backjob.adapters": [
        *(
            "ActionCall",
            "ActionResponse",
            "Arrival",
            "Listener",
            "Receiver",
            "Reply",
            "StatusResponse",
            "WorkerRequest",
        ),
        *("body_of", "exit_response", "listener_of_socket", "served"),
    ],
    "backjob.stores": ["open_store"],
    "backjob.stores.memory": ["MemoryStore"],
    "backjob.stores.sqlite": ["SQLiteStore"],
    "backjob.transports.inprocess": ["InProcessTransport"],
    "backjob.transports.sockets": ["SocketTransport"],
    "backjob.signing": ["MessageSigner", "derive_key", "secret_file"],
    "backjob.wsgi": ["BackJobMiddleware", "StatusApp"],
    "backjob.testing": ["FakeClock", "SignerContract", "StoreContract", "TransportContract", "immediate", "recorded"],
    "backjob.testing.deliveries": [
        "Application",
        "DeliveryContract",
        "ForksAndExits",
        "GivesOutcomes",
        "SendsRequests",
    ],
    "backjob.testing.transports": ["KeepsConnections", "SendsOverHTTP", "TransportContract"],
    "backjob.testing.dying": ["dies_at"],
    "backjob.testing.plugin": ["backjob_app", "backjob_immediate", "backjob_recorded"],
    "backjob.cli": ["main"],
    "backjob.flask": ["BackJob"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_a_public_name_can_be_imported(module: str, name: str) -> None:
    found = import_module(module)
    assert hasattr(found, name)
    assert name in getattr(found, "__all__", [name])


def test_every_error_is_public_and_all_public_names_exist() -> None:
    assert set(errors.__all__) <= set(backjob.__all__)
    assert all(hasattr(backjob, name) for name in backjob.__all__)
    assert isinstance(backjob.__version__, str)


def test_names_that_are_imported_at_their_first_use_are_names_like_the_others() -> None:
    copied: dict[str, Any] = {}
    exec("from backjob import *", copied)
    assert set(backjob.__all__) == copied.keys() - {"__builtins__"}
    assert set(backjob.__all__) <= set(dir(backjob))
    assert "class BackJob" in pydoc.plain(pydoc.render_doc(backjob))
    assert pickle.loads(pickle.dumps(backjob.BackJob)) is backjob.BackJob
    assert dict(inspect.getmembers(backjob))["JobState"] is JobState
    with pytest.raises(AttributeError, match="module 'backjob' has no attribute 'Backjob'"):
        getattr(backjob, "Backjob")  # noqa: B009 - type checkers know that it does not exist
    with pytest.raises(ImportError, match="Backjob"):
        exec("from backjob import Backjob")


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (errors.BackJobError, (Exception,)),
        (errors.InvalidRequest, (errors.BackJobError, ValueError)),
        (errors.JobNotFound, (errors.BackJobError, LookupError)),
        (errors.NoCurrentRequest, (errors.BackJobError,)),
        (errors.AddressUnknown, (errors.BackJobError,)),
        (errors.SignatureError, (errors.BackJobError,)),
        (errors.UnknownKey, (errors.SignatureError,)),
        (errors.StoreUnavailable, (errors.StoreError, errors.BackJobError)),
        (errors.StoreUnusable, (errors.StoreError, errors.BackJobError)),
        (errors.NotSent, (errors.TransportError, errors.BackJobError)),
        (errors.DeliveryRefused, (errors.BackJobError, RuntimeError)),
        (errors.ConnectionLost, (errors.TransportError, errors.BackJobError)),
        (errors.MissingExtra, (errors.BackJobError, ImportError)),
        (errors.JobFailed, (errors.JobExit,)),
        (errors.JobEnded, (errors.JobExit,)),
        (errors.JobContinued, (errors.JobExit,)),
        (errors.JobRetried, (errors.JobExit,)),
        (errors.BackgroundOnly, (errors.JobExit,)),
    ],
)
def test_an_error_has_these_base_classes(error: type[BaseException], bases: tuple[type[BaseException], ...]) -> None:
    assert all(issubclass(error, base) for base in bases)


def test_except_exception_does_not_catch_job_exit() -> None:
    assert issubclass(errors.JobExit, BaseException)
    assert not issubclass(errors.JobExit, Exception)


def test_each_status_has_its_number() -> None:
    assert {status.name: int(status) for status in Status} == {
        "STARTED": 0,
        "IN_PROGRESS": 1,
        "COMPLETED": 2,
        "FAILED": 3,
        "CANCELLED": 4,
    }
    assert [status.is_final for status in Status] == [False, False, True, True, True]


def test_a_state_and_an_output_have_these_fields() -> None:
    assert [field.name for field in fields(JobState)] == [
        *("id", "status", "progress", "status_text", "start_time", "updated_time", "end_time", "result", "owner"),
        *("scope", "waiting_for", "attempt", "retries", "history"),
        *("title", "method", "path", "queue", "created_time", "claimed_time", "file", "error", "keeps_request"),
    ]
    assert [field.name for field in fields(Output)] == ["text", "next_offset", "truncated", "tail"]


# --- parameters: name → default, keyword-only after "*" ----------------------------------------------------

REPORT: Final = {"progress": None, "status_text": None, "*": ..., "total": None}
FINISH: Final = {"text": None, "result": None, "*": ..., "file": None, "name": None, "job_id": None}
TRACK: Final = {"iterable": EMPTY, "text": None, "*": ..., "total": None, "resume": False}
RETRY: Final = {"delay": None, "text": None}

COMMAND: Final = {"args": EMPTY, "*": ..., "input": None, "check": True, "terminal": False, "options": EMPTY}
FIND: Final = {
    "scope": None,
    "status": None,
    "owner": None,
    "limit": 50,
    "before": None,
    "*": ...,
    "queue": None,
    "q": "",
}

ELEMENT: Final[dict[str, Any]] = {
    "job_id": EMPTY,
    "*": ...,
    "output": False,
    "cancel": False,
    "stream": False,
    "label": "",
    "on_done_href": None,
    "texts": None,
    "lang": None,
}
METHODS: Final[dict[str, dict[str, Any]]] = {
    "__init__": {
        "store": EMPTY,
        "transport": EMPTY,
        "signer": EMPTY,
        "*": ...,
        "owner": None,
        "may_see_all": None,
        "may_manage_all": None,
        "public_url": None,
        "trusted_origins": (),
        "page_template": None,
        "status_prefix": "/backjob",
        "error_timeout": 3600,
        "delivery_timeout": 600,
        "completed_retention_days": 30,
        "retention_days": 60,
        "max_output": 1 << 20,
        "max_body": 1 << 20,
        "max_headers": 8192,
        "max_depth": 32,
        "max_chain": 10_000,
        "merge_cookies": None,
        "forward_headers": (),
        "credential_headers": (),
        "user_agent": None,
        "on_end": None,
        "seal": False,
        "streams": None,
        "run_lease": 18,
        "max_running": None,
        "queues": None,
        "deliver": None,
        "redispatch_after": 600,
        "slice_time": 20,
        "drain_time": 25,
        "files": None,
        "max_file": 1 << 30,
        "max_result": 1 << 16,
        "show_errors": False,
        "capture_stderr": False,
        "capture_logging": None,
        "timestamp_output": False,
        "opentelemetry": False,
        "prometheus": False,
        "clock": None,
    },
    "start": {
        "path": EMPTY,
        "query": None,
        "*": ...,
        "method": "GET",
        "form": None,
        "json": None,
        "body": None,
        "headers": None,
        "as_current_user": True,
        "as_owner": False,
        "delay": 0,
        "expires": None,
        "retries": 0,
        "retry_delay": 10,
        "queue": "default",
        "scope": "",
        "owner": ...,
        "merge": "never",
        "error_timeout": None,
        "title": None,
        "key": None,
        "keep_request": False,
    },
    "status": {"job_id": EMPTY},
    "exists": {"job_id": EMPTY},
    "scope": {"job_id": EMPTY},
    "output": {"job_id": EMPTY, "offset": 0},
    "open_file": {"job_id": EMPTY},
    "find": FIND,
    "watch": {"job_id": EMPTY},
    "join": {"job_id": EMPTY, "timeout": None},
    "cancel": {"job_id": EMPTY},
    "run_again": {"job_id": EMPTY},
    "deliver": {"job_id": EMPTY, "transport": None},
    "delete": {"job_id": EMPTY},
    "delete_all": {"*": ..., "owner": EMPTY},
    "cleanup": {},
    "close": {},
    "status_url": {"job_id": EMPTY, "cancel": False, "absolute": False},
    "update": REPORT,
    "increment": {"amount": 1},
    "track": TRACK,
    "checkpoint": {"cursor": EMPTY},
    "continue_later": {"cursor": ...},
    "retry": RETRY,
    "drain_on_signals": {},
    "echo": {"text": EMPTY},
    "finish": FINISH,
    "fail": {"text": "", "*": ..., "job_id": None},
    "bind": {"function": EMPTY},
    "element": ELEMENT,
    "text_of": {"state": EMPTY, "lang": ""},
    "run_command": COMMAND,
    "arun_command": COMMAND,
    "background_only": {"action": EMPTY},
    "astatus": {"job_id": EMPTY},
    "aexists": {"job_id": EMPTY},
    "ascope": {"job_id": EMPTY},
    "aelement": ELEMENT,
    "afail": {"text": "", "*": ..., "job_id": None},
    "acleanup": {},
    "aclose": {},
    "aoutput": {"job_id": EMPTY, "offset": 0},
    "aopen_file": {"job_id": EMPTY},
    "adeliver": {"job_id": EMPTY, "transport": None},
    "acancel": {"job_id": EMPTY},
    "afind": FIND,
    "arun_again": {"job_id": EMPTY},
    "adelete": {"job_id": EMPTY},
    "adelete_all": {"*": ..., "owner": EMPTY},
    "aupdate": REPORT,
    "aincrement": {"amount": 1},
    "afinish": FINISH,
    "atrack": TRACK,
    "acheckpoint": {"cursor": EMPTY},
    "acontinue_later": {"cursor": ...},
    "aretry": RETRY,
    "awatch": {"job_id": EMPTY},
    "ajoin": {"job_id": EMPTY, "timeout": None},
}


def parameters(function: Callable[..., object]) -> dict[str, Any]:
    """Name → default, in order; ``"*"`` comes before the first keyword-only parameter."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in found:
            found["*"] = ...
        found[name] = EMPTY if parameter.default is parameter.empty else parameter.default
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_these_parameters(name: str) -> None:
    found = parameters(getattr(BackJob, name))
    assert list(found.items()) == list(METHODS[name].items())


def test_every_public_method_is_listed() -> None:
    public = {name for name, _ in inspect.getmembers(BackJob, inspect.isfunction) if not name.startswith("_")}
    assert public - {"note_error"} == METHODS.keys() - {"__init__"} | {"astart"}


@pytest.mark.parametrize("name", ["is_background", "job_id", "owner", "attempt", "cursor", "time_left"])
def test_what_an_action_reads_of_its_job_is_a_property(name: str) -> None:
    assert isinstance(inspect.getattr_static(BackJob, name), property)


def test_a_backjob_is_a_context_manager() -> None:
    assert hasattr(BackJob, "__enter__")
    assert hasattr(BackJob, "__exit__")
    assert inspect.iscoroutinefunction(BackJob.__aenter__)
    assert inspect.iscoroutinefunction(BackJob.__aexit__)


def test_the_async_twins_are_coroutines() -> None:
    twins = {name: getattr(BackJob, name) for name in METHODS if name.startswith("a") and name[1:] in METHODS}
    assert len(twins) == 25
    for name, twin in {**twins, "astart": BackJob.astart}.items():
        # atrack() checks its arguments at once and then returns an async iterator.
        assert inspect.iscoroutinefunction(twin) or inspect.isasyncgenfunction(twin) or name == "atrack", name
        if name != "astart":
            assert parameters(twin) == parameters(getattr(BackJob, name[1:])), name


def test_astart_has_every_option_of_start() -> None:
    from backjob.jobs import StartOptions

    start = parameters(BackJob.start)
    assert set(start) - {"path", "query", "*"} == StartOptions.__annotations__.keys()
    assert list(inspect.signature(BackJob.astart).parameters) == ["self", "path", "query", "options"]


@pytest.mark.parametrize(
    ("module", "name", "first"),
    [
        ("backjob.stores.sqlite", "SQLiteStore", ["path"]),
        ("backjob.transports.inprocess", "InProcessTransport", ["app", "threads", "*", "interface", "base_url"]),
        ("backjob.transports.sockets", "SocketTransport", ["base_url", "connect_to", "tls"]),
        ("backjob.signing", "MessageSigner", ["key", "*", "fallbacks", "carrier"]),
        ("backjob.wsgi", "BackJobMiddleware", ["app", "jobs", "status"]),
        ("backjob.wsgi", "StatusApp", ["jobs"]),
        ("backjob.stores", "open_store", ["url"]),
        ("backjob.testing", "immediate", ["jobs", "app"]),
        ("backjob.testing", "recorded", ["jobs"]),
        ("backjob.flask", "BackJob", ["app"]),
    ],
)
def test_the_first_parameters_of_each_part(module: str, name: str, first: list[str]) -> None:
    assert list(parameters(getattr(import_module(module), name)))[: len(first)] == first


def test_the_parts_of_an_adapter_are_these_and_have_these_members() -> None:
    assert sorted(adapters.__all__) == sorted(NAMES["backjob.adapters"])
    members = {
        Receiver: {
            "open": ["arrival", "listener_of", "*", "threads"],
            "run": ["opened", "body", "act"],
            "arun": ["opened", "body", "act"],
            "respond": ["arrival", "rest"],
            "arespond": ["arrival", "rest"],
            "leave": [],
            "aleave": [],
            "status_prefix": None,
        },
        ActionResponse: {
            "begin": ["status", "reason", "headers"],
            "write": ["chunk", "*", "is_whole"],
            "end": [],
            "may_block": None,
        },
    }
    for kind, expected in members.items():
        own = {name: getattr(kind, name) for name in expected}
        assert {
            name: None if isinstance(one, property) else list(parameters(one)) for name, one in own.items()
        } == expected
    assert [field.name for field in fields(Arrival)] == [
        *("request", "scheme", "address", "mount", "in_thread", "is_test_client")
    ]
    assert all(hasattr(ActionCall, name) for name in ("request", "caller", "job", "response"))


@pytest.mark.parametrize(
    ("protocol", "members"),
    [
        (
            Store,
            {
                "create": ["draft", "merge_key"],
                "get": ["job_id", "*", "body"],
                "output": ["job_id", "offset", "limit"],
                "change": ["job_id", "expect", "changes"],
                "report": ["job_id", "token", "report"],
                "take_due": ["lessee", "lease", "limit", "labels", "full", "*", "queues"],
                "beat": ["tokens", "lease", "alive"],
                "find": ["query"],
                "count": ["query"],
                "purge": ["completed_age", "ended_age", "labels"],
                "delete": ["job_id"],
                "close": [],
            },
        ),
        (Transport, {"capacity": None, "send": ["delivery"], "close": []}),
        (Delivery, {"job_id": None, "attempt": None, "deadline": None, "sign": []}),
        (
            Signer,
            {
                "sign": ["request", "grant"],
                "claims": ["request"],
                "verify": ["request", "now"],
                "derive": ["label"],
            },
        ),
        (Verified, {"grant": None, "request": None, "check": ["body"]}),
        (Clock, {"now": [], "monotonic": []}),
    ],
)
def test_a_protocol_has_exactly_these_members(protocol: type, members: dict[str, list[str] | None]) -> None:
    own = {name: member for name, member in vars(protocol).items() if not name.startswith("_")}
    found = {name: None if isinstance(member, property) else list(parameters(member)) for name, member in own.items()}
    assert found == members
