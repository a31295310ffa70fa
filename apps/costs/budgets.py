"""Which budgets watch a call, which of their periods it falls into, and how those stand."""

from __future__ import annotations

import datetime as dt
import uuid
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from django.db import connection

from apps.costs.alerting import FIRST_ALERT, USED_UP, highest_reached
from apps.costs.models import Budget, Enforcement, Period, Scope
from apps.tenants.models import Tenant
from portal.money import usd_label

RUN_STAYS_CURRENT = dt.timedelta(hours=1)
"""How long after its last charge a run still counts among the current ones of a budget that watches every run."""

RUN_LASTS_AT_MOST = dt.timedelta(days=30)
"""Runs that began earlier are not looked at: it bounds the work on a budget that has watched very many runs."""

_EVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Call(Protocol):
    """What decides which budgets watch a call."""

    @property
    def tenant_id(self) -> uuid.UUID: ...
    @property
    def subject_id(self) -> uuid.UUID | None: ...
    @property
    def swarm_id(self) -> uuid.UUID | None: ...
    @property
    def agent(self) -> str: ...


class PeriodKey(NamedTuple):
    """What names a budget period; keys sort, so that rows are made in one order everywhere."""

    budget_id: uuid.UUID
    key: str
    holder: str


class Span(NamedTuple):
    """A period's key and its first moment and the first one after it (None: a run has no set end)."""

    key: str
    starts_at: dt.datetime
    ends_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Watcher:
    """An active budget, as far as matching a call asks for it."""

    id: uuid.UUID
    tenant_id: uuid.UUID
    name: str
    scope: str
    target: str
    period: str
    zone: zoneinfo.ZoneInfo


def span_of(period: str, zone: zoneinfo.ZoneInfo, now: dt.datetime, swarm_id: uuid.UUID | None) -> Span | None:
    """The period that ``now`` falls into: the tenant's calendar month or day, or the run.

    Days and months begin at the first moment that has the new date on the tenant's clocks, so they last as long as
    they do there (23 or 25 hours when clocks change). None for a per-run budget where there is no run.
    """
    if period == Period.RUN:
        return Span(str(swarm_id), now, None) if swarm_id else None
    today = now.astimezone(zone).date()
    if period == Period.DAILY:
        first, after, key = today, today + dt.timedelta(days=1), today.isoformat()
    else:
        first = today.replace(day=1)
        after = (first + dt.timedelta(days=31)).replace(day=1)
        key = f"{first:%Y-%m}"
    # In UTC, because two moments of one zone compare by their clock faces.
    starts_at, ends_at = (dt.datetime.combine(d, dt.time(), zone).astimezone(dt.UTC) for d in (first, after))
    return Span(key, starts_at, ends_at)


def holder_of(budget: Watcher, call: Call) -> str | None:
    """Whose share of the budget the call falls into: "" for a budget with one holder; None: it does not watch it."""
    if budget.scope == Scope.TENANT:
        return ""
    watched = {
        Scope.END_USER: str(call.subject_id) if call.subject_id else "",
        Scope.SWARM: str(call.swarm_id) if call.swarm_id else "",
        Scope.AGENT: call.agent,
    }[Scope(budget.scope)]
    if not watched:
        return None
    if not budget.target:
        return watched
    return "" if budget.target == watched else None


class Watched(NamedTuple):
    """For each call, by its place in the list, the keys of the periods that watch it; and what the keys stand for."""

    keys: list[tuple[PeriodKey, ...]]
    spans: dict[PeriodKey, Span]
    names: dict[uuid.UUID, str]


_QUARTER_S = 900
"""No zone's midnight lies elsewhere than on a quarter of an hour: two moments between the same two share their day."""


def watching(calls: Sequence[Call], *, now: dt.datetime, times: Sequence[dt.datetime] | None = None) -> Watched:
    """The periods of all active budgets that watch each of these calls. One query, however many calls.

    ``times`` are the calls' own, where they were not made now but in the past: the periods are those of that time.
    """
    by_tenant = _watchers(calls)
    found: dict[tuple[object, ...], tuple[PeriodKey, ...]] = {}
    result = Watched([], {}, {b.id: b.name for watchers in by_tenant.values() for b in watchers})
    for place, call in enumerate(calls):
        at = times[place] if times else now
        quarter = at.timestamp() // _QUARTER_S if times else None
        kind = (call.tenant_id, call.subject_id, call.swarm_id, call.agent, quarter)
        if kind not in found:
            keys: list[PeriodKey] = []
            for budget in by_tenant.get(call.tenant_id, ()):
                holder = holder_of(budget, call)
                if holder is None or not (span := span_of(budget.period, budget.zone, at, call.swarm_id)):
                    continue
                keys.append(PeriodKey(budget.id, span.key, holder))
                known = result.spans.get(keys[-1])
                if known is None or span.starts_at < known.starts_at:  # a run begins with its first call
                    result.spans[keys[-1]] = span
            found[kind] = tuple(keys)
        result.keys.append(found[kind])
    return result


def _watchers(calls: Iterable[Call]) -> dict[uuid.UUID, list[Watcher]]:
    tenants, targets = set(), {""}
    for call in calls:
        tenants.add(call.tenant_id)
        targets.update((str(call.subject_id), str(call.swarm_id), call.agent))
    with connection.cursor() as cursor:
        # The four scopes are spelt out so that the index on (tenant, scope, target) finds the few that matter among
        # the many budgets that runs have set for themselves.
        cursor.execute(
            """
            SELECT b.id, b.tenant_id, b.name, b.scope, b.target, b.period, t.time_zone
            FROM costs_budget b JOIN tenants_tenant t ON t.id = b.tenant_id
            WHERE b.tenant_id = ANY(%s) AND b.scope IN ('tenant', 'end_user', 'swarm', 'agent')
              AND b.target = ANY(%s) AND b.is_active
            """,
            [list(tenants), list(targets)],
        )
        rows = cursor.fetchall()
    by_tenant: dict[uuid.UUID, list[Watcher]] = {}
    for budget_id, tenant_id, name, scope, target, period, zone in rows:
        watcher = Watcher(budget_id, tenant_id, name, scope, target, period, zoneinfo.ZoneInfo(zone))
        by_tenant.setdefault(tenant_id, []).append(watcher)
    return by_tenant


def ids_of_periods(spans: Mapping[PeriodKey, Span], *, now: dt.datetime) -> dict[PeriodKey, int]:
    """The ids of these budget periods, whose missing rows it makes. Takes no lock that outlasts an autocommit."""
    found = _find_periods(spans)
    missing = sorted(spans.keys() - found.keys())
    if missing:
        with connection.cursor() as cursor:
            # The share lock waits for a change of the limit that is under way, and makes the next one wait for this
            # row: no period is ever made with a limit that no longer holds.
            cursor.execute(
                f"""
                INSERT INTO costs_budgetperiod (budget_id, key, holder, starts_at, ends_at, "limit", ceiling,
                                                spent, reserved, overage, next_alert, updated_at)
                SELECT b.id, k.key, k.holder, k.starts_at, k.ends_at, b."limit",
                       CASE b.enforcement WHEN 'hard' THEN b."limit" END, 0, 0, 0, {FIRST_ALERT}, %s
                FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])
                         AS k (budget_id, key, holder, starts_at, ends_at)
                JOIN costs_budget b ON b.id = k.budget_id
                ORDER BY b.id, k.key, k.holder
                FOR SHARE OF b
                ON CONFLICT DO NOTHING
                """,
                [
                    now,
                    [k.budget_id for k in missing],
                    [k.key for k in missing],
                    [k.holder for k in missing],
                    [spans[k].starts_at for k in missing],
                    [spans[k].ends_at for k in missing],
                ],
            )
        found = _find_periods(spans)
    return found


def _find_periods(keys: Iterable[PeriodKey]) -> dict[PeriodKey, int]:
    listed = list(keys)
    if not listed:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT p.budget_id, p.key, p.holder, p.id
            FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS k (budget_id, key, holder)
            JOIN costs_budgetperiod p ON p.budget_id = k.budget_id AND p.key = k.key AND p.holder = k.holder
            """,
            [[k.budget_id for k in listed], [k.key for k in listed], [k.holder for k in listed]],
        )
        return {PeriodKey(budget_id, key, holder): period_id for budget_id, key, holder, period_id in cursor}


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands in its current period; the fullest one where it watches several holders or runs.

    Amounts in nano-dollars. ``spent`` includes what a provider billed beyond its reservation. ``percent`` is of what is
    spent or reserved. ``of`` counts the current periods; 0 means that nothing was charged yet. ``exhausted_at`` is when
    a call was first refused for good. ``counts_from`` is when the budget was made: it counts nothing from before.
    """

    budget_id: uuid.UUID
    key: str
    holder: str
    starts_at: dt.datetime | None
    ends_at: dt.datetime | None
    limit: int
    spent: int = 0
    reserved: int = 0
    of: int = 0
    period_id: int | None = None
    exhausted_at: dt.datetime | None = None
    alert_levels: tuple[int, ...] = ()
    counts_from: dt.datetime | None = None
    is_hard: bool = True

    @property
    def remaining(self) -> int:
        return max(self.limit - self.spent - self.reserved, 0)

    @property
    def level(self) -> int | None:
        """The highest alert level that is reached, by what is spent or by a call that was refused for good."""
        reached = highest_reached(self.alert_levels, owed=self.spent, limit=self.limit) or 0
        if self.exhausted_at and USED_UP in self.alert_levels:
            reached = max(reached, USED_UP)
        return reached or None

    @property
    def percent(self) -> float:
        return 100.0 * (self.spent + self.reserved) / self.limit if self.limit else 100.0

    @property
    def is_used_up(self) -> bool:
        """Nothing is left, and calls in flight can give nothing back."""
        return self.spent >= self.limit

    @property
    def has_run_out(self) -> bool:
        """Nothing is left, or too little for a call that was refused."""
        return self.is_used_up or (self.is_hard and self.exhausted_at is not None)

    @property
    def is_near(self) -> bool:
        """It needs a look: one of its alert levels is reached, or it has run out."""
        return self.has_run_out or self.level is not None

    @property
    def word(self) -> str:
        """How it is, in a word or two."""
        if self.has_run_out:
            return "used up" if self.is_hard else "over its limit"
        return f"past its {self.level} % alert" if self.level else "within its limit"


_OF_PERIOD = ("key", "holder", "starts_at", "ends_at", "limit", "spent", "reserved", "of", "period_id", "exhausted_at")


def standings(budgets: Sequence[Budget], *, now: dt.datetime) -> dict[uuid.UUID, Standing]:
    """How each of these budgets stands now. Two queries, however many budgets."""
    if not budgets:
        return {}
    zones = {
        tenant_id: zoneinfo.ZoneInfo(name)
        for tenant_id, name in Tenant.objects.filter(pk__in={b.tenant_id for b in budgets}).values_list(
            "pk", "time_zone"
        )
    }
    result: dict[uuid.UUID, Standing] = {}
    sought: list[tuple[uuid.UUID, str | None, dt.datetime, dt.datetime]] = []
    for budget in budgets:
        span = span_of(budget.period, zones[budget.tenant_id], now, None)
        key, starts_at, ends_at = span or ("", None, None)
        result[budget.pk] = Standing(
            budget.pk,
            key,
            "",
            starts_at,
            ends_at,
            budget.limit,
            alert_levels=tuple(budget.alert_levels),
            counts_from=budget.created_at,
            is_hard=budget.is_hard,
        )
        if span:
            # A day of slack: the tenant's time zone may have been another one when the row was made.
            sought.append((budget.pk, span.key, span.starts_at - dt.timedelta(days=1), _EVER))
        elif budget.scope == Scope.SWARM and budget.target:
            sought.append((budget.pk, None, _EVER, _EVER))
        else:
            sought.append((budget.pk, None, now - RUN_LASTS_AT_MOST, now - RUN_STAYS_CURRENT))
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT ON (p.budget_id) p.budget_id, p.key, p.holder, p.starts_at, p.ends_at, p."limit",
                   p.spent + p.overage, p.reserved, count(*) OVER (PARTITION BY p.budget_id), p.id, p.exhausted_at
            FROM unnest(%s::uuid[], %s::text[], %s::timestamptz[], %s::timestamptz[])
                     AS s (budget_id, key, started_since, charged_since)
            JOIN costs_budgetperiod p ON p.budget_id = s.budget_id AND p.starts_at >= s.started_since
            WHERE (s.key IS NULL OR p.key = s.key) AND (p.updated_at >= s.charged_since OR p.reserved > 0)
            ORDER BY p.budget_id, (p.spent + p.reserved + p.overage)::float8 / greatest(p."limit", 1) DESC, p.id
            """,
            [list(column) for column in zip(*sought, strict=True)],
        )
        for budget_id, *row in cursor:
            found = dict(zip(_OF_PERIOD, row, strict=True))
            result[budget_id] = replace(result[budget_id], **found)
    return result


def blocked_tenants(*, now: dt.datetime) -> dict[uuid.UUID, tuple[str, dt.datetime | None]]:
    """The tenants that a hard budget of the whole tenant keeps from spending: the reason, and until when.

    Three queries. Budgets with calls in flight that may give something back do not block.
    """
    budgets = list(
        Budget.objects.active()
        .filter(scope=Scope.TENANT, enforcement=Enforcement.HARD)
        .exclude(period=Period.RUN)
        .only(
            "id", "tenant_id", "name", "scope", "target", "period", "limit", "alert_levels", "created_at", "enforcement"
        )
        .order_by("tenant_id", "name")
    )
    stand = standings(budgets, now=now)
    blocked: dict[uuid.UUID, tuple[str, dt.datetime | None]] = {}
    for budget in budgets:
        standing = stand[budget.pk]
        if not standing.is_used_up:
            continue
        known = blocked.get(budget.tenant_id)
        # Of several, the one that lasts longest says when work can go on.
        if known is None or (known[1] and standing.ends_at and standing.ends_at > known[1]):
            reason = f'Budget "{budget.name}" is used up: {usd_label(standing.spent)} of {usd_label(standing.limit)}.'
            blocked[budget.tenant_id] = (reason, standing.ends_at)
    return blocked
