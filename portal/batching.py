"""Many small writes of an event loop, gathered into few transactions on one database thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError, connection

T = TypeVar("T")
R = TypeVar("R")
log = structlog.get_logger(__name__)

LOST = (OperationalError, InterfaceError)
FEW_ITEMS = 2


class DatabaseThread:
    """A thread with a database connection of its own, so that an event loop never waits for the database."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[[], R]) -> R:
        """Runs ``work`` on the thread. A connection that was lost is closed, so that the next call makes a new one."""

        def guarded() -> R:
            try:
                return work()
            except LOST:
                connection.close()
                raise

        return await asyncio.get_running_loop().run_in_executor(self._pool, guarded)

    async def aclose(self) -> None:
        """Closes the thread's connection and ends it."""
        await self.run(lambda: connection.close())  # looked up there: each thread has its own
        self._pool.shutdown()


class Batcher(Generic[T, R]):
    """Gathers items and hands them to ``flush`` in batches, at most one each ``interval_s`` seconds.

    The first item after a pause goes at once, so a quiet system adds no delay and a busy one makes large batches;
    ``enough_items`` go without waiting for the interval to end. After a batch of one or two the next may go after
    ``quiet_s`` already: where so little comes in, nothing is saved by waiting for more.
    ``flush(items)`` answers with one result per item, in order, and must be safe to repeat: when the connection is
    lost the same batch is tried again until it succeeds. A batch the database rejects is tried item by item, so that
    one bad item does not take others with it; its own future gets the error.
    """

    def __init__(
        self,
        thread: DatabaseThread,
        flush: Callable[[Sequence[T]], Sequence[R]],
        *,
        interval_s: float,
        quiet_s: float | None = None,
        enough_items: int = 64,
        max_items: int = 500,
        retry_s: float = 0.5,
    ) -> None:
        self._thread = thread
        self._flush = flush
        self._interval_s = interval_s
        self._quiet_s = interval_s if quiet_s is None else quiet_s
        self._enough_items = enough_items
        self._enough = asyncio.Event()
        self._max_items = max_items
        self._retry_s = retry_s
        self._items: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None
        self._not_before = 0.0

    def submit(self, item: T) -> asyncio.Future[R]:
        """Adds an item; a future of its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._items.append((item, future))
        if len(self._items) >= self._enough_items:
            self._enough.set()
        if self._task is None:
            self._task = loop.create_task(self._run())
        return future

    async def drain(self) -> None:
        """Waits until everything submitted so far has been written."""
        while self._task is not None:
            self._not_before = 0.0
            self._enough.set()
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._items:
                if (pause := self._not_before - loop.time()) > 0:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await self._enough.wait()
                self._enough.clear()
                batch, self._items = self._items[: self._max_items], self._items[self._max_items :]
                self._not_before = loop.time() + (self._quiet_s if len(batch) <= FEW_ITEMS else self._interval_s)
                await self._write(batch)
        finally:
            self._task = None

    async def _write(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        items = [item for item, _ in batch]
        while True:
            try:
                results: Sequence[Any] = await self._thread.run(lambda: self._flush(items))
                break
            except LOST as error:
                log.warning("database_lost", waiting=len(items), error=str(error).splitlines()[0])
                await asyncio.sleep(self._retry_s)
            except (DatabaseError, ValueError, TypeError) as error:
                if len(batch) > 1:
                    for one in batch:
                        await self._write([one])
                    return
                log.exception("write_rejected", item=repr(items[0])[:500])
                if not batch[0][1].done():
                    batch[0][1].set_exception(error)
                return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
