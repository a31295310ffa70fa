"""Ledger entries that a person looks for; what they add up to is in :mod:`apps.costs.totals`."""

from __future__ import annotations

import datetime as dt
import uuid
import zoneinfo
from collections import defaultdict
from dataclasses import dataclass

from django.db import connection
from django.db.models import Q

from apps.costs.lines import DAY, Tail, Tenants, of
from apps.costs.models import LedgerEntry
from apps.costs.models.ledger import LedgerEntryQuerySet

FIRST_DAY, LAST_DAY = dt.date(1900, 1, 1), dt.date(2999, 12, 31)
"""Where a filter names no days."""


@dataclass(frozen=True, slots=True)
class LedgerFilter:
    """Which ledger entries. What is None does not narrow; ``tenants`` is whose costs the asker may read (None: all).

    ``first`` and ``last`` are days (both included) of each tenant's own calendar; ``start`` and ``end`` (excluded) are
    moments, for callers that think in UTC. ``user`` is a pseudonym. ``agent`` and ``model`` may be "": without one.
    """

    tenants: Tenants
    first: dt.date | None = None
    last: dt.date | None = None
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    user: uuid.UUID | None = None
    swarm: uuid.UUID | None = None
    agent: str | None = None
    model: str | None = None
    kind: str | None = None
    unsettled: bool | None = None

    def entries(self, *, enough: int | None = None, before: dt.datetime | None = None) -> LedgerEntryQuerySet:
        """The entries, the latest first: in the order ("-at", "-id"), which indexes serve. At most four queries now.

        For a page, say how many rows are ``enough`` of those that are not later than ``before``: where roll-ups know on
        which days there are so many, the rest of the ledger is not searched for them. More rows may be left out.
        """
        rows: LedgerEntryQuerySet = LedgerEntry.objects.order_by("-at", "-id")
        if enough is not None and (since := self._reaches_back_to(enough, before)):
            rows = rows.filter(at__gte=since)
        if self.tenants is not None:
            rows = rows.filter(tenant_id__in=list(self.tenants))
        if self.first or self.last:
            rows = rows.filter(_in_days(self.tenants, self.first or FIRST_DAY, self.last or LAST_DAY))
        wanted = {
            "at__gte": self.start,
            "at__lt": self.end,
            "subject_id": self.user,
            "swarm_id": self.swarm,
            "agent": self.agent,
            "model": self.model,
            "kind": self.kind,
            "unsettled": self.unsettled,
        }
        return rows.filter(**{name: value for name, value in wanted.items() if value is not None})

    def of_usage(self) -> dict[str, str]:
        """What it asks of kind, model and agent, by column."""
        names = ("kind", "model", "agent")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _reaches_back_to(self, enough: int, before: dt.datetime | None) -> dt.datetime | None:
        """A moment behind which there are ``enough`` entries of a kind, model or agent; all of them, if fewer."""
        usage = self.of_usage()
        if not usage or self.user or self.swarm or self.unsettled is not None:
            return None
        latest = [moment.astimezone(dt.UTC).date() + DAY for moment in (before, self.end) if moment]
        first, last = self.first or FIRST_DAY, min([self.last or LAST_DAY, *latest])
        tail = Tail(self.tenants, first, last)
        where = " AND ".join(f"{name} = %({name})s" for name in usage)
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                SELECT day, sum(entries)::bigint FROM (
                    SELECT start AS day, entries FROM costs_usagetotal u
                    WHERE {of("u", self.tenants)} AND grain = 'day' AND start BETWEEN %(first)s AND %(last)s AND {where}
                    UNION ALL SELECT day, 1 FROM ({tail.sql}) AS tail WHERE {where}
                ) AS found GROUP BY day ORDER BY day DESC
                """,
                {**tail.params, **usage},
            )
            days = list(cursor)
        # Entries of the two days around ``before`` may be later than it, or not.
        certain = min(latest) - 3 * DAY if latest else LAST_DAY
        found, back = 0, days[-1][0] if days else last
        for day, entries in days:
            found += entries if day <= certain else 0
            if found >= enough:
                back = day
                break
        return _midnight(back, "UTC") - DAY


def _in_days(tenants: Tenants, first: dt.date, last: dt.date) -> Q:
    """Entries of these days, where each tenant's days are those of its own time zone."""
    of_zone: dict[str, list[uuid.UUID]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT t.id, coalesce(r.time_zone, t.time_zone) FROM tenants_tenant t
            LEFT JOIN costs_rolledtenant r ON r.tenant_id = t.id WHERE {of("t", tenants, "id")}
            """,
            {"tenants": None if tenants is None else list(tenants)},
        )
        for tenant_id, zone in cursor:
            of_zone[zone].append(tenant_id)
    if len(of_zone) == 1:
        (zone,) = of_zone
        return _span(first, last, zone)
    # The widest span as well: it is what an index on the time can use. Tenants that are gone count in UTC.
    around = Q(at__gte=_midnight(first, "UTC") - DAY, at__lt=_midnight(last, "UTC") + 2 * DAY)
    elsewhere = [id for zone, ids in of_zone.items() if zone != "UTC" for id in ids]
    exactly = ~Q(tenant_id__in=elsewhere) & _span(first, last, "UTC")
    for zone, ids in of_zone.items():
        if zone != "UTC":
            exactly |= Q(tenant_id__in=ids) & _span(first, last, zone)
    return around & exactly


def _span(first: dt.date, last: dt.date, zone: str) -> Q:
    return Q(at__gte=_midnight(first, zone), at__lt=_midnight(last + DAY, zone))


def _midnight(day: dt.date, zone: str) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), zoneinfo.ZoneInfo(zone)).astimezone(dt.UTC)
