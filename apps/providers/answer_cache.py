"""The response cache as one process uses it: look-ups in batches and never for long, writes that nobody waits for.

A cache that is broken, slow or locked is a miss, and is left alone for a moment. Until an agent uses it, it costs
nothing: no connection, no query.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from apps.providers import answers, cache_usage
from apps.providers.answers import Ask, Found, Kept, NewAnswer
from apps.providers.cache_usage import Counts, Key, Tally
from apps.providers.models import Cache
from portal.batching import Batcher, DatabaseThread

log = structlog.get_logger(__name__)

PATIENCE_S = 0.25
"""How long a look-up may take."""
LEFT_ALONE_S = 2.0
"""How long nothing is looked up after one took longer."""
FIND_INTERVAL_S = 0.01
KEEP_INTERVAL_S = 0.1
FLUSH_S = 5.0
PRUNE_S = 60.0


class AnswerCache:
    """For one event loop. ``await aclose()`` at the end."""

    def __init__(
        self, *, now: Callable[[], dt.datetime] = timezone.now, patience_s: float = PATIENCE_S, flush_s: float = FLUSH_S
    ) -> None:
        self._now = now
        self._patience_s = patience_s
        self._flush_s = flush_s
        # A look-up must not wait behind the writing of answers.
        self._reads, self._writes = DatabaseThread("answers"), DatabaseThread("answers-kept")
        self._finder: Batcher[Ask, Found | None] = Batcher(
            self._reads, lambda asks: answers.find(asks, now=self._now()), interval_s=FIND_INTERVAL_S
        )
        self._keeper: Batcher[NewAnswer, None] = Batcher(self._writes, self._keep, interval_s=KEEP_INTERVAL_S)
        self._flights: dict[str, asyncio.Future[str | None]] = {}
        self._tally = Tally()
        self._flusher: asyncio.Task[None] | None = None
        self._left_alone_until = self._pruned_at = float("-inf")

    async def find(self, key: str, tenant_id: uuid.UUID, *, younger_than_s: float) -> Found | None:
        """The answer of a key that is young enough, if it is to be had within a moment."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._left_alone_until:
            self.count(tenant_id, failures=1)
            return None
        not_before = self._now() - dt.timedelta(seconds=younger_than_s)
        pending = self._finder.submit(Ask(key, tenant_id, not_before))
        try:
            async with asyncio.timeout(self._patience_s):
                return await pending
        except TimeoutError:
            self._left_alone_until = loop.time() + LEFT_ALONE_S
            log.warning("response_cache_slow", patience_s=self._patience_s)
        except Exception as error:  # whatever is wrong with the cache, the model can be asked
            log.warning("response_cache_failed", error=str(error).split("\n", 1)[0])
        self.count(tenant_id, failures=1)
        return None

    def keep(self, answer: NewAnswer) -> None:
        """Has an answer kept, soon."""
        if len(answer.text) <= answers.LONGEST:
            self._keeper.submit(answer).add_done_callback(_unheeded)

    def count(self, tenant_id: uuid.UUID, *, used: str = "", **what: int) -> None:
        """Counts what happened (see :class:`apps.providers.cache_usage.Counts`); ``used`` is the key of a hit."""
        self._tally.add(Cache.RESPONSES, tenant_id, **what)
        if used:
            self._tally.touched[used] += 1
        self._flush_soon()

    # -- calls that are the same at the same time share one ------------------------------------------------------------

    def flight(self, key: str) -> asyncio.Future[str | None] | None:
        """What a call under way with this key will answer; None when there is none."""
        return self._flights.get(key)

    def take_off(self, key: str) -> asyncio.Future[str | None]:
        """A call with this key begins; ``land`` its flight."""
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        return flight

    def land(self, key: str, flight: asyncio.Future[str | None], answer: str | None) -> None:
        """The call ended, with an answer that others may have, or without one."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.done():
            flight.set_result(answer)

    def hear(self) -> None:
        """Answers were ordered to be forgotten: nobody joins a call that began before. Runs in the event loop."""
        self._flights.clear()

    # -- writing -------------------------------------------------------------------------------------------------------

    def _keep(self, items: Sequence[NewAnswer]) -> list[None]:
        kept: Kept = answers.keep(items, now=self._now())
        counts: dict[Key, Counts] = {
            (Cache.RESPONSES, tenant_id): Counts(stored=stored, evicted=kept.evicted.get(tenant_id, 0))
            for tenant_id, stored in kept.stored.items()
        }
        cache_usage.add(counts, now=self._now())
        return [None] * len(items)

    def _flush_soon(self) -> None:
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush_later())

    async def _flush_later(self) -> None:
        try:
            while self._tally:
                await asyncio.sleep(self._flush_s)
                await self.flush()
        finally:
            self._flusher = None

    async def flush(self) -> None:
        """Writes what was counted, and removes what is over. A database that is away loses the counts."""
        counts, touched = self._tally.take()
        now = self._now()

        def work() -> None:
            cache_usage.add(counts, now=now)
            if touched:
                answers.touch(touched, now=now)
            if prunes:
                answers.prune(now=now)

        loop = asyncio.get_running_loop()
        prunes = loop.time() - self._pruned_at > PRUNE_S
        try:
            await self._writes.run(work)
            if prunes:
                self._pruned_at = loop.time()
        except (DatabaseError, InterfaceError) as error:
            log.warning("cache_usage_lost", error=str(error).split("\n", 1)[0])

    async def aclose(self) -> None:
        """Writes what it can within a moment, and ends."""
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * FLUSH_S):
                await self._keeper.drain()
                if self._tally:
                    await self.flush()
                await self._finder.drain()
        for thread in (self._reads, self._writes):
            with suppress(DatabaseError, InterfaceError):
                await thread.aclose()


def _unheeded(done: asyncio.Future[Any]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.warning("cached_answer_not_kept", error=str(error).split("\n", 1)[0])
