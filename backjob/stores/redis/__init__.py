"""Jobs in Redis or Valkey."""

from backjob.stores.redis.store import RedisStore, from_url

__all__ = ["RedisStore", "from_url"]
