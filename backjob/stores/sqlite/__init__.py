"""Jobs in an SQLite file."""

from backjob.stores.sqlite.store import SQLiteStore, from_url

__all__ = ["SQLiteStore", "from_url"]
