"""Which budgets watch a call, and which of their periods it falls into."""

from __future__ import annotations

import datetime as dt
import uuid
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from django.db import connection

from apps.costs.alerting import FIRST_ALERT
from apps.costs.models import Period, Scope


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

    @property
    def mark(self) -> str:
        """What decides which calls it watches, in which period, as ``SAME_BUDGETS`` puts it."""
        return f"{self.id} {self.scope} {self.period} {self.zone.key} {self.target}"


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
    tenants, targets = _sought(calls)
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
        watchers = [
            Watcher(budget_id, tenant_id, name, scope, target, period, zoneinfo.ZoneInfo(zone))
            for budget_id, tenant_id, name, scope, target, period, zone in cursor
        ]
    _last_seen.learn(tenants, targets, watchers)
    return _match(calls, watchers, now=now, times=times)


def _match(
    calls: Sequence[Call],
    watchers: Iterable[Watcher],
    *,
    now: dt.datetime,
    times: Sequence[dt.datetime] | None = None,
) -> Watched:
    by_tenant: dict[uuid.UUID, list[Watcher]] = {}
    result = Watched([], {}, {})
    for watcher in watchers:
        by_tenant.setdefault(watcher.tenant_id, []).append(watcher)
        result.names[watcher.id] = watcher.name
    found: dict[tuple[object, ...], tuple[PeriodKey, ...]] = {}
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


def _sought(calls: Iterable[Call]) -> tuple[set[uuid.UUID], set[str]]:
    """The tenants and targets of which budgets may watch the calls."""
    tenants, targets = set(), {""}
    for call in calls:
        tenants.add(call.tenant_id)
        targets.update((str(call.subject_id), str(call.swarm_id), call.agent))
    return tenants, targets


class Guess(NamedTuple):
    """What watches the calls unless a budget was changed since this process last looked.

    ``SAME_BUDGETS`` is the check, with the parameters ``parameters``.
    """

    watched: Watched
    parameters: dict[str, list[Any]]


SAME_BUDGETS = """
    SELECT %(marks)s::text[] = ARRAY(
        SELECT concat_ws(' ', b.id, b.scope, b.period, t.time_zone, b.target)
        FROM costs_budget b JOIN tenants_tenant t ON t.id = b.tenant_id
        WHERE b.tenant_id = ANY(%(tenants)s::uuid[]) AND b.scope IN ('tenant', 'end_user', 'swarm', 'agent')
          AND b.target = ANY(%(targets)s::text[]) AND b.is_active
        ORDER BY b.id)
"""
"""SQL: whether those budgets watch the calls of a ``Guess`` that were guessed."""


def guess(calls: Sequence[Call], *, now: dt.datetime) -> Guess | None:
    """What ``watching`` would answer, without a query; for a statement that checks it and otherwise does nothing.

    None where this process has not looked at a tenant's budgets yet.
    """
    tenants, targets = _sought(calls)
    seen = _last_seen.guess(tenants, targets)
    if seen is None:
        return None
    watchers = sorted(seen, key=lambda watcher: watcher.id)
    marks = [watcher.mark for watcher in watchers]
    return Guess(_match(calls, watchers, now=now), {"marks": marks, "tenants": list(tenants), "targets": list(targets)})


REMEMBERED = 10_000
"""With more budgets than these in mind, a process begins anew: runs may have one each."""


class _LastSeen:
    """The budgets that this process saw last, by tenant and target. May be wrong at any time."""

    def __init__(self) -> None:
        self._watchers: dict[uuid.UUID, dict[str, tuple[Watcher, ...]]] = {}
        self.count = 0

    def learn(self, tenants: set[uuid.UUID], targets: set[str], watchers: Iterable[Watcher]) -> None:
        if self.count > REMEMBERED:
            self._watchers, self.count = {}, 0
        learnt = self._watchers
        for tenant in tenants:
            known = learnt.setdefault(tenant, {})
            for target in targets:
                self.count -= len(known.pop(target, ()))
        for watcher in watchers:
            known = learnt[watcher.tenant_id]
            known[watcher.target] = (*known.get(watcher.target, ()), watcher)
            self.count += 1

    def guess(self, tenants: set[uuid.UUID], targets: set[str]) -> list[Watcher] | None:
        known = [self._watchers.get(tenant) for tenant in tenants]
        if None in known:
            return None
        return [watcher for each in known if each for target in targets for watcher in each.get(target, ())]


_last_seen = _LastSeen()


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
