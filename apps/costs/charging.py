"""What goes to the cost centres of a month: to each of them so far, and rule by rule."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from apps.costs.centres import Rule, Terms
from apps.costs.exports.extract import Extract
from apps.costs.models import Statement
from apps.costs.periods import Month, window_of
from apps.tenants.models import Tenant


@dataclass(frozen=True, slots=True)
class Taken:
    """Entries and nano-dollars that a rule takes."""

    rule: Rule
    entries: int
    amount: int


@dataclass(frozen=True, slots=True)
class Untaken:
    """Entries of one kind, agent and model that no rule takes, and their nano-dollars."""

    kind: str
    agent: str
    model: str
    entries: int
    amount: int


@dataclass(frozen=True, slots=True)
class Charging:
    """A month, divided by the rules: ``taken`` in their order, ``untaken`` with the dearest first."""

    taken: Sequence[Taken]
    untaken: Sequence[Untaken]

    @property
    def total(self) -> int:
        return sum(each.amount for each in self.taken) + self.amount_untaken

    @property
    def amount_untaken(self) -> int:
        return sum(each.amount for each in self.untaken)

    @property
    def entries_untaken(self) -> int:
        return sum(each.entries for each in self.untaken)


def charging_of(extract: Extract) -> Charging:
    """How a month's entries are divided by its rules. One query."""
    sums = [[0, 0] for _ in extract.terms.rules]
    untaken: list[Untaken] = []
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT e.place, CASE WHEN e.place IS NULL THEN e.kind ELSE '' END AS kind,
                CASE WHEN e.place IS NULL THEN e.agent ELSE '' END AS agent,
                CASE WHEN e.place IS NULL THEN e.model ELSE '' END AS model,
                count(*), sum(e.amount)::bigint
            FROM (
                SELECT l.kind, l.agent, l.model, l.amount, {extract.terms.place_sql()} AS place
                FROM costs_ledgerentry l
                WHERE l.tenant_id = %(tenant_id)s AND l.at >= %(starts_at)s AND l.at < %(ends_at)s
            ) e
            GROUP BY 1, 2, 3, 4
            """,
            extract.params(),
        )
        for place, kind, agent, model, entries, amount in cursor:
            if place is None:
                untaken.append(Untaken(kind, agent, model, entries, amount))
            else:
                sums[place] = [entries, amount]
    untaken.sort(key=lambda each: (-each.amount, each.kind, each.agent, each.model))
    taken = [Taken(rule, *found) for rule, found in zip(extract.terms.rules, sums, strict=True)]
    return Charging(taken, untaken)


def month_so_far(
    tenants: Iterable[Tenant], terms: Mapping[uuid.UUID, Terms], *, now: dt.datetime
) -> dict[tuple[uuid.UUID, str], int]:
    """Nano-dollars by tenant and code of the cost centre in each tenant's month that is under way. Two queries at most.

    Codes to which nothing went are left out.
    """
    asked = [tenant for tenant in tenants if terms[tenant.pk].rules]
    if not asked:
        return {}
    latest = Statement.objects.filter(tenant__in=asked).order_by("tenant_id", "-ends_at").distinct("tenant_id")
    last = {statement.tenant_id: statement for statement in latest.defer("terms")}
    parts, params = [], dict[str, Any]()
    for number, tenant in enumerate(asked):
        window = window_of(tenant, Month.of(now, tenant.zone), last.get(tenant.pk))
        prefix = f"t{number}_"
        parts.append(
            f"""
            SELECT l.tenant_id, {terms[tenant.pk].sql(prefix)} AS centre, sum(l.amount)::bigint AS amount
            FROM costs_ledgerentry l
            WHERE l.tenant_id = %({prefix}tenant)s AND l.at >= %({prefix}starts_at)s AND l.at < %({prefix}ends_at)s
            GROUP BY 1, 2
            """
        )
        params |= terms[tenant.pk].params(prefix)
        params |= {
            f"{prefix}tenant": tenant.pk,
            f"{prefix}starts_at": window.starts_at,
            f"{prefix}ends_at": window.ends_at,
        }
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts), params)
        return {(tenant_id, code): amount for tenant_id, code, amount in cursor if code}
