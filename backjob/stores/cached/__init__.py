"""A cache in front of a store, for statuses that are read often."""

from backjob.stores.cached.store import CachedStore

__all__ = ["CachedStore"]
