"""What goes to the cost centres of a month: to each of them so far, and rule by rule."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection

from apps.costs.centres import Rule
from apps.costs.exports.extract import Extract, extract_of
from apps.costs.periods import Month
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


def month_so_far(tenant: Tenant, *, now: dt.datetime) -> dict[str, int]:
    """Nano-dollars by code of the cost centre in the tenant's month that is under way; only codes with entries."""
    sums: dict[str, int] = {}
    for taken in charging_of(extract_of(tenant, str(Month.of(now, tenant.zone)), now=now)).taken:
        if taken.entries:
            sums[taken.rule.centre] = sums.get(taken.rule.centre, 0) + taken.amount
    return sums
