"""``python -m backjob`` is the ``backjob`` command."""

from __future__ import annotations

import sys

from backjob.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
