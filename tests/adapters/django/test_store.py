"""The store of the ORM keeps the contract of every store, on each database."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connections

from backjob.django.models import Job, Output
from backjob.django.store import DjangoStore
from backjob.protocols import Clock, Store
from backjob.testing import StoreContract


class _Tidy:
    """A store that leaves no connection behind in the threads of a race: at a request's end Django would close them."""

    def __init__(self, store: DjangoStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return method(*arguments, **options)
            finally:
                if threading.current_thread() is not threading.main_thread():
                    connections[self._store.using].close()

        return call if callable(method) else method


class Contract(StoreContract):
    alias: str
    examples, steps, race_examples = 10, 20, 5

    def make_store(self, clock: Clock) -> Store:
        Output.objects.using(self.alias).all().delete()
        Job.objects.using(self.alias).all().delete()
        store: Any = _Tidy(DjangoStore(self.alias, clock=clock))
        tidy: Store = store
        return tidy


@pytest.mark.usefixtures("sqlite")
class TestOnSQLite(Contract):
    alias = "default"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("postgresql")
class TestOnPostgreSQL(Contract):
    alias = "postgresql"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("mariadb")
class TestOnMariaDB(Contract):
    alias = "mariadb"
