"""What import-linter's contracts (in pyproject.toml) can't see: what an import loads at run time."""

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
