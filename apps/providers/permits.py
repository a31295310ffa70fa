"""Leave to call a region that has limits, taken from what all processes share: for all waiting calls at once.

A region without limits is asked for nothing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from django.db import transaction

from apps.providers.models import Region, RegionQuota
from apps.providers.quota import GRACE_S, Answer, Limits, Quota, Returned
from portal.batching import Batcher, DatabaseThread

LEASE_S = 20.0
"""How long a process that went silent keeps the places of its calls."""
INTERVAL_S = 0.01


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave for one call, to be used within ``GRACE_S``. ``second`` is when it was granted, by the database's row."""

    region_id: uuid.UUID
    second: int
    tokens: int

    def is_fresh(self, now: dt.datetime) -> bool:
        return now.timestamp() < self.second + GRACE_S - 0.5


@dataclass(frozen=True, slots=True)
class _Ask:
    region_id: uuid.UUID
    tokens: int


@dataclass(frozen=True, slots=True)
class _End:
    region_id: uuid.UUID
    second: int
    unused_tokens: int


class Permits:
    """The permits of one process, called ``holder``."""

    def __init__(self, thread: DatabaseThread, holder: str, now: Callable[[], dt.datetime]) -> None:
        self._thread = thread
        self._holder = holder
        self._now = now
        self._batcher: Batcher[_Ask | _End, Answer | None] = Batcher(
            thread, self._write, interval_s=INTERVAL_S, quiet_s=INTERVAL_S / 5
        )
        self._held: Counter[uuid.UUID] = Counter()
        self._waiting: Counter[uuid.UUID] = Counter()

    async def take(self, region_id: uuid.UUID, tokens: int) -> Permit | float:
        """Leave for a call that takes at most ``tokens``; or in how many seconds it is worth asking again."""
        self._waiting[region_id] += 1
        pending = self._batcher.submit(_Ask(region_id, tokens))
        try:
            answer = await asyncio.shield(pending)
        except BaseException:
            # What the batch on its way grants is given back, as nobody will make the call.
            pending.add_done_callback(partial(self._give_back, region_id, tokens))
            raise
        self._waiting[region_id] -= 1
        assert answer is not None
        if not answer.granted:
            return answer.again_in_s
        self._held[region_id] += 1
        return Permit(region_id, answer.second, tokens)

    def end(self, permit: Permit, used_tokens: int | None) -> None:
        """The call is over. ``used_tokens`` None: it is not known, so all that it could take counts."""
        self._held[permit.region_id] -= 1
        unused = 0 if used_tokens is None else max(permit.tokens - used_tokens, 0)
        self._batcher.submit(_End(permit.region_id, permit.second, unused))

    async def renew(self) -> None:
        """Keeps the places of calls under way; to be called well within ``LEASE_S``."""
        known = sorted(self._held)
        if known:
            await self._thread.run(lambda: self._renew(known))

    async def drain(self) -> None:
        await self._batcher.drain()

    def _give_back(self, region_id: uuid.UUID, tokens: int, pending: asyncio.Future[Answer | None]) -> None:
        self._waiting[region_id] -= 1
        if not pending.cancelled() and pending.exception() is None and (answer := pending.result()) and answer.granted:
            self._batcher.submit(_End(region_id, answer.second, tokens))

    def _renew(self, region_ids: Sequence[uuid.UUID]) -> None:
        now = self._now().timestamp()
        for region_id in region_ids:
            with _quota(region_id) as row:
                # A call that is being asked for is written on this thread, after this.
                if self._held[region_id] or self._waiting[region_id]:
                    row.quota = row.quota.renewed(self._holder, lease_s=LEASE_S, now=now)
                else:
                    row.quota = row.quota.without(self._holder)

    def _write(self, items: Sequence[_Ask | _End]) -> list[Answer | None]:
        answers: list[Answer | None] = [None] * len(items)
        by_region: dict[uuid.UUID, list[int]] = {}
        for place, item in enumerate(items):
            by_region.setdefault(item.region_id, []).append(place)
        for region_id in sorted(by_region):
            asks = [(place, item) for place in by_region[region_id] if isinstance(item := items[place], _Ask)]
            ends = [item for place in by_region[region_id] if isinstance(item := items[place], _End)]
            with _quota(region_id) as row:
                row.quota, answer = row.quota.take(
                    row.limits,
                    [ask.tokens for _, ask in asks],
                    holder=self._holder,
                    lease_s=LEASE_S,
                    now=self._now().timestamp(),
                    ended=len(ends),
                    returned=[Returned(end.second, end.unused_tokens) for end in ends if end.unused_tokens],
                )
            for number, (place, _) in enumerate(asks):
                answers[place] = replace(answer, granted=int(number < answer.granted))
        return answers


@dataclass(slots=True)
class _Row:
    limits: Limits
    quota: Quota


@contextmanager
def _quota(region_id: uuid.UUID) -> Iterator[_Row]:
    """What the region has granted, under lock; written when it was changed. A region that is gone has no limits."""
    with transaction.atomic():
        kept = _locked(region_id)
        if kept is None and Region.objects.filter(pk=region_id).exists():
            RegionQuota.objects.bulk_create([RegionQuota(region_id=region_id)], ignore_conflicts=True)
            kept = _locked(region_id)
        if kept is None:
            yield _Row(Limits(), Quota())
            return
        row = _Row(kept.region.limits, Quota.of_json(kept.quota))
        before = row.quota
        yield row
        if row.quota is not before:
            kept.quota = row.quota.as_json()
            kept.save(update_fields=["quota"])


def _locked(region_id: uuid.UUID) -> RegionQuota | None:
    rows = RegionQuota.objects.select_for_update(of=("self",)).select_related("region")
    return rows.filter(region_id=region_id).first()
