"""What is in a statement, closed or not: its lines, their sums, and what in it corrects earlier months."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models import Count, QuerySet, Sum

from apps.costs.exports.extract import Extract
from apps.costs.models import LedgerEntry, Statement, StatementLine
from apps.costs.periods import open_month_at
from apps.costs.statements import draft_lines
from apps.tenants.models import Tenant

_SUMMED = ("entries", "input_tokens", "output_tokens", "amount")


@dataclass(frozen=True, slots=True)
class Part:
    """What some lines of a statement add up to. ``key`` is a cost centre's code or a kind; amounts are nano-dollars."""

    key: str
    lines: int
    entries: int
    input_tokens: int
    output_tokens: int
    amount: int


@dataclass(frozen=True, slots=True)
class Correction:
    """An adjustment in a month of what was charged in an earlier one (``of_period``)."""

    id: int
    at: dt.datetime
    amount: int
    reason: str
    of_id: int
    of_period: str


@dataclass(frozen=True, slots=True)
class Corrections:
    """The first of a month's corrections of earlier months, with how many there are and what they all add up to."""

    first: Sequence[Correction]
    count: int
    amount: int


class Contents:
    """The lines of a statement, kept or as they are now, and what all of them add up to."""

    def __init__(self, extract: Extract, statement: Statement | None) -> None:
        self.extract = extract
        self._kept: QuerySet[StatementLine] | None = None
        self._lines: list[StatementLine] = []
        if statement is not None and statement.is_closed:
            self._kept = statement.lines.all()
            self.by_centre = [_kept_part(*row) for row in _summed(self._kept, "cost_centre")]
            self.by_kind = [_kept_part(*row) for row in _summed(self._kept, "kind")]
        else:
            self._lines = draft_lines(extract)
            self.by_centre = _parts(self._lines, "cost_centre")
            self.by_kind = _parts(self._lines, "kind")
        self.by_kind.sort(key=lambda part: -part.amount)
        self.total = _total(self.by_kind)

    def __len__(self) -> int:
        return self.total.lines

    def __getitem__(self, place: slice) -> list[StatementLine]:
        """Lines by cost centre, kind, model and agent."""
        return self._lines[place] if self._kept is None else list(self._kept[place])


def _summed(lines: QuerySet[StatementLine], name: str) -> Any:
    sums = [Sum(field) for field in _SUMMED]
    return lines.order_by(name).values_list(name).annotate(Count("pk"), *sums)


def _kept_part(key: str, lines: int, *sums: Any) -> Part:
    return Part(key, lines, *(int(value) for value in sums))


def _parts(lines: Sequence[StatementLine], name: str) -> list[Part]:
    found: dict[str, list[int]] = {}
    for line in lines:
        sums = found.setdefault(getattr(line, name), [0] * (len(_SUMMED) + 1))
        sums[0] += 1
        for place, field in enumerate(_SUMMED, start=1):
            sums[place] += getattr(line, field)
    return [Part(key, *sums) for key, sums in sorted(found.items())]


def _total(parts: Sequence[Part]) -> Part:
    return Part("", *(sum(getattr(part, name) for part in parts) for name in ("lines", *_SUMMED)))


def unsettled_in(extract: Extract) -> tuple[int, int]:
    """How many entries of a month are charged as reserved and not put right since, and how much money that is."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*), coalesce(sum(l.amount), 0)::bigint FROM costs_ledgerentry l
            WHERE l.tenant_id = %(tenant_id)s AND l.at >= %(starts_at)s AND l.at < %(ends_at)s AND l.unsettled
            AND NOT EXISTS (SELECT FROM costs_ledgerentry c WHERE c.corrects = l.id)
            """,
            extract.params(),
        )
        count, amount = cursor.fetchone() or (0, 0)
        return int(count), int(amount)


def corrections_in(extract: Extract, tenant: Tenant, *, most: int) -> Corrections:
    """The month's adjustments of entries from before it. Two queries."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT a.id, a.at, a.amount, a.note, c.id, c.at, count(*) OVER (), (sum(a.amount) OVER ())::bigint
            FROM costs_ledgerentry a JOIN costs_ledgerentry c
                ON c.id = a.corrects AND c.tenant_id = a.tenant_id AND c.at < %(starts_at)s
            WHERE a.tenant_id = %(tenant_id)s AND a.at >= %(starts_at)s AND a.at < %(ends_at)s
                AND a.corrects IS NOT NULL
            ORDER BY a.at, a.id LIMIT %(most)s
            """,
            {**extract.params(), "most": most},
        )
        rows = cursor.fetchall()
    if not rows:
        return Corrections((), 0, 0)
    periods = _periods_of(tenant, [row[5] for row in rows])
    first = [Correction(id, at, amount, note, of_id, periods[of_at]) for id, at, amount, note, of_id, of_at, *_ in rows]
    return Corrections(first, rows[0][6], rows[0][7])


def period_of(entry: LedgerEntry, tenant: Tenant) -> str:
    """The month of whose statement a ledger entry is. One query."""
    return _periods_of(tenant, [entry.at])[entry.at]


def _periods_of(tenant: Tenant, moments: Sequence[dt.datetime]) -> dict[dt.datetime, str]:
    kept = list(Statement.objects.filter(tenant_id=tenant.pk).order_by("ends_at").defer("terms"))
    return {at: _period_of(tenant, at, kept) for at in moments}


def _period_of(tenant: Tenant, at: dt.datetime, kept: Sequence[Statement]) -> str:
    for statement in kept:
        if statement.starts_at <= at < statement.ends_at:
            return statement.period
    last = kept[-1] if kept and kept[-1].ends_at <= at else None
    return str(open_month_at(tenant, at, last))


def owed_in(extract: Extract) -> tuple[int, int]:
    """Nano-dollars and entries of a month. One query."""
    entries = LedgerEntry.objects.filter(tenant_id=extract.tenant_id, at__gte=extract.starts_at, at__lt=extract.ends_at)
    found = entries.aggregate(total=Sum("amount"), count=Count("pk"))
    return int(found["total"] or 0), int(found["count"])
