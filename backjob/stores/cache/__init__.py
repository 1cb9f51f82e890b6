"""A store that keeps jobs in a cache only, for jobs that may be lost."""

from backjob.stores.cache.store import CacheStore, from_url

__all__ = ["CacheStore", "from_url"]
