"""Leave to call a region that has limits, taken from what all processes share: for all waiting calls at once.

A region without limits is asked for nothing. One whose limits leave plenty gives leave in advance, so that most calls
wait for nothing (:mod:`apps.providers.stock`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from django.db import DatabaseError, transaction

from apps.providers.models import Region, RegionQuota
from apps.providers.quota import GRACE_S, Answer, Limits, Quota
from apps.providers.stock import Order, Stock
from portal.batching import LOST, DatabaseThread

log = structlog.get_logger(__name__)

LEASE_S = 20.0
"""How long a process that went silent keeps the places of its calls."""
INTERVAL_S = 0.01
QUIET_S = 0.002
"""Shortest time between two orders; the second where so little came in that nothing is saved by waiting for more."""
FEW = 2
SWEEP_S = 0.5
"""How long it may wait to be told what nobody waits for."""
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave for one call, to be used within ``GRACE_S``. ``second`` is when it was granted, by the database's row."""

    region_id: uuid.UUID
    second: int
    tokens: int

    def is_fresh(self, now: dt.datetime) -> bool:
        return now.timestamp() < self.second + GRACE_S - 0.5


@dataclass(slots=True)
class _Desk:
    """One region's leave, and the calls that wait for some."""

    stock: Stock = field(default_factory=Stock)
    waiting: list[tuple[int, asyncio.Future[Permit | float]]] = field(default_factory=list)
    refill: bool = False
    sweep: asyncio.TimerHandle | None = None


class Permits:
    """The permits of one process, called ``holder``. For one event loop."""

    def __init__(self, thread: DatabaseThread, holder: str, now: Callable[[], dt.datetime]) -> None:
        self._thread = thread
        self._holder = holder
        self._now = now
        self._desks: dict[uuid.UUID, _Desk] = {}
        self._due: set[uuid.UUID] = set()
        self._orders: asyncio.Task[None] | None = None
        self._closing = False

    async def take(self, region_id: uuid.UUID, tokens: int) -> Permit | float:
        """Leave for a call that takes at most ``tokens``; or in how many seconds it is worth asking again."""
        desk = self._desks.setdefault(region_id, _Desk())
        now = self._now().timestamp()
        second = desk.stock.take(tokens, now=now)
        if second is not None:
            if desk.stock.is_low(now=now):
                desk.refill = True
                self._order(region_id)
            return Permit(region_id, second, tokens)
        pending: asyncio.Future[Permit | float] = asyncio.get_running_loop().create_future()
        desk.waiting.append((tokens, pending))
        desk.refill = True
        self._order(region_id)
        try:
            return await pending
        except asyncio.CancelledError:
            # Cancelled while it waited, it is given nothing; afterwards nobody will make the call.
            if not pending.cancelled() and isinstance(permit := pending.result(), Permit):
                self.end(permit, 0, sent=False)
            raise

    def end(self, permit: Permit, used_tokens: int | None, *, sent: bool = True) -> None:
        """The call is over. ``used_tokens`` None: it is not known, so all that it could take counts.

        ``sent`` False: no request was made.
        """
        unused = 0 if used_tokens is None else max(permit.tokens - used_tokens, 0)
        desk = self._desks[permit.region_id]
        desk.stock.end(permit.second, unused_tokens=unused, sent=sent)
        if desk.stock.ample and not self._closing:
            self._sweep_later(permit.region_id, desk)
        else:
            self._order(permit.region_id)

    def renew(self) -> None:
        """Keeps the places of calls under way; to be called well within ``LEASE_S``."""
        for region_id, desk in self._desks.items():
            if desk.stock.calls:
                self._order(region_id)

    async def drain(self) -> None:
        """Gives back all leave that no call has, and waits until that is written."""
        self._closing = True
        for region_id, desk in self._desks.items():
            if desk.sweep is not None:
                desk.sweep.cancel()
            self._order(region_id)
        while self._orders is not None:
            await asyncio.shield(self._orders)
        self._closing = False

    def _order(self, region_id: uuid.UUID) -> None:
        self._due.add(region_id)
        if self._orders is None:
            self._orders = asyncio.get_running_loop().create_task(self._run())

    def _sweep_later(self, region_id: uuid.UUID, desk: _Desk) -> None:
        if desk.sweep is None:
            desk.sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep, region_id, desk)

    def _sweep(self, region_id: uuid.UUID, desk: _Desk) -> None:
        desk.sweep = None
        if desk.stock.is_overdue(now=self._now().timestamp()):
            self._order(region_id)
        elif not desk.stock.is_empty:
            self._sweep_later(region_id, desk)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._due:
                began, calls = loop.time(), 0
                due, self._due = self._due, set()
                for region_id in sorted(due):
                    calls += await self._ask(region_id, self._desks[region_id])
                if self._due and (pause := began + (QUIET_S if calls <= FEW else INTERVAL_S) - loop.time()) > 0:
                    await asyncio.sleep(pause)
        finally:
            self._orders = None

    async def _ask(self, region_id: uuid.UUID, desk: _Desk) -> int:
        """Orders what the region's calls wait for; how many they are."""
        waiting, desk.waiting = [each for each in desk.waiting if not each[1].done()], []
        asks = [tokens for tokens, _ in waiting]
        if self._closing and not asks:
            order = desk.stock.close()
        else:
            order = desk.stock.order(asks, refill=desk.refill, now=self._now().timestamp())
        desk.refill = False
        try:
            answer, at = await self._thread.run(lambda: self._write(region_id, order))
        except LOST as error:
            # Whether it was written nobody knows. What was given back counts until its time is over; the calls ask
            # again, and how many places there are is told with each order.
            log.warning("database_lost", waiting=len(waiting), error=str(error).splitlines()[0])
            desk.waiting = waiting + desk.waiting
            self._due.add(region_id)
            await asyncio.sleep(RETRY_S)
            return len(waiting)
        except DatabaseError as error:
            log.exception("permits_rejected", region=str(region_id))
            for _, pending in waiting:
                if not pending.done():
                    pending.set_exception(error)
            return len(waiting)
        desk.stock.granted(answer, at=at)
        for number, (tokens, pending) in enumerate(waiting):
            if number >= answer.granted:
                if not pending.done():
                    pending.set_result(answer.again_in_s)
            elif pending.done():
                desk.stock.forgo(answer.second, tokens)
            else:
                desk.stock.start()
                pending.set_result(Permit(region_id, answer.second, tokens))
        if not desk.stock.is_empty:
            if self._closing:
                self._due.add(region_id)
            else:
                self._sweep_later(region_id, desk)
        return len(waiting)

    def _write(self, region_id: uuid.UUID, order: Order) -> tuple[Answer, float]:
        """The region's answer, and when it was given."""
        with transaction.atomic():
            row = _locked(region_id)
            now = self._now().timestamp()
            quota, answer = row.quota.take(
                row.limits,
                order.asks,
                holder=self._holder,
                holding=order.holding,
                lease_s=LEASE_S,
                now=now,
                returned=order.returned,
                spare=order.spare,
            )
            if quota != row.quota:
                RegionQuota.objects.filter(region_id=region_id).update(quota=quota.as_json())
        return answer, now


@dataclass(frozen=True, slots=True)
class _Row:
    limits: Limits
    quota: Quota


def _locked(region_id: uuid.UUID) -> _Row:
    """What the region has granted, under lock. A region that is gone has no limits."""
    rows = RegionQuota.objects.select_for_update(of=("self",)).select_related("region").filter(region_id=region_id)
    kept = rows.first()
    if kept is None and Region.objects.filter(pk=region_id).exists():
        RegionQuota.objects.bulk_create([RegionQuota(region_id=region_id)], ignore_conflicts=True)
        kept = rows.first()
    return _Row(kept.region.limits, Quota.of_json(kept.quota)) if kept else _Row(Limits(), Quota())
