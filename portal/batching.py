"""Many small writes of an event loop, gathered into few transactions on one database thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from portal.rate import Rate

T = TypeVar("T")
R = TypeVar("R")
log = structlog.get_logger(__name__)

LOST = (OperationalError, InterfaceError)
FEW_PER_S = 200.0
MANY_PER_S = 1000.0
"""Items a second from which on a prompt ``Batcher`` makes pauses, and from which on they are at their longest."""


class DatabaseThread:
    """A thread with a database connection of its own, so that an event loop never waits for the database."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[[], R]) -> R:
        """Runs ``work`` on the thread. A connection that was lost is closed, so that the next call makes a new one."""
        return await asyncio.wrap_future(self.start(work))

    def start(self, work: Callable[[], R]) -> Future[R]:
        """As ``run``, from anywhere and without waiting."""

        def guarded() -> R:
            try:
                return work()
            except LOST:
                connection.close()
                raise

        return self._pool.submit(guarded)

    async def aclose(self) -> None:
        """Closes the thread's connection and ends it."""
        await self.run(lambda: connection.close())  # looked up there: each thread has its own
        self._pool.shutdown()


def prompt_pause_s(interval_s: float, per_second: float) -> float:
    """The pause of a prompt ``Batcher``: none up to ``FEW_PER_S`` items a second, all from ``MANY_PER_S`` on."""
    return interval_s * min(max((per_second - FEW_PER_S) / (MANY_PER_S - FEW_PER_S), 0.0), 1.0)


class Batcher(Generic[T, R]):
    """Gathers items and hands them to ``flush`` in batches, at most one each ``interval_s`` seconds.

    The first item after a pause goes at once, so a quiet system adds no delay and a busy one makes large batches;
    ``enough_items`` go without waiting for the interval to end. A ``prompt`` one makes no pause at all while few items
    come in: what somebody waits for goes as soon as the batch before it is written. With more items a second the pause
    grows to the interval. Not with the size of a batch: items that came together by chance would come together again.
    ``flush(items)`` answers with one result per item, in order. When the connection is lost, nobody knows what was
    written: ``again(items)`` is tried until it succeeds, which is ``flush`` itself if that is safe to repeat. A batch
    the database rejects is tried item by item, so that one bad item does not take others with it; its own future gets
    the error.
    """

    def __init__(
        self,
        thread: DatabaseThread,
        flush: Callable[[Sequence[T]], Sequence[R]],
        *,
        interval_s: float,
        prompt: bool = False,
        again: Callable[[Sequence[T]], Sequence[R]] | None = None,
        enough_items: int = 64,
        max_items: int = 500,
        retry_s: float = 0.5,
    ) -> None:
        self._thread = thread
        self._flush = flush
        self._interval_s = interval_s
        self._prompt = prompt
        self._again = again or flush
        self._rate = Rate()
        self._enough_items = enough_items
        self._max_items = max_items
        self._retry_s = retry_s
        self._items: list[tuple[T, asyncio.Future[R]]] = []
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._idle: asyncio.Future[None] | None = None
        self._recovery: asyncio.Task[None] | None = None

    def submit(self, item: T) -> asyncio.Future[R]:
        """Adds an item; a future of its result."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._items.append((item, future))
        if not self._writing:
            self._go_on()
        return future

    async def drain(self) -> None:
        """Waits until everything submitted so far has been written."""
        while self._items or self._writing:
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            if not self._writing:
                self._go_on()
            await asyncio.shield(self._idle)

    # Between an item and its result the event loop takes two turns, and no task: where the loop is busy, each turn is
    # what a call waits for.

    def _go_on(self) -> None:
        """Writes the next batch, or does so when its time has come."""
        loop = asyncio.get_running_loop()
        pause = self._not_before - loop.time()
        if pause > 0 and self._idle is None and len(self._items) < self._enough_items:
            if self._timer is None:
                self._timer = loop.call_later(pause, self._on_time)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._items = self._items[: self._max_items], self._items[self._max_items :]
        now = loop.time()
        self._rate.count(now, len(batch))
        pause = prompt_pause_s(self._interval_s, self._rate.per_second(now)) if self._prompt else self._interval_s
        self._not_before = now + pause
        self._writing = True
        items = [item for item, _ in batch]
        work = self._thread.start(lambda: self._flush(items))
        work.add_done_callback(lambda done: _tell(loop, self._written, batch, done))

    def _on_time(self) -> None:
        self._timer = None
        self._not_before = 0.0  # a timer may be early by the resolution of the clock
        if self._items and not self._writing:
            self._go_on()

    def _written(self, batch: list[tuple[T, asyncio.Future[R]]], done: Future[Sequence[R]]) -> None:
        if (error := done.exception()) is not None:
            self._recovery = asyncio.get_running_loop().create_task(self._recover(batch, error))
            return
        try:
            _give_out(batch, done.result())
        finally:
            self._next()

    def _next(self) -> None:
        self._writing = False
        if self._items:
            self._go_on()
        elif self._idle is not None:
            self._idle.set_result(None)
            self._idle = None

    async def _recover(self, batch: list[tuple[T, asyncio.Future[R]]], error: BaseException) -> None:
        """Repeats what failed."""
        try:
            await self._repeat(batch, error)
        except Exception as fault:
            log.exception("write_failed", waiting=len(batch))
            for _, future in batch:
                if not future.done():
                    future.set_exception(fault)
        finally:
            self._next()

    async def _repeat(self, batch: list[tuple[T, asyncio.Future[R]]], error: BaseException | None = None) -> None:
        items = [item for item, _ in batch]
        while True:
            try:
                if error is not None:
                    raise error
                results = await self._thread.run(lambda: self._again(items))
                break
            except LOST as lost:
                log.warning("database_lost", waiting=len(items), error=str(lost).splitlines()[0])
                await asyncio.sleep(self._retry_s)
            except (DatabaseError, ValueError, TypeError) as rejected:
                if len(batch) > 1:
                    for one in batch:
                        await self._repeat([one])
                    return
                log.exception("write_rejected", item=repr(items[0])[:500])
                if not batch[0][1].done():
                    batch[0][1].set_exception(rejected)
                return
            error = None
        _give_out(batch, results)


def _tell(loop: asyncio.AbstractEventLoop, *call: Any) -> None:
    """Calls a function in the event loop, unless that has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(*call)


def _give_out(batch: list[tuple[T, asyncio.Future[R]]], results: Sequence[R]) -> None:
    for (_, future), result in zip(batch, results, strict=True):
        if not future.done():
            future.set_result(result)
