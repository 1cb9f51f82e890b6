"""Start a route of your own web application in the background, by a request to itself, and watch its progress."""

from __future__ import annotations

__version__ = "0.1.0"
