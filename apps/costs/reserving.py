"""Holding money for calls before they are made, so that no hard budget can be exceeded.

Locks are taken in one order everywhere: reservations by id, then budget periods by id (between them, whoever records
what became of tasks locks those and their swarms). Each function here takes them once; calling several of them in one
transaction gives that up, and with it the freedom from deadlocks.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from django.db import connection, transaction

from apps.costs import alerting
from apps.costs.asking import RESERVATION, CallRequest, Refused, Verdict, columns_of, list_of_lists
from apps.costs.fitting import Ask, PeriodState, Refusal, fit
from apps.costs.models import Cause
from apps.costs.reserving_at_once import reserve_at_once
from apps.costs.settling import Settled, Settlement, charge_expired, release, settle
from apps.costs.watching import PeriodKey, Watched, ids_of_periods, watching
from apps.events import log as events
from portal.database.arrays import as_rows
from portal.money import usd_label

__all__ = [
    "CallRequest",
    "Refused",
    "Settled",
    "Settlement",
    "Verdict",
    "charge_expired",
    "extend",
    "extend_calls",
    "release",
    "reserve",
    "settle",
]

log = structlog.get_logger(__name__)


def reserve(requests: Sequence[CallRequest], *, now: dt.datetime, fresh: bool = False) -> list[Verdict]:
    """Reserves each call's amount in every budget period that watches it, or refuses it; verdicts in the same order.

    One transaction for all. Calls are granted in the order given, each wholly or not at all. An id that is reserved
    already is granted again and not counted twice; ``fresh`` says that none of them was asked for before, which makes
    the usual case quicker. Not to be called inside a transaction that holds other locks.
    """
    unique = {request.id: request for request in requests}
    if not unique:
        return []
    calls = list(unique.values())
    if fresh and reserve_at_once(calls, now=now):
        return [Verdict(request.id, True) for request in requests]
    watched = watching(calls, now=now)
    done = _reserve(calls, watched, now=now)
    if done is None:
        ids_of_periods(watched.spans, now=now)
        done = _reserve(calls, watched, now=now, made=True)
        assert done is not None
    refusals, ids, periods = done
    keys_by_id = {period_id: key for key, period_id in ids.items()}
    verdicts = {call.id: _verdict(call, refusals.get(call.id), keys_by_id, watched, periods) for call in calls}
    return [verdicts[request.id] for request in requests]


@dataclass(frozen=True, slots=True)
class _Locked(PeriodState):
    exhausted: bool


class _Done(NamedTuple):
    refusals: dict[uuid.UUID, Refusal]
    ids: dict[PeriodKey, int]
    periods: dict[int, _Locked]


def _reserve(calls: Sequence[CallRequest], watched: Watched, *, now: dt.datetime, made: bool = False) -> _Done | None:
    """Reserves them in one transaction. None: nothing was done, as a period has to be made first.

    ``made``: that was done; a period that is still missing is one of a budget that was deleted since.
    """
    with transaction.atomic(savepoint=False):
        ids, periods = _lock(watched.spans, some=made)
        if len(ids) < len(watched.spans) and not made:
            return None
        asks = {
            call.id: Ask(call.amount, tuple(sorted(ids[key] for key in keys if key in ids)))
            for call, keys in zip(calls, watched.keys, strict=True)
        }
        refusals = _fit(asks, periods)
        _hold([call for call in calls if call.id not in refusals], asks, now=now)
        by_id = {call.id: call for call in calls}
        _announce_exhausted(
            {refusal.period_id: by_id[id] for id, refusal in reversed(refusals.items()) if not refusal.may_fit_later},
            periods,
            now=now,
        )
    return _Done(refusals, ids, periods)


def _lock(keys: Iterable[PeriodKey], *, some: bool) -> tuple[dict[PeriodKey, int], dict[int, _Locked]]:
    """The periods, locked in the order of their ids until the transaction ends: those that there are, or all or none.

    Where one has to be made first, no other may be locked: who makes it may be about to lock those, and a transaction
    around this one would hold on to them.
    """
    listed = list(keys)
    if not listed:
        return {}, {}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH found AS MATERIALIZED (
                SELECT p.id FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS k (budget_id, key, holder)
                JOIN costs_budgetperiod p ON p.budget_id = k.budget_id AND p.key = k.key AND p.holder = k.holder)
            SELECT p.budget_id, p.key, p.holder,
                   p.id, p.ceiling IS NOT NULL, p."limit", p.spent, p.reserved, p.overage, p.exhausted_at IS NOT NULL
            FROM found JOIN costs_budgetperiod p USING (id)
            WHERE (SELECT count(*) FROM found) >= %s
            ORDER BY p.id FOR UPDATE OF p
            """,
            [
                [key.budget_id for key in listed],
                [key.key for key in listed],
                [key.holder for key in listed],
                0 if some else len(listed),
            ],
        )
        rows = cursor.fetchall()
    return {PeriodKey(*row[:3]): row[3] for row in rows}, {row[3]: _Locked(*row[3:]) for row in rows}


def _fit(asks: dict[uuid.UUID, Ask], periods: dict[int, _Locked]) -> dict[uuid.UUID, Refusal]:
    """The refusals by call. Looks for calls that are reserved already only when something did not fit."""

    def refuse(new: dict[uuid.UUID, Ask]) -> dict[uuid.UUID, Refusal]:
        answers = fit(list(new.values()), periods)
        return {id: answer for id, answer in zip(new, answers, strict=True) if answer}

    refusals = refuse(asks)
    if refusals and (held := _existing(asks)):
        refusals = refuse({id: ask for id, ask in asks.items() if id not in held})
    return refusals


def _existing(ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM costs_reservation WHERE id = ANY(%s)", [list(ids)])
        return {row[0] for row in cursor}


def _hold(calls: Sequence[CallRequest], asks: dict[uuid.UUID, Ask], *, now: dt.datetime) -> None:
    """Writes the reservations, and adds those that are new to their periods, in one statement."""
    if not calls:
        return
    calls = sorted(calls, key=lambda call: call.id)
    period_ids = list_of_lists([asks[call.id].period_ids for call in calls])
    rows, parameters = as_rows({**RESERVATION, "period_ids": "text"}, {**columns_of(calls), "period_ids": period_ids})
    with connection.cursor() as cursor:
        # NOT EXISTS, though there is ON CONFLICT, because a row that is just being settled must not be waited for: its
        # settlement waits for the periods locked here.
        cursor.execute(
            f"""
            WITH held AS (
                INSERT INTO costs_reservation ({", ".join(RESERVATION)}, period_ids, created_at)
                SELECT {", ".join(f"c.{name}" for name in RESERVATION)}, c.period_ids::bigint[], %(now)s
                FROM ({rows}) AS c
                WHERE NOT EXISTS (SELECT FROM costs_reservation r WHERE r.id = c.id)
                ON CONFLICT DO NOTHING
                RETURNING amount, period_ids
            ), added AS (
                SELECT id, sum(amount)::bigint AS amount FROM held CROSS JOIN unnest(period_ids) AS id GROUP BY id
            )
            UPDATE costs_budgetperiod p SET reserved = p.reserved + added.amount, updated_at = %(now)s
            FROM added WHERE p.id = added.id
            """,
            {**parameters, "now": now},
        )


def _announce_exhausted(refused: dict[int, CallRequest], periods: dict[int, _Locked], *, now: dt.datetime) -> None:
    """Marks the periods that refuse for good, with one event for each that was not marked before."""
    fresh = [period_id for period_id in refused if not periods[period_id].exhausted]
    if not fresh:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE costs_budgetperiod p SET exhausted_at = %s FROM costs_budget b
            WHERE p.id = ANY(%s) AND b.id = p.budget_id
            RETURNING p.id, b.id, b.name, p.key, p.holder, p."limit", p.spent + p.overage, p.reserved
            """,
            [now, fresh],
        )
        rows = cursor.fetchall()
    announced = []
    for period_id, budget_id, name, key, holder, limit, spent, reserved in sorted(rows):
        call = refused[period_id]
        data = {
            "budget_id": str(budget_id),
            "budget": name,
            "period": key,
            "holder": holder,
            "limit": limit,
            "spent": spent,
            "reserved": reserved,
            "asked": call.amount,
        }
        announced.append(events.NewEvent("budget.exhausted", call.tenant_id, call.swarm_id, call.task_id, data))
        log.warning("budget_exhausted", tenant_id=str(call.tenant_id), swarm_id=str(call.swarm_id), **data)
    swarms = {period_id: refused[period_id].swarm_id for period_id in fresh}
    announced += alerting.review(fresh, cause=Cause.REFUSED, now=now, swarms=swarms)
    events.emit(announced, now=now)


def _verdict(
    call: CallRequest,
    refusal: Refusal | None,
    keys: dict[int, PeriodKey],
    watched: Watched,
    periods: dict[int, _Locked],
) -> Verdict:
    if refusal is None:
        return Verdict(call.id, True)
    period = periods[refusal.period_id]
    key = keys[refusal.period_id]
    budget = watched.names.get(key.budget_id, "")
    reason = (
        f'Budget "{budget}" has {usd_label(refusal.left)} left of {usd_label(period.limit)}; '
        f"this call can cost up to {usd_label(call.amount)}."
    )
    if refusal.may_fit_later:
        reason += " Calls in flight may give some back."
    refused = Refused(
        key.budget_id, budget, key.key, key.holder, period.limit, refusal.left, reason, refusal.may_fit_later
    )
    return Verdict(call.id, False, reason, refusal.may_fit_later, refused)


def extend(attempt_ids: Sequence[uuid.UUID], expires_at: dt.datetime) -> int:
    """Keeps the reservations of these attempts at least until ``expires_at``; how many were kept.

    Those that are just being settled are passed over: their settlement may wait for a task that the caller has locked.
    """
    return _extend("attempt_id", attempt_ids, expires_at, others="SKIP LOCKED")


def extend_calls(ids: Sequence[uuid.UUID], expires_at: dt.datetime) -> int:
    """Keeps these reservations at least until ``expires_at``; how many there are."""
    return _extend("id", ids, expires_at)


def _extend(column: str, ids: Sequence[uuid.UUID], expires_at: dt.datetime, *, others: str = "") -> int:
    with transaction.atomic(savepoint=False), connection.cursor() as cursor:
        cursor.execute(
            f"""
            UPDATE costs_reservation SET expires_at = greatest(expires_at, %s)
            WHERE id IN (SELECT id FROM costs_reservation WHERE {column} = ANY(%s) ORDER BY id FOR UPDATE {others})
            """,
            [expires_at, list(ids)],
        )
        return int(cursor.rowcount)
