"""The permits of one process, on a real database: few orders, and none is lost or kept."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from apps.providers.models import Region, RegionQuota
from apps.providers.permits import Permit, Permits
from apps.providers.quota import Answer, Quota, Use
from apps.providers.stock import Order
from portal.batching import DatabaseThread
from tests.regions import make_provider, region_of

pytestmark = pytest.mark.processes

WIDE = {"requests_per_minute": 10_000, "tokens_per_minute": 10_000_000, "concurrency": 500}


class Watched(Permits):
    """Permits that keep what they ordered. ``before`` and ``after`` run with each order on its thread, ``answered`` in
    the loop as soon as the answers are given out."""

    def __init__(self, thread: DatabaseThread, holder: str) -> None:
        super().__init__(thread, holder, timezone.now)
        self.orders: list[Order] = []
        self.before: Callable[[], Any] = lambda: None
        self.after: Callable[[], Any] = lambda: None
        self.answered: Callable[[], Any] = lambda: None

    async def _ask(self, region_id: uuid.UUID, desk: Any) -> int:
        asked = await super()._ask(region_id, desk)
        self.answered()
        return asked

    def _write(self, region_id: uuid.UUID, order: Order) -> tuple[Answer, float]:
        self.orders.append(order)
        self.before()
        answer = super()._write(region_id, order)
        self.after()
        return answer


def use_of(region: Region) -> Use:
    return Quota.of_json(RegionQuota.objects.get(region=region).quota).in_use(now=timezone.now().timestamp())


@pytest.fixture
def east(own_database: str) -> Region:
    provider = make_provider("east")
    Region.objects.update(**WIDE)
    return region_of(provider, "east")


def with_permits(scenario: Callable[[Watched], Awaitable[None]]) -> Watched:
    """Runs it, and gives back what is in hand."""

    async def run() -> Watched:
        thread = DatabaseThread("regions")
        permits = Watched(thread, "a")
        try:
            await scenario(permits)
            await permits.drain()
        finally:
            await thread.aclose()
        return permits

    return asyncio.run(run())


async def granted(permits: Permits, region: Region, tokens: int = 100) -> Permit:
    permit = await permits.take(region.pk, tokens)
    assert isinstance(permit, Permit)
    return permit


def test_a_busy_process_waits_for_few_of_its_permits_and_gives_the_rest_back(east: Region) -> None:
    async def scenario(permits: Watched) -> None:
        held = [await granted(permits, east) for _ in range(10)]
        for _ in range(90):
            permits.end(held.pop(0), 60)
            held.append(await granted(permits, east))
        for permit in held:
            permits.end(permit, 60)

    permits = with_permits(scenario)
    assert sum(len(order.asks) for order in permits.orders) < 20
    assert use_of(east) == Use(100, 6000, 0)


@pytest.mark.parametrize("when", ["unasked", "asked", "written", "answered"])
def test_cancelled_callers_leak_nothing(east: Region, when: str) -> None:
    async def scenario(permits: Watched) -> None:
        loop = asyncio.get_running_loop()
        caller = asyncio.ensure_future(permits.take(east.pk, 100))
        other = asyncio.ensure_future(permits.take(east.pk, 100))
        permits.before = lambda: when == "asked" and loop.call_soon_threadsafe(caller.cancel)
        permits.after = lambda: when == "written" and loop.call_soon_threadsafe(caller.cancel)
        permits.answered = lambda: when == "answered" and caller.cancel()
        await asyncio.sleep(0)
        if when == "unasked":
            caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        permits.end(await other, 70)  # type: ignore[arg-type]

    permits = with_permits(scenario)
    assert permits.orders[0].asks == ((100,) if when == "unasked" else (100, 100))
    assert use_of(east) == Use(1, 70, 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_connection_costs_no_place_and_no_answer(
    east: Region, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.providers.permits.RETRY_S", 0.0)

    async def scenario(permits: Watched) -> None:
        first = await granted(permits, east)

        def lose() -> None:
            permits.before = permits.after = lambda: None
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        setattr(permits, when, lose)
        second = await granted(permits, east, 200_000)
        permits.end(first, 100)
        permits.end(second, 200_000)

    permits = with_permits(scenario)
    use = use_of(east)
    assert use.calls == 0
    # Requests that may have been granted twice count twice; fewer would be wrong.
    assert use.requests >= 2
    if when == "before":
        assert use.requests <= 2 + sum(order.spare.requests for order in permits.orders[:2])


def test_a_region_that_is_gone_has_no_limits(east: Region) -> None:
    pk = east.pk
    east.delete()

    async def scenario(permits: Watched) -> None:
        permit = await permits.take(pk, 100)
        assert isinstance(permit, Permit)
        permits.end(permit, 100)

    with_permits(scenario)
    assert not RegionQuota.objects.exists()
