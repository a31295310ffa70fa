"""Costs that accrue by the hour: agents held (infrastructure) and bytes kept (storage), at rates with dates.

Upper layers say what is held and kept, by meters that they register in their app's ``ready()``. A job charges each full
hour of UTC once: the hour's row and its ledger entries are one transaction, so neither a crash nor two jobs at once
charge an hour twice or skip it.

**Infrastructure.** An agent-hour is one agent held from the pool for one hour, whether it works or not:

    amount = agents x microseconds held x rate / 3,600,000,000

**Storage.** A GB is 1,000,000,000 bytes; a month has the hours of its calendar month in UTC (672 to 744). Bytes are
measured once an hour, when the hour is accrued, and count for the whole of it; hours that are made up for later count
the bytes of that later moment, since nobody measured in between:

    amount = bytes x microseconds x rate / (1,000,000,000 x hours of the month x 3,600,000,000)

Each entry is rounded up once, to a whole nano-dollar; its ``quantity`` is rounded to nine decimals for reading. An hour
is cut where a rate changes and at the tenant's midnight. An entry's time is the start of its part of the hour, so that
it falls on the local day and into the month in which the time it charges for began, in any time zone. Where that month
is closed, it is booked later, with a note.
"""

from __future__ import annotations

import calendar
import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise

from django.db import connection, transaction

from apps.costs.booking import bookings
from apps.costs.entries import NewEntry, write
from apps.costs.models import AccruedHour, Accruing, Kind, Rate
from apps.tenants.models import Tenant

HOUR = dt.timedelta(hours=1)
GRACE = dt.timedelta(minutes=5)
"""How long after its end an hour is accrued: what was taken or given back in it is written by then."""
MOST_HOURS = 7 * 24
"""Most hours of a kind in one run; the next run goes on."""
GB = 1_000_000_000
_HOUR_US = 3_600_000_000
_US = dt.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Held:
    """Agents that a swarm held from ``start`` to ``end``."""

    tenant_id: uuid.UUID
    swarm_id: uuid.UUID
    agents: int
    start: dt.datetime
    end: dt.datetime


@dataclass(frozen=True, slots=True)
class AgentMeter:
    """Tells what agents were held: ``held(start, end)``, within those times, and when any was first (None: never)."""

    name: str
    held: Callable[[dt.datetime, dt.datetime], Iterable[Held]]
    began: Callable[[], dt.datetime | None]


@dataclass(frozen=True, slots=True)
class StorageMeter:
    """Tells how many bytes each tenant keeps now, of what ``name`` says: "Task results"."""

    name: str
    bytes_by_tenant: Callable[[], Mapping[uuid.UUID, int]]


_agent_meters: dict[str, AgentMeter] = {}
_storage_meters: dict[str, StorageMeter] = {}


def register_meter(meter: AgentMeter | StorageMeter) -> None:
    """Adds a meter of an upper layer. One of the same name replaces it."""
    if isinstance(meter, AgentMeter):
        _agent_meters[meter.name] = meter
    else:
        _storage_meters[meter.name] = meter


@dataclass(frozen=True, slots=True)
class Part:
    """Part of an hour at one rate, in nano-dollars for a unit."""

    start: dt.datetime
    end: dt.datetime
    rate: int


@dataclass(frozen=True, slots=True)
class RateBook:
    """The rates of one kind: by tenant (None: everybody), as (effective from, price), oldest first."""

    rates: Mapping[uuid.UUID | None, Sequence[tuple[dt.datetime, int]]] = field(default_factory=dict)

    @classmethod
    def load(cls, kind: str, *, until: dt.datetime) -> RateBook:
        """All rates of a kind that begin before ``until``. One query."""
        rates: dict[uuid.UUID | None, list[tuple[dt.datetime, int]]] = defaultdict(list)
        rows = Rate.objects.filter(kind=kind, effective_from__lt=until).order_by("effective_from")
        for tenant_id, since, price in rows.values_list("tenant_id", "effective_from", "price"):
            rates[tenant_id].append((since, price))
        return cls(rates)

    def at(self, tenant_id: uuid.UUID, moment: dt.datetime) -> int | None:
        """The tenant's own rate, else everybody's; None where neither is in force."""
        for holder in (tenant_id, None):
            for since, price in reversed(self.rates.get(holder, ())):
                if since <= moment:
                    return price
        return None

    def parts(
        self, tenant_id: uuid.UUID, start: dt.datetime, end: dt.datetime, cuts: Iterable[dt.datetime] = ()
    ) -> list[Part]:
        """The time from ``start`` to ``end``, cut where the rate changes and at ``cuts``; without what has no rate."""
        changes = {since for holder in (tenant_id, None) for since, _ in self.rates.get(holder, ())}
        edges = sorted({start, end, *(edge for edge in (*changes, *cuts) if start < edge < end)})
        found = []
        for left, right in pairwise(edges):
            rate = self.at(tenant_id, left)
            if rate is not None:
                found.append(Part(left, right, rate))
        return found


@dataclass(frozen=True, slots=True)
class Accrued:
    """What one run did for a kind. ``behind``: full hours that are still to be accrued."""

    kind: Accruing
    hours: int = 0
    entries: int = 0
    amount: int = 0
    behind: int = 0


Progress = Callable[[Accruing, dt.datetime, int], None]


def accrue(*, now: dt.datetime, most: int = MOST_HOURS, progress: Progress | None = None) -> list[Accrued]:
    """Charges the full hours that are not accrued yet, oldest first, at most ``most`` of each kind.

    Safe to run by many at once, and to break off anywhere. ``progress(kind, hour, hours left)`` is called after each.
    """
    return [_accrue_kind(kind, now=now, most=most, progress=progress) for kind in Accruing]


def due_hours(kind: str, *, now: dt.datetime) -> list[dt.datetime]:
    """The starts of the full hours of a kind that are not accrued yet, oldest first. None while there is no rate.

    The first one is where the first rate begins; for infrastructure not before anything was held, and for storage the
    last full hour at the earliest, since what was kept before is not known.
    """
    end = floor_hour(now - GRACE)
    first = AccruedHour.objects.accrued_until(kind)
    if first is None:
        rated = Rate.objects.filter(kind=kind).order_by("effective_from").values_list("effective_from", flat=True)
        since = rated.first()
        if since is None:
            return []
        known = [began for meter in _agent_meters.values() if (began := meter.began())]
        began = min(known, default=end - HOUR) if kind == Accruing.INFRASTRUCTURE else end - HOUR
        first = floor_hour(max(since, began))
    return [first + n * HOUR for n in range(max((end - first) // HOUR, 0))]


def floor_hour(moment: dt.datetime) -> dt.datetime:
    """The start of its hour in UTC."""
    return moment.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)


def month_hours(moment: dt.datetime) -> int:
    """The hours of its calendar month in UTC."""
    utc = moment.astimezone(dt.UTC)
    return calendar.monthrange(utc.year, utc.month)[1] * 24


def _accrue_kind(kind: Accruing, *, now: dt.datetime, most: int, progress: Progress | None) -> Accrued:
    due = due_hours(kind, now=now)
    todo = due[:most]
    if not todo:
        return Accrued(kind)
    kept = _measure() if kind == Accruing.STORAGE else {}
    hours = entries = amount = 0
    for n, hour in enumerate(todo, 1):
        charged = _accrue_hour(kind, hour, kept, now=now)
        if charged is not None:
            hours, entries, amount = hours + 1, entries + len(charged), amount + sum(entry.amount for entry in charged)
        if progress:
            progress(kind, hour, len(due) - n)
    return Accrued(kind, hours, entries, amount, len(due) - len(todo))


def _accrue_hour(
    kind: Accruing, hour: dt.datetime, kept: Mapping[tuple[uuid.UUID, str], int], *, now: dt.datetime
) -> list[NewEntry] | None:
    """The entries written; None when the hour was accrued meanwhile. One transaction."""
    end = hour + HOUR
    with transaction.atomic():
        with connection.cursor() as cursor:
            # Whoever comes second waits here for the first, and then has nothing to do.
            cursor.execute(
                "INSERT INTO costs_accruedhour (kind, hour, accrued_at, entries, amount) VALUES (%s, %s, %s, 0, 0) "
                "ON CONFLICT DO NOTHING RETURNING id",
                [str(kind), hour, now],
            )
            row = cursor.fetchone()
        if row is None:
            return None
        book = RateBook.load(kind, until=end)
        if not book.rates:
            return []
        if kind == Accruing.INFRASTRUCTURE:
            held = [each for meter in _agent_meters.values() for each in meter.held(hour, end)]
            entries = infrastructure(held, book, _zones({each.tenant_id for each in held}), hour)
        else:
            entries = storage(kept, book, _zones({tenant_id for tenant_id, _ in kept}), hour)
        entries = _booked(entries, now=now)
        write(entries, now=now)
        AccruedHour.objects.filter(pk=row[0]).update(entries=len(entries), amount=sum(e.amount for e in entries))
    return entries


def infrastructure(
    held: Iterable[Held], book: RateBook, zones: Mapping[uuid.UUID, dt.tzinfo], hour: dt.datetime
) -> list[NewEntry]:
    """What an hour's holdings cost: an entry per swarm and part of the hour at one rate. Computes only."""
    spans: dict[tuple[uuid.UUID, uuid.UUID], list[Held]] = defaultdict(list)
    for each in held:
        spans[each.tenant_id, each.swarm_id].append(each)
    parts: dict[uuid.UUID, list[Part]] = {}
    entries = []
    for (tenant_id, swarm_id), own in spans.items():
        if tenant_id not in parts:
            parts[tenant_id] = book.parts(tenant_id, hour, hour + HOUR, _midnights(zones.get(tenant_id), hour))
        for part in parts[tenant_id]:
            agent_us = sum(each.agents * _overlap_us(each, part) for each in own)
            if agent_us:
                entries.append(
                    NewEntry(
                        tenant_id=tenant_id,
                        swarm_id=swarm_id,
                        kind=Kind.INFRASTRUCTURE,
                        at=part.start,
                        quantity=_nine_decimals(agent_us, _HOUR_US),
                        unit_price=part.rate,
                        amount=-(-agent_us * part.rate // _HOUR_US),
                    )
                )
    return entries


def storage(
    kept: Mapping[tuple[uuid.UUID, str], int], book: RateBook, zones: Mapping[uuid.UUID, dt.tzinfo], hour: dt.datetime
) -> list[NewEntry]:
    """What an hour of bytes by (tenant, meter) costs: an entry for each and each part of the hour. Computes only."""
    unit = GB * month_hours(hour) * _HOUR_US
    entries = []
    for (tenant_id, meter), size in sorted(kept.items(), key=lambda item: (str(item[0][0]), item[0][1])):
        for part in book.parts(tenant_id, hour, hour + HOUR, _midnights(zones.get(tenant_id), hour)):
            byte_us = size * ((part.end - part.start) // _US)
            if byte_us:
                entries.append(
                    NewEntry(
                        tenant_id=tenant_id,
                        kind=Kind.STORAGE,
                        at=part.start,
                        quantity=_nine_decimals(byte_us, unit),
                        unit_price=part.rate,
                        amount=-(-byte_us * part.rate // unit),
                        note=meter,
                    )
                )
    return entries


def _booked(entries: Sequence[NewEntry], *, now: dt.datetime) -> list[NewEntry]:
    """The entries at the time when they can be booked: later, with a note, where their month is closed already."""
    times = bookings([(entry.tenant_id, entry.at or now) for entry in entries], now=now)
    return [
        entry if booked.at == entry.at else replace(entry, at=booked.at, note=f"{entry.note} {booked.note}".strip())
        for entry, booked in zip(entries, times, strict=True)
    ]


def _measure() -> dict[tuple[uuid.UUID, str], int]:
    """Bytes by tenant and meter, now."""
    return {
        (tenant_id, meter.name): size
        for meter in _storage_meters.values()
        for tenant_id, size in meter.bytes_by_tenant().items()
        if size > 0
    }


def _zones(tenant_ids: set[uuid.UUID]) -> dict[uuid.UUID, dt.tzinfo]:
    return {tenant.pk: tenant.zone for tenant in Tenant.objects.filter(pk__in=tenant_ids).only("time_zone")}


def _midnights(zone: dt.tzinfo | None, hour: dt.datetime) -> Iterator[dt.datetime]:
    """The local midnight that lies inside an hour, in zones that are not whole hours from UTC."""
    if zone is not None:
        local_end = (hour + HOUR).astimezone(zone)
        midnight = local_end.replace(hour=0, minute=0, second=0, microsecond=0).astimezone(dt.UTC)
        if hour < midnight < hour + HOUR:
            yield midnight


def _overlap_us(held: Held, part: Part) -> int:
    """Microseconds of a holding inside a part."""
    return max((min(held.end, part.end) - max(held.start, part.start)) // _US, 0)


def _nine_decimals(numerator: int, denominator: int) -> Decimal:
    """A fraction rounded to nine decimals; never down to nothing."""
    scaled = max((numerator * 2 * GB + denominator) // (2 * denominator), 1)
    return Decimal(scaled).scaleb(-9)
