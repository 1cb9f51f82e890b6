"""Who may import whom. Imports point downwards, the core needs next to nothing, frameworks stay in their adapters."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "backjob"

# From the bottom up: a module may import what stands on lower lines. A package stands for all that is in it.
LAYERS = (
    ("errors",),
    ("model",),
    ("protocols",),
    ("clock", "lifecycle", "offload"),
    ("addresses", "capture", "carriers", "events", "keys", "outage", "page", "serving", "targets", "wire"),
    ("access", "feeds", "requests", "running", "sealing", "signing"),
    ("delivery", "reporter", "streams", "worker", "writeback"),
    ("action", "broadcast", "monitor"),
    ("watching",),
    ("jobs",),
    ("endpoints",),
    ("asgi", "wsgi"),
    ("stores", "transports"),
    ("console", "settings"),
    ("flask",),
    ("testing",),
    ("demo", "doctor", "opening"),
    ("django",),
    ("cli",),
    ("__main__",),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# These stand alone: beside their own kind's helpers they see these and nothing else of the package.
ALONE = {
    "stores": {"errors", "model", "protocols", "clock", "lifecycle"},
    "transports": {"errors", "model", "protocols", "clock", "wire", "addresses"},
}
STORE_HELPERS = {"values", "urls", "rows", "steps", "caches"}

CORE_PACKAGES = {"attr", "attrs", "h11", "typing_extensions"}
ADAPTER_PACKAGES = {
    "flask": {"flask", "werkzeug", "click"},
    "django": {"asgiref", "django", "django_tasks"},
    "testing": {"pytest", "hypothesis"},
    "demo": {"flask", "waitress"},
}
DRIVERS = {"stores.sql": {"sqlalchemy"}, "stores.redis": {"redis"}}
"""A store's family (its name up to an underscore) → the driver that only it imports."""
LAZY_PACKAGES = {"sealing": {"cryptography"}}
TYPING_PACKAGES = {"_typeshed"}
BANNED = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill"}
FRAMEWORKS = ("flask", "django", "starlette", "sqlalchemy", "redis", "cryptography", "sqlite3", "werkzeug", "pytest")


def modules() -> Iterator[tuple[str, str]]:
    """Every module's name below the package, and its source."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts), path.read_text(encoding="utf-8")


class When(Enum):
    """When an import happens."""

    AT_ONCE = "at its top"
    LAZILY = "in a function"
    NEVER = "for type checkers"


def imports(module: str, tree: ast.Module) -> Iterator[tuple[str, When]]:
    """What a module imports, by full name, and when."""
    when: dict[ast.AST, When] = {}
    for outer in ast.walk(tree):
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef):
            when |= dict.fromkeys(ast.walk(outer), When.LAZILY)
        elif isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING":
            when |= {node: When.NEVER for statement in outer.body for node in ast.walk(statement)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, when.get(node, When.AT_ONCE)
        elif isinstance(node, ast.ImportFrom):
            package = ["backjob", *module.split(".")][: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            # "from backjob import x" may mean a module.
            for name in node.names:
                yield (f"{base}.{name.name}" if base in ("backjob", *KINDS) else base), when.get(node, When.AT_ONCE)


KINDS = tuple(f"backjob.{kind}" for kind in ALONE)


def faults(module: str, source: str) -> list[str]:
    """What breaks the rules in one module."""
    tree = ast.parse(source)
    found = [f"line {node.lineno}: assert vanishes under -O: raise an error" for node in ast.walk(tree)
             if isinstance(node, ast.Assert) and not module.startswith("testing.")]  # fmt: skip
    for name, when in imports(module, tree):
        ours = name.partition(".")[0] == "backjob"
        fault = _package_fault(module, name) if ours else _foreign_fault(module, name, when)
        if fault:
            found.append(fault)
    return found


def _package_fault(module: str, name: str) -> str | None:
    importer, _, within = module.partition(".")
    target, _, target_within = name.removeprefix("backjob").lstrip(".").partition(".")
    if importer == "__init__" or within == "__init__" or target.startswith("__version"):
        return None
    if target not in RANKS:
        return f"imports {name}, which has no place in LAYERS: add it to the line where it belongs"
    if target == importer:
        return _sibling_fault(importer, within, target_within)
    if importer in ALONE and target not in ALONE[importer]:
        return f"imports {name}; a module of {importer} stands alone, on {sorted(ALONE[importer])}"
    if RANKS[target] >= RANKS.get(importer, len(LAYERS)):
        return f"imports {name}, which is not below it in LAYERS"
    return None


def _sibling_fault(kind: str, within: str, target: str) -> str | None:
    family = within.partition("_")[0]
    if kind == "stores" and target.partition(".")[0] not in STORE_HELPERS and target.partition("_")[0] != family:
        return f"a store imports another one's {target}"
    if kind == "transports" and not target.startswith("_"):
        return f"a transport imports another one, {target}"
    return None


def _foreign_fault(module: str, name: str, when: When) -> str | None:
    top, layer = name.partition(".")[0], module.partition(".")[0]
    if top in BANNED:
        return f"imports {name}, which runs whatever it reads"
    family = module.partition("_")[0]
    allowed = CORE_PACKAGES | ADAPTER_PACKAGES.get(layer, set()) | DRIVERS.get(family, set())
    if when is When.LAZILY:
        allowed |= LAZY_PACKAGES.get(layer, set())
    if when is When.NEVER:
        allowed |= TYPING_PACKAGES
    if top not in sys.stdlib_module_names and top not in allowed:
        return f"imports {name} {when.value}; allowed there beside the standard library: {sorted(allowed)}"
    return None


SOURCES = dict(modules())


def test_the_package_is_found() -> None:
    assert {"errors", "model", "endpoints", "__init__"} <= SOURCES.keys()


def test_every_module_has_its_layer() -> None:
    layers = {name.partition(".")[0] for name in SOURCES} - {"__init__"}
    missing = sorted(layers - RANKS.keys())
    assert not missing, (
        f"give these a line in LAYERS, above all that they import and below all that import them: {missing}"
    )


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_keeps_to_the_rules(module: str) -> None:
    assert faults(module, SOURCES[module]) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model", "from backjob.protocols import Store"),
        ("model", "from .protocols import Store"),
        ("model", "from . import protocols"),
        ("model", "from backjob import protocols"),
        ("model", "import backjob.jobs"),
        ("monitor", "def f():\n    from backjob.jobs import BackJob"),
        ("monitor", "from backjob.action import run"),
        ("jobs", "from backjob.stores.sqlite import SQLiteStore"),
        ("jobs", "from backjob.nowhere import x"),
        ("wsgi", "from backjob.flask import BackJob"),
        ("stores.sqlite", "from backjob.stores.memory import MemoryStore"),
        ("stores.sqlite", "from backjob.stores import memory"),
        ("stores.sqlite", "from . import memory"),
        ("stores.sqlite", "from backjob.wire import encode"),
        ("stores.sqlite", "from backjob.transports.sockets import SocketTransport"),
        ("transports.sockets", "from backjob.stores.memory import MemoryStore"),
        ("transports.sockets", "from backjob.transports.other import Other"),
        ("transports.sockets", "from backjob.lifecycle import overdue"),
        ("jobs", "import flask"),
        ("jobs", "def f():\n    import flask"),
        ("flask", "import django"),
        ("django.middleware", "from flask import g"),
        ("sealing", "from cryptography.fernet import Fernet"),
        ("stores.sqlite", "import sqlalchemy"),
        ("stores.sql", "import redis"),
        ("signing", "def f():\n    from cryptography.fernet import Fernet"),
        ("wsgi", "from _typeshed.wsgi import StartResponse"),
        ("wsgi", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import flask"),
        ("model", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from backjob.jobs import BackJob"),
        ("stores.redis", "import pickle"),
        ("testing.stores", "from pickle import loads"),
        ("lifecycle", "assert True"),
    ],
)
def test_a_breach_is_seen(module: str, source: str) -> None:
    assert len(faults(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jobs", "import json, attrs, h11\nfrom backjob.model import Job\nfrom typing_extensions import Self"),
        ("monitor", "from backjob import lifecycle"),
        ("monitor", "from .lifecycle import overdue"),
        ("sealing", "def f():\n    from cryptography.fernet import Fernet"),
        (
            "stores.sqlite",
            "import sqlite3\nfrom backjob.stores.sqlite_schema import x\nfrom backjob.stores import values",
        ),
        ("transports.sockets", "from backjob.transports._engine import x\nfrom backjob.wire import y"),
        ("flask", "import flask\nfrom backjob.stores import open_store\nfrom backjob.wsgi import BackJobMiddleware"),
        ("testing.stores", "import pytest\nassert True"),
        ("wsgi", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from _typeshed.wsgi import StartResponse"),
        ("stores.sql_schema", "from sqlalchemy import Table"),
        ("stores.redis", "import redis"),
        ("stores.__init__", "def f():\n    from backjob.stores.sqlite import SQLiteStore"),
        ("cli", "from backjob import __version__"),
    ],
)
def test_what_is_allowed_is_let_pass(module: str, source: str) -> None:
    assert faults(module, source) == []


def test_importing_the_package_loads_no_framework_and_no_driver() -> None:
    program = f"import backjob, sys; print(*[name for name in {FRAMEWORKS!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == []
