"""The optional Redis cache. A cache that is down is a slow cache, never an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


class ForgivingRedisCache(RedisCache):
    """Django's Redis cache; when the server cannot be reached, reads miss and writes do nothing."""

    def _try(self, call: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return call()
        except (RedisError, OSError) as error:
            log.warning("cache_down", error=str(error))
            return otherwise

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return self._try(lambda: super(ForgivingRedisCache, self).get(key, default, version), default)

    def set(self, *args: Any, **kwargs: Any) -> None:
        self._try(lambda: super(ForgivingRedisCache, self).set(*args, **kwargs), None)

    def add(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._try(lambda: super(ForgivingRedisCache, self).add(*args, **kwargs), True))

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._try(lambda: super(ForgivingRedisCache, self).delete(*args, **kwargs), False))

    def get_many(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._try(lambda: super(ForgivingRedisCache, self).get_many(*args, **kwargs), {})
        return found

    def set_many(self, *args: Any, **kwargs: Any) -> list[str]:
        failed: list[str] = self._try(lambda: super(ForgivingRedisCache, self).set_many(*args, **kwargs), [])
        return failed
