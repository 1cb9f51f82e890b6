"""Rules for modules that import-linter (in pyproject.toml) can't check: what an import loads at run time, and how long a module is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FRAMEWORKS = (
    "flask", "django", "starlette", "sqlalchemy", "redis", "cryptography", "sqlite3", "werkzeug", "pytest",
    "opentelemetry", "prometheus_client", "structlog", "sentry_sdk", "backjob.telemetry",
    "asyncio",  # takes a third of the time of importing this package
)  # fmt: skip


def test_importing_the_package_loads_no_framework_and_no_driver() -> None:
    program = f"import backjob, sys; print(*[name for name in {FRAMEWORKS!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == []


def test_no_module_has_more_than_400_lines() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "backjob").rglob("*.py")}
    assert len(lines) > 100
    assert {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > 400} == {}
