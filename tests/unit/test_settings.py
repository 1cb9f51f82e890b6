"""Settings: unknown names get a suggestion, errors name the setting, and every value reaches the `BackJob`."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from backjob import BackJob
from backjob.errors import BackJobError, InvalidRequest
from backjob.files import DirectoryFiles, MemoryFiles
from backjob.jobs import engine_of
from backjob.lifecycle import claimed
from backjob.model import Draft, Request, Status
from backjob.protocols import Capability, Store, lacks
from backjob.settings import Settings
from backjob.stores.cached import CachedStore
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.transports.sockets import SocketTransport
from tests.unit.core import KEY


def build(values: dict[str, object], **options: Any) -> BackJob:
    settings = Settings.of({"KEY": KEY, "STORE": "memory:", **values})
    return settings.build(
        BackJob, package="backjob.test", application="shop", default_store=lambda: "memory:", **options
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BACKJOB_BASEURL", "BACKJOB_BASE_URL"),
        ("BACKJOB_ERROR_TIMOUT", "BACKJOB_ERROR_TIMEOUT"),
        ("BACKJOB_max_body", "BACKJOB_MAX_BODY"),
        ("BACKJOB_KEY_FALLBACK", "BACKJOB_KEY_FALLBACKS"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name: str, meant: str) -> None:
    with pytest.raises(InvalidRequest, match=f"did you mean {meant}\\?") as caught:
        Settings.of({name: 1}, prefix="BACKJOB_")
    assert caught.value.argument == name


def test_for_a_name_without_a_match_all_settings_are_listed() -> None:
    with pytest.raises(InvalidRequest, match="BACKJOB_STORE"):
        Settings.of({"BACKJOB_XYZZY": 1}, prefix="BACKJOB_")


WRONG: dict[tuple[str, ...], list[object]] = {
    (
        *("ERROR_TIMEOUT", "DELIVERY_TIMEOUT", "COMPLETED_RETENTION_DAYS", "RETENTION_DAYS"),
        *("RUN_LEASE", "SLICE_TIME", "DRAIN_TIME"),
    ): [*("nan", float("nan"), -1, "-0.5", "inf", True, [], "soon", "", 10**400)],
    ("MAX_OUTPUT", "MAX_BODY", "MAX_HEADERS", "MAX_DEPTH", "MAX_CHAIN", "STREAMS", "MAX_RUNNING"): [
        "nan",
        -1,
        "1.5",
        1.5,
        True,
        "",
        [],
    ],
    ("SEAL", "CREATE_TABLE"): ["maybe", "", 2, []],
    ("BASE_URL", "CONNECT_TO", "STORE", "TABLE_NAME", "USER_AGENT", "STATUS_PREFIX"): ["", 5, []],
    ("CACHE",): ["", "shop", ":cache", "shop.caches:", 5, {}, object()],
    ("CACHE_PREFIX",): ["", 5],
    ("KEY",): [5],
    ("MERGE_COOKIES", "FORWARD_HEADERS", "CREDENTIAL_HEADERS"): [5, [5], "a=b", ["a b"], b"x"],
    ("FORWARD_HEADERS", "CREDENTIAL_HEADERS"): ["Host", "X-Forwarded-For"],
    ("FORWARD_HEADERS",): ["Cookie"],
    ("DELIVER",): [5, object()],
    ("KEY_FALLBACKS",): [5, [5]],
    ("PUBLIC_URL",): ["", 5, "shop.example", "ftp://shop.example", "https://shop.example?a=b"],
    ("TRUSTED_ORIGINS",): [5, [5], "*", "null", "https://*.shop.example", "https://a.example/path", "a.example"],
    ("QUEUES",): [
        "",
        "exports",
        "[]",
        5,
        [],
        {"exports": 2},
        {"exports": {"max_running": 0}},
        {"exports": {"maximum": 2}},
    ],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for names, values in WRONG.items() for name in names for value in values]
)
def test_the_error_for_an_invalid_value_names_its_setting(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Settings.of({f"BACKJOB_{name}": value}, prefix="BACKJOB_")
    assert caught.value.argument == f"BACKJOB_{name}"


def test_values_are_parsed_from_text_and_other_names_are_ignored() -> None:
    settings = Settings.of(
        {
            "BACKJOB_ERROR_TIMEOUT": "1.5",
            "BACKJOB_MAX_BODY": "100",
            "BACKJOB_SEAL": "Yes",
            "BACKJOB_STREAMS": "20",
            "BACKJOB_CREATE_TABLE": False,
            "BACKJOB_KEY_FALLBACKS": "a,b,",
            "BACKJOB_CREDENTIAL_HEADERS": "HTTP_X_USER, X-Api-Key,Cookie",
            "BACKJOB_FORWARD_HEADERS": ["X-Tenant"],
            "BACKJOB_MERGE_COOKIES": "sid",
            "BACKJOB_STORE": None,
            "BACKJOB_MAX_RUNNING": "4",
            "BACKJOB_QUEUES": '{"exports": {"max_running": 2}}',
            "BACKJOB_RUN_LEASE": "9",
            "OTHER": object(),
        },
        prefix="BACKJOB_",
    )
    assert (settings.error_timeout, settings.max_body, settings.seal, settings.create_table) == (1.5, 100, True, False)
    assert settings.credential_headers == ("X-USER", "X-Api-Key")
    assert (settings.forward_headers, settings.merge_cookies) == (("X-Tenant",), ("sid",))
    assert (settings.key_fallbacks, settings.store, settings.streams) == (("a", "b"), None, 20)
    assert (settings.max_running, settings.run_lease, settings.queues) == (4, 9.0, {"exports": {"max_running": 2}})


def test_no_repr_and_no_error_shows_a_secret() -> None:
    settings = Settings.of({"KEY": KEY, "KEY_FALLBACKS": [KEY[::-1]]})
    assert KEY not in repr(settings)
    assert KEY[::-1] not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:hunter2@127.0.0.1/jobs",
        "postgresql://app:p[hunter2@127.0.0.1/jobs",
        "postgresql://app:p@hunter2@127.0.0.1/jobs",
        "postgresql://app:p?hunter2@127.0.0.1/jobs",
        "postgresql://app:p?a=hunter2@127.0.0.1/jobs",
        "postgresql://app:p?hunter2=1@127.0.0.1/jobs",
        "postgresql://app:p?a=1&a=hunter2@127.0.0.1/jobs",
        "postgresql://app:p#hunter2@127.0.0.1/jobs",
        "postgresql://app:p/hunter2@127.0.0.1/jobs",
        "postgresql://app:hunter2\u2100@127.0.0.1/jobs",
        "redis://:hunter2%zz@127.0.0.1:x/0",
        "redis://:p/hunter2@127.0.0.1/0",
        "redis://:p?hunter2@127.0.0.1/0",
        "oracle://app:hunter2@127.0.0.1/jobs",
        "sqlite://app:hunter2@jobs.db",
    ],
)
def test_no_repr_and_no_error_shows_the_password_of_a_url(url: str) -> None:
    assert "hunter2" not in repr(Settings.of({"STORE": url}))
    for values in ({"STORE": url}, {"BASE_URL": url}, {"BASE_URL": "http://a", "CONNECT_TO": url}, {"CACHE": url}):
        shown = ""
        try:
            settings = Settings.of({"KEY": KEY, "STORE": "memory:", **values})
            shown = repr(settings)
            settings.build(BackJob, package="test", application="test", default_store=lambda: "memory:").close()
        except BackJobError as error:
            shown += "".join(traceback.format_exception(error))
        assert "hunter2" not in shown, values


def test_the_repr_shows_a_url_without_a_password() -> None:
    shown = repr(Settings.of({"STORE": "sqlite:///jobs.db", "BASE_URL": "https://shop.example/app"}))
    assert "sqlite:///jobs.db" in shown
    assert "https://shop.example/app" in shown


def test_settings_reach_the_backjob() -> None:
    jobs = build(
        {
            "BASE_URL": "http://127.0.0.1:8000",
            "STATUS_PREFIX": "/jobs",
            "USER_AGENT": "Jobs/1",
            "MAX_BODY": 5,
            "MAX_HEADERS": 99,
        }
    )
    assert isinstance(jobs.transport, SocketTransport)
    assert jobs.status_prefix == "/jobs"
    job_id = jobs.start("/a", as_current_user=False)
    request = jobs.store.get(job_id)
    assert request is not None
    assert request.request is not None
    assert request.request.header("user-agent") == "Jobs/1"
    with pytest.raises(InvalidRequest):
        jobs.start("/a", method="POST", body=b"123456", as_current_user=False)
    with pytest.raises(InvalidRequest, match="MAX_HEADERS=99"):
        jobs.start("/a", headers={"X-A": "x" * 99}, as_current_user=False)
    jobs.close()


def test_without_a_base_url_the_address_is_learnt_later() -> None:
    assert build({}).transport is None
    with pytest.raises(InvalidRequest) as caught:
        build({"CONNECT_TO": "unix:/run/app"})
    assert caught.value.argument == "CONNECT_TO"


def test_a_key_or_a_secret_to_derive_one_is_required() -> None:
    settings = Settings.of({"STORE": "memory:"})
    common: dict[str, Any] = {"package": "backjob.test", "application": "shop", "default_store": lambda: "memory:"}
    with pytest.raises(InvalidRequest) as caught:
        settings.build(BackJob, **common)
    assert caught.value.argument == "KEY"
    with pytest.raises(InvalidRequest) as caught:
        settings.build(BackJob, secret="short", **common)
    assert caught.value.argument == "SECRET_KEY"
    jobs = settings.build(BackJob, secret=KEY, secret_fallbacks=["weak", KEY[::-1]], **common)
    assert len(jobs.signer.derive("x")) == 2


# --- a cache ------------------------------------------------------------------------------------------------------------


class Notebook:
    """A cache with a secret in its repr."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def get(self, key: str, /) -> str | None:
        return self.entries.get(key)

    def set(self, key: str, value: str, timeout: int, /) -> None:
        self.entries[key] = value

    def add(self, key: str, value: str, timeout: int, /) -> bool:
        return self.entries.setdefault(key, value) is value

    def delete(self, key: str, /) -> None:
        self.entries.pop(key, None)

    def __repr__(self) -> str:
        return "Notebook(password='hunter2')"


notebook = Notebook()
"""A cache that settings refer to by name."""


@pytest.mark.parametrize("named", [True, False])
def test_a_cache_goes_in_front_of_the_store(named: bool) -> None:
    notebook.entries.clear()
    jobs = build({"CACHE": f"{__name__}:notebook" if named else notebook, "CACHE_PREFIX": "shop-jobs:"})
    assert isinstance(jobs.store, CachedStore)
    a_running_job(engine_of(jobs).store)
    assert jobs.status("job").status is Status.IN_PROGRESS
    assert notebook.entries
    assert all(key.startswith("shop-jobs:") for key in notebook.entries)
    jobs.close()


def test_a_cache_goes_in_front_of_a_store_object() -> None:
    clock, cache = FakeClock(), Notebook()
    store = MemoryStore(clock=clock)
    jobs = build({"CACHE": cache}, store=store, clock=clock)
    a_running_job(jobs.store)
    assert jobs.store.get("job") is not None
    assert store.get("job") is not None
    assert all(key.startswith("backjob:") for key in cache.entries)
    assert cache.entries
    jobs.close()


def test_jobs_can_be_kept_in_the_cache_alone() -> None:
    cache = Notebook()
    jobs = build({"STORE": "cache:", "CACHE": cache, "CACHE_PREFIX": "alone:"})
    assert Capability.RETENTION in lacks(jobs.store)
    a_running_job(jobs.store)
    assert any(key.startswith("alone:") for key in cache.entries)
    jobs.close()


def test_no_repr_and_no_error_shows_a_secret_of_the_cache() -> None:
    settings = Settings.of({"CACHE": Notebook()})
    assert "hunter2" not in repr(settings)
    jobs = build({"CACHE": Notebook()})
    assert "hunter2" not in repr(jobs.store)
    jobs.close()
    with pytest.raises(InvalidRequest) as caught:
        build({"CACHE": Notebook(), "CACHE_PREFIX": "a b"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"CACHE_PREFIX": "jobs:"}, "CACHE_PREFIX"),
        ({"CACHE": Notebook(), "CACHE_PREFIX": "with a space"}, "CACHE_PREFIX"),
        ({"CACHE": Notebook(), "CACHE_PREFIX": "with a space", "STORE": "cache:"}, "CACHE_PREFIX"),
        ({"CACHE": f"{__name__}:nothing"}, "CACHE"),
        ({"CACHE": f"{__name__}:build"}, "CACHE"),
        ({"CACHE": "no_such_module_anywhere:cache"}, "CACHE"),
        ({"CACHE": Notebook(), "STORE": "cache:", "TABLE_NAME": "work"}, "store"),
        ({"STORE": "cache:"}, "store"),
    ],
)
def test_the_error_for_an_invalid_cache_names_its_setting(values: dict[str, object], name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        build(values)
    assert caught.value.argument == name


def test_the_store_is_closed_if_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="CACHE_PREFIX"):
        build({"STORE": f"sqlite:///{tmp_path}/jobs.db", "CACHE": Notebook(), "CACHE_PREFIX": "a b"})


def a_running_job(store: Store) -> None:
    store.create(Draft(id="job", request=Request("GET", "/work")))
    assert store.change("job", *claimed("token", run=1, lease=18.0)) is not None


KEPT = MemoryFiles()
"""What ``FILES`` names in a test."""


def files_for(value: object) -> object:
    with build({"FILES": value}) as jobs:
        return engine_of(jobs).files


def test_files_is_a_directory_an_object_or_its_name(tmp_path: Path) -> None:
    for value in (str(tmp_path / "files"), tmp_path / "files"):
        files = files_for(value)
        assert isinstance(files, DirectoryFiles)
        assert files.directory == tmp_path / "files"
    assert files_for(KEPT) is KEPT
    assert files_for(f"{__name__}:KEPT") is KEPT


@pytest.mark.parametrize("value", ["", 5, object(), True])
def test_what_is_no_place_for_files_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="FILES: must be a directory"):
        files_for(value)


def test_a_name_that_leads_to_no_place_for_files_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"FILES: .* has no methods"):
        files_for(f"{__name__}:KEY")
    with pytest.raises(InvalidRequest, match="FILES"):
        files_for(f"{__name__}:MISSING")


@pytest.mark.parametrize("value", [-1, 1.5, True, "many", (1 << 50) + 1])
def test_a_size_that_no_file_can_have_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"MAX_FILE|max_file"):
        build({"MAX_FILE": value}).close()


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("given", "shown"), [({}, None), ({"SHOW_ERRORS": "yes"}, True), ({"SHOW_ERRORS": False}, False)]
)
def test_errors_are_shown_as_set_or_while_debugging(debug: bool, given: dict[str, object], shown: bool | None) -> None:
    with build(given, debug=debug) as jobs:
        assert engine_of(jobs).show_errors is (debug if shown is None else shown)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RUN_LEASE", "18s", "RUN_LEASE: must be a number, 0 or more, not '18s'"),
        ("SLICE_TIME", True, "SLICE_TIME: must be a number, 0 or more, not True"),
        ("DRAIN_TIME", 10**400, "DRAIN_TIME: must be a number, 0 or more, not 1000"),
        ("MAX_RUNNING", "1.5", "MAX_RUNNING: must be a whole number, 0 or more, not '1.5'"),
        ("MAX_OUTPUT", "1 MB", "MAX_OUTPUT: must be a whole number of bytes, 0 or more, not '1 MB'"),
    ],
)
def test_an_invalid_number_is_shown_with_what_is_allowed(name: str, value: object, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Settings.of({name: value})
    assert str(caught.value).startswith(words)
