"""Items of an event loop that are written in batches: none waits without need, and none is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from django.db import DataError, OperationalError

from portal.batching import FEW_PER_S, MANY_PER_S, Batcher, DatabaseThread, prompt_pause_s

LONG_S = 60.0


class Book:
    """What was written, batch by batch. ``failures`` are raised first; ``gate`` holds every write up while closed."""

    def __init__(self, *failures: Exception | None) -> None:
        self.batches: list[list[int]] = []
        self.failures = list(failures)
        self.gate = threading.Event()
        self.gate.set()

    def write(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        assert self.gate.wait(20)
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        if 13 in items:
            raise DataError("not 13")
        return [10 * item for item in items]


def with_batcher(
    book: Book, scenario: Callable[[Batcher[int, int]], Awaitable[Any]], *, interval_s: float = 0.0, **options: Any
) -> Any:
    async def run() -> Any:
        thread = DatabaseThread("test")
        try:
            return await scenario(Batcher(thread, book.write, interval_s=interval_s, retry_s=0.0, **options))
        finally:
            await thread.aclose()

    return asyncio.run(run())


def test_the_first_item_goes_at_once_and_those_that_come_meanwhile_go_together() -> None:
    book = Book()

    async def scenario(batcher: Batcher[int, int]) -> list[int]:
        book.gate.clear()
        futures = [batcher.submit(item) for item in range(4)]
        await asyncio.sleep(0)
        book.gate.set()
        return await asyncio.gather(*futures)

    assert with_batcher(book, scenario) == [0, 10, 20, 30]
    assert book.batches == [[0], [1, 2, 3]]


def test_after_a_batch_the_next_waits_for_its_time_or_for_enough() -> None:
    book = Book()

    async def scenario(batcher: Batcher[int, int]) -> None:
        await batcher.submit(0)
        later = [batcher.submit(item) for item in (1, 2)]
        await asyncio.sleep(0)
        assert book.batches == [[0]]
        third = batcher.submit(3)
        await asyncio.gather(*later, third)

    with_batcher(book, scenario, interval_s=LONG_S, enough_items=3)
    assert book.batches == [[0], [1, 2, 3]]


def test_where_little_comes_in_what_somebody_waits_for_goes_at_once() -> None:
    book = Book()

    async def scenario(batcher: Batcher[int, int]) -> None:
        book.gate.clear()
        together = [batcher.submit(item) for item in range(5)]
        await asyncio.sleep(0)
        book.gate.set()
        await asyncio.gather(*together)
        async with asyncio.timeout(LONG_S / 4):
            await batcher.submit(5)

    with_batcher(book, scenario, interval_s=LONG_S, prompt=True)
    assert book.batches == [[0], [1, 2, 3, 4], [5]]


@pytest.mark.parametrize(
    ("per_second", "pause_s"), [(0, 0.0), (FEW_PER_S, 0.0), ((FEW_PER_S + MANY_PER_S) / 2, 5.0), (MANY_PER_S * 9, 10.0)]
)
def test_the_more_comes_in_the_longer_is_the_pause(per_second: float, pause_s: float) -> None:
    assert prompt_pause_s(10.0, per_second) == pause_s


def test_where_much_comes_in_the_next_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.batching.FEW_PER_S", 0.0)
    monkeypatch.setattr("portal.batching.MANY_PER_S", 1.0)
    book = Book()

    async def scenario(batcher: Batcher[int, int]) -> None:
        await batcher.submit(0)
        later = [batcher.submit(item) for item in (1, 2)]
        await asyncio.sleep(0)
        assert book.batches == [[0]]
        await asyncio.gather(*later)

    with_batcher(book, scenario, interval_s=0.2, prompt=True)
    assert book.batches == [[0], [1, 2]]


def test_a_batch_is_not_larger_than_it_may_be_and_draining_waits_for_no_interval() -> None:
    book = Book()

    async def scenario(batcher: Batcher[int, int]) -> None:
        await batcher.drain()
        for item in range(6):
            batcher.submit(item)
        await batcher.drain()

    with_batcher(book, scenario, interval_s=LONG_S, max_items=2, enough_items=100)
    assert book.batches == [[0], [1, 2], [3, 4], [5]]


def test_a_batch_is_repeated_whole_when_the_connection_is_lost() -> None:
    book = Book(None, OperationalError("gone"), OperationalError("gone still"))

    async def scenario(batcher: Batcher[int, int]) -> list[int]:
        book.gate.clear()
        futures = [batcher.submit(item) for item in range(3)]
        book.gate.set()
        return await asyncio.gather(*futures)

    assert with_batcher(book, scenario) == [0, 10, 20]
    assert book.batches == [[0], [1, 2], [1, 2], [1, 2]]


def test_what_may_have_been_written_already_is_written_the_other_way() -> None:
    book = Book(None, OperationalError("gone"))

    async def scenario(batcher: Batcher[int, int]) -> list[int]:
        book.gate.clear()
        futures = [batcher.submit(item) for item in range(3)]
        book.gate.set()
        return await asyncio.gather(*futures)

    answers = with_batcher(book, scenario, again=lambda items: [-item for item in items])
    assert (answers, book.batches) == ([0, -1, -2], [[0], [1, 2]])


@pytest.mark.parametrize("lost", [(), (None, OperationalError("gone"))], ids=["at once", "after a lost connection"])
def test_what_the_database_rejects_takes_nothing_with_it(lost: tuple[Exception | None, ...]) -> None:
    book = Book(*lost)

    async def scenario(batcher: Batcher[int, int]) -> list[Any]:
        book.gate.clear()
        futures = [batcher.submit(item) for item in (1, 12, 13, 14)]
        book.gate.set()
        return await asyncio.gather(*futures, return_exceptions=True)

    first, before, rejected, after = with_batcher(book, scenario)
    assert (first, before, after) == (10, 120, 140)
    assert isinstance(rejected, DataError)


def test_a_fault_is_told_to_those_it_concerns_and_the_next_are_written() -> None:
    book = Book(KeyError("a fault"))

    async def scenario(batcher: Batcher[int, int]) -> int:
        with pytest.raises(KeyError):
            await batcher.submit(1)
        return await batcher.submit(2)

    assert with_batcher(book, scenario) == 20


def test_a_caller_that_gave_up_is_written_all_the_same() -> None:
    book = Book()

    async def scenario(batcher: Batcher[int, int]) -> int:
        book.gate.clear()
        futures = [batcher.submit(item) for item in range(3)]
        futures[0].cancel()
        futures[2].cancel()
        book.gate.set()
        await batcher.drain()
        return await futures[1]

    assert with_batcher(book, scenario) == 10
    assert book.batches == [[0], [1, 2]]
