"""Which alerts of a budget period are due: facts in, decision out; and the writing of them, under the period's lock.

A period's ``next_alert`` is what is owed when the next of its alerts is due, so a charge that reaches none costs no
statement. Whoever charges a period compares it with what is owed then, and calls :func:`review` when it is reached.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog
from django.db import connection

from apps.costs.fitting import BIGGEST
from apps.costs.models.alert import Cause
from apps.events import log as events

log = structlog.get_logger(__name__)

USED_UP = 100
"""The level at which nothing is left."""

FIRST_ALERT = """
    CASE WHEN div(b."limit"::numeric * b.alert_levels[1] + 99, 100) <= 9223372036854775807
    THEN greatest(div(b."limit"::numeric * b.alert_levels[1] + 99, 100), 1)::bigint END
"""
"""SQL: ``next_alert`` of a new period of budget ``b``: the threshold of its lowest level."""


def threshold(level: int, limit: int) -> int:
    """The nano-dollars owed at which ``level`` percent of ``limit`` is reached; at least one: nothing alerts nobody."""
    return max(-(-limit * level // 100), 1)


def highest_reached(levels: Sequence[int], *, owed: int, limit: int) -> int | None:
    """The highest of these levels that is reached, if any is."""
    return max((level for level in levels if owed >= threshold(level, limit)), default=None)


@dataclass(frozen=True, slots=True)
class Raised:
    """An alert that stands."""

    id: int
    level: int
    by_refusal: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Levels to raise, ids of alerts to withdraw, and what is owed when the next alert is due (None: never)."""

    new: tuple[int, ...]
    withdrawn: tuple[int, ...]
    next_alert: int | None


def plan(
    levels: Sequence[int],
    raised: Sequence[Raised],
    *,
    owed: int,
    limit: int,
    refused: bool = False,
    changed: bool = False,
    refusals_stand: bool = True,
) -> Plan:
    """What becomes of a period's alerts.

    ``refused``: a call was refused for good just now, which uses the budget up whatever is owed. ``changed``: the
    budget was changed, so what is no longer true is withdrawn; what a refusal raised only unless ``refusals_stand``.
    Without a change nothing is withdrawn: that spending reached a level stays true when a correction lowers it.
    """
    untrue = tuple(
        alert.id
        for alert in raised
        if changed and owed < threshold(alert.level, limit) and not (alert.by_refusal and refusals_stand)
    )
    stands = {alert.level for alert in raised if alert.id not in untrue}
    new = tuple(
        level
        for level in levels
        if level not in stands and (owed >= threshold(level, limit) or (refused and level == USED_UP))
    )
    left = min((threshold(level, limit) for level in levels if level not in stands and level not in new), default=None)
    return Plan(new, untrue, left if left is not None and left <= BIGGEST else None)


@dataclass(frozen=True, slots=True)
class _Period:
    id: int
    limit: int
    owed: int
    key: str
    holder: str
    budget_id: uuid.UUID
    tenant_id: uuid.UUID
    budget: str
    levels: list[int]
    is_hard: bool
    next_alert: int | None


def review(
    period_ids: Collection[int],
    *,
    cause: Cause,
    now: dt.datetime,
    swarms: Mapping[int, uuid.UUID | None] | None = None,
    refusals_stand: Collection[int] = (),
) -> list[events.NewEvent]:
    """Raises what is due in these periods, whose rows the caller has locked and changed already.

    The events to emit, one for each alert raised or withdrawn. ``swarms`` says whose call it was, by period.
    ``cause`` CHANGED also withdraws; ``refusals_stand`` are the periods in which calls refused before still do not fit.
    """
    periods = _read(period_ids)
    raised = _standing(periods)
    plans = {
        period.id: plan(
            period.levels,
            raised.get(period.id, ()),
            owed=period.owed,
            limit=period.limit,
            refused=cause is Cause.REFUSED,
            changed=cause is Cause.CHANGED,
            refusals_stand=period.id in refusals_stand,
        )
        for period in periods
    }
    told = _withdraw(periods, plans, now=now)
    told += _raise(periods, plans, cause=cause, swarms=swarms or {}, now=now)
    moved = {p.id: plans[p.id].next_alert for p in periods if plans[p.id].next_alert != p.next_alert}
    if moved:
        with connection.cursor() as cursor:
            cursor.execute(
                """
                UPDATE costs_budgetperiod p SET next_alert = n.next_alert
                FROM unnest(%s::bigint[], %s::bigint[]) AS n (id, next_alert) WHERE p.id = n.id
                """,
                [list(moved), list(moved.values())],
            )
    return told


def _read(period_ids: Collection[int]) -> list[_Period]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT p.id, p."limit", p.spent + p.overage, p.key, p.holder, b.id, b.tenant_id, b.name, b.alert_levels,
                   p.ceiling IS NOT NULL, p.next_alert
            FROM costs_budgetperiod p JOIN costs_budget b ON b.id = p.budget_id
            WHERE p.id = ANY(%s) ORDER BY p.id
            """,
            [list(period_ids)],
        )
        return [_Period(*row) for row in cursor]


def _standing(periods: Sequence[_Period]) -> dict[int, list[Raised]]:
    found: dict[int, list[Raised]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT period_id, id, level, cause = 'refused' FROM costs_budgetalert
            WHERE period_id = ANY(%s) AND withdrawn_at IS NULL
            """,
            [[period.id for period in periods]],
        )
        for period_id, *alert in cursor:
            found.setdefault(period_id, []).append(Raised(*alert))
    return found


def _raise(
    periods: Sequence[_Period],
    plans: Mapping[int, Plan],
    *,
    cause: Cause,
    swarms: Mapping[int, uuid.UUID | None],
    now: dt.datetime,
) -> list[events.NewEvent]:
    rows = [(period, level) for period in periods for level in plans[period.id].new]
    if not rows:
        return []
    with connection.cursor() as cursor:
        # The period's lock keeps two from raising one alert; were it not so, the second must not fail the settlement.
        cursor.execute(
            """
            INSERT INTO costs_budgetalert (period_id, level, cause, at, owed, "limit")
            SELECT a.period_id, a.level, %s, %s, a.owed, a."limit"
            FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::bigint[]) AS a (period_id, level, owed, "limit")
            ON CONFLICT DO NOTHING RETURNING period_id, level
            """,
            [
                cause,
                now,
                [period.id for period, _ in rows],
                [level for _, level in rows],
                [period.owed for period, _ in rows],
                [period.limit for period, _ in rows],
            ],
        )
        written = set(cursor.fetchall())
    told = []
    for period, level in rows:
        if (period.id, level) in written:
            data = {**_data(period), "cause": str(cause)}
            told.append(
                events.NewEvent("budget.alert", period.tenant_id, swarms.get(period.id), data={"level": level, **data})
            )
            log.warning("budget_alert", tenant_id=str(period.tenant_id), percent=level, **data)
    return told


def _withdraw(periods: Sequence[_Period], plans: Mapping[int, Plan], *, now: dt.datetime) -> list[events.NewEvent]:
    ids = [alert_id for plan in plans.values() for alert_id in plan.withdrawn]
    if not ids:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE costs_budgetalert SET withdrawn_at = %s WHERE id = ANY(%s) RETURNING period_id, level", [now, ids]
        )
        rows = sorted(cursor.fetchall())
    by_id = {period.id: period for period in periods}
    return [
        events.NewEvent(
            "budget.alert_withdrawn",
            by_id[period_id].tenant_id,
            data={"level": level, **_data(by_id[period_id])},
        )
        for period_id, level in rows
    ]


def _data(period: _Period) -> dict[str, object]:
    return {
        "budget_id": str(period.budget_id),
        "budget": period.budget,
        "enforcement": "hard" if period.is_hard else "soft",
        "period": period.key,
        "holder": period.holder,
        "owed": period.owed,
        "limit": period.limit,
    }
