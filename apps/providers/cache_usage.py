"""How caches are used: counted by processes, added up in rows of five minutes."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields

from django.db import connection

from apps.providers.models import Cache, CacheUsage
from portal.ids import uuid7

SLOT = dt.timedelta(minutes=5)
KEPT = dt.timedelta(days=8)


@dataclass(slots=True)
class Counts:
    """How often what happened; ``saved`` in nano-dollars. See :class:`apps.providers.models.CacheUsage`."""

    hits: int = 0
    misses: int = 0
    degraded: int = 0
    stored: int = 0
    evicted: int = 0
    failures: int = 0
    saved: int = 0

    def add(self, **what: int) -> None:
        for name, number in what.items():
            setattr(self, name, getattr(self, name) + number)

    @property
    def rate(self) -> float | None:
        """The share of look-ups that were hits, from 0 to 1; None when nothing was looked up."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


_NAMES = tuple(each.name for each in fields(Counts))
Key = tuple[Cache, uuid.UUID | None]


def add(counts: Mapping[Key, Counts], *, now: dt.datetime) -> None:
    """Adds counts to the rows of this moment."""
    if not counts:
        return
    starts_at = slot_of(now)
    keys = sorted(counts, key=lambda key: (key[0], str(key[1])))  # one order, so that writers do not wait in a circle
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO providers_cacheusage AS u (id, cache, tenant_id, starts_at, {", ".join(_NAMES)})
            SELECT n.id, n.cache, n.tenant_id, %s, {", ".join(f"n.{name}" for name in _NAMES)}
            FROM unnest(%s::uuid[], %s::text[], %s::uuid[], {", ".join(["%s::bigint[]"] * len(_NAMES))})
                WITH ORDINALITY AS n (id, cache, tenant_id, {", ".join(_NAMES)}, place)
            WHERE n.tenant_id IS NULL OR EXISTS (SELECT FROM tenants_tenant t WHERE t.id = n.tenant_id)
            ORDER BY n.place
            ON CONFLICT (cache, tenant_id, starts_at) DO UPDATE SET
            {", ".join(f"{name} = u.{name} + EXCLUDED.{name}" for name in _NAMES)}
            """,
            [
                starts_at,
                [uuid7() for _ in keys],
                [key[0].value for key in keys],
                [key[1] for key in keys],
                *([getattr(counts[key], name) for key in keys] for name in _NAMES),
            ],
        )


def slot_of(moment: dt.datetime) -> dt.datetime:
    """The start of the five minutes that a moment is in."""
    return dt.datetime.fromtimestamp(moment.timestamp() // SLOT.total_seconds() * SLOT.total_seconds(), dt.UTC)


def prune(*, now: dt.datetime) -> int:
    """Removes counts older than eight days; how many rows."""
    return CacheUsage.objects.filter(starts_at__lt=now - KEPT).delete()[0]


class Tally:
    """Counts that are not written yet. For one thread or event loop."""

    def __init__(self) -> None:
        self.counts: dict[Key, Counts] = {}
        self.touched: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self.counts or self.touched)

    def add(self, cache: Cache, tenant_id: uuid.UUID | None = None, **what: int) -> None:
        counts = self.counts.get((cache, tenant_id))
        if counts is None:
            counts = self.counts[cache, tenant_id] = Counts()
        counts.add(**what)

    def take(self) -> tuple[dict[Key, Counts], Counter[str]]:
        """What was counted, which begins anew."""
        taken = self.counts, self.touched
        self.counts, self.touched = {}, Counter()
        return taken
