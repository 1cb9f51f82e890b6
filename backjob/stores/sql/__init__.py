"""Jobs in PostgreSQL, MariaDB or MySQL, through SQLAlchemy Core."""

from backjob.stores.sql.store import SQLStore, from_url, metadata

__all__ = ["SQLStore", "from_url", "metadata"]
