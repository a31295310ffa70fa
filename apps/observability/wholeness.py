"""Questions that prove the system whole. Each is one bounded query; its answer lists faults, none when all is well.

A change and all that follows from it are one transaction here, so one statement, which sees one moment, never catches
the system half way. Where the orchestrator has to act first (a lease that ended), it is given ``GRACE``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import connection

from apps.costs import consistency
from apps.costs.statement_faults import Fault, StatementFault, statement_faults

GRACE = dt.timedelta(seconds=60)
"""How long the orchestrator may take over what is due: it needs seconds, and a stand-by ten more."""
ARCHIVED_WITHIN = dt.timedelta(minutes=15)
"""How long it may take to archive a terminated swarm: four tries."""
SWEPT_WITHIN = dt.timedelta(days=1)
"""How long what failed attempts left in object storage may lie there: four times as long as it is left alone."""
MOST = 20
"""Most faults told by one check."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question. ``find(now)`` answers with a line per fault, at most ``MOST``; ``about`` says what is wrong."""

    name: str
    about: str
    find: Callable[[dt.datetime], list[str]]


CHECKS: list[Check] = []


def check(name: str, about: str) -> Callable[[Callable[[dt.datetime], list[str]]], Callable[[dt.datetime], list[str]]]:
    def add(find: Callable[[dt.datetime], list[str]]) -> Callable[[dt.datetime], list[str]]:
        CHECKS.append(Check(name, about, find))
        return find

    return add


def _rows(sql: str, **params: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} LIMIT {MOST}", params)
        return list(cursor.fetchall())


@check("leases", "Tasks run whose lease has ended: nobody works on them, and nobody took them back.")
def tasks_without_live_lease(now: dt.datetime) -> list[str]:
    rows = _rows(
        """
        SELECT id, swarm_id, lease_expires_at FROM swarms_task
        WHERE status = 'running' AND lease_expires_at < %(before)s ORDER BY lease_expires_at
        """,
        before=now - GRACE,
    )
    return [f"Task {task} of swarm {swarm}: its lease ended at {_time(end)}." for task, swarm, end in rows]


@check("retries", "Tasks wait for a retry that is overdue.")
def retries_overdue(now: dt.datetime) -> list[str]:
    rows = _rows(
        """
        SELECT t.id, t.swarm_id, t.ready_at FROM swarms_task t JOIN swarms_swarm s ON s.id = t.swarm_id
        WHERE t.status = 'waiting' AND s.status = 'running' AND t.ready_at < %(before)s ORDER BY t.ready_at
        """,
        before=now - GRACE,
    )
    return [f"Task {task} of swarm {swarm}: its retry was due at {_time(due)}." for task, swarm, due in rows]


@check("stuck_swarms", "Swarms are under way, but none of their tasks is: nothing will ever move them on.")
def stuck_swarms(now: dt.datetime) -> list[str]:
    rows = _rows(
        """
        SELECT s.id, s.status FROM swarms_swarm s
        WHERE s.status IN ('running', 'stopping') AND s.started_at < %(before)s AND NOT EXISTS (
            SELECT FROM swarms_task t WHERE t.swarm_id = s.id
            AND (t.status = 'running' OR (s.status = 'running' AND t.status IN ('ready', 'waiting')))
        ) ORDER BY s.id
        """,
        before=now - GRACE,
    )
    return [f"Swarm {swarm} is {status} with no task under way." for swarm, status in rows]


@check("archives", "Terminated swarms are not archived, though it was tried again and again.")
def terminated_and_not_archived(now: dt.datetime) -> list[str]:
    rows = _rows(
        """
        SELECT s.id, s.finished_at, coalesce(a.tries, 0), a.error FROM swarms_swarm s
        LEFT JOIN execution_archive a ON a.swarm_id = s.id
        WHERE s.status = 'terminated' AND s.archived_at IS NULL AND s.finished_at < %(before)s
        ORDER BY s.finished_at
        """,
        before=now - ARCHIVED_WITHIN,
    )
    return [
        f"Swarm {swarm} was terminated at {_time(end)} and is not archived after {tries} tries: "
        f"{error or 'no job of the ops cluster (manage.py work --cluster ops) has come to it'}."
        for swarm, end, tries, error in rows
    ]


@check("files", "Files that no task kept lie in object storage for longer than a day: nobody removes them.")
def files_left_behind(now: dt.datetime) -> list[str]:
    rows = _rows(
        """
        SELECT l.key, l.since FROM execution_looseobject l
        WHERE l.since < %(before)s AND NOT EXISTS (
            SELECT FROM swarms_task t WHERE t.status = 'running' AND t.lease_token = l.attempt_id
        ) ORDER BY l.since
        """,
        before=now - SWEPT_WITHIN,
    )
    return [
        f"artifacts/{key} was left behind at {_time(since)}; an hourly job of the ops cluster should have removed it."
        for key, since in rows
    ]


@check("slots", "Agents count free replicas wrongly: they would run too few or too many tasks at once.")
def slots_miscounted(now: dt.datetime) -> list[str]:
    rows = _rows(
        """
        SELECT a.name, a.swarm_id, a.slots_free, a.replicas - count(t.id)
        FROM swarms_swarm s JOIN swarms_agent a ON a.swarm_id = s.id
        LEFT JOIN swarms_task t ON t.agent_id = a.id AND t.swarm_id = s.id AND t.status IN ('ready', 'running')
        WHERE s.status IN ('running', 'paused', 'stopping')
        GROUP BY a.id HAVING a.slots_free <> a.replicas - count(t.id) ORDER BY a.id
        """
    )
    return [
        f"Agent {name} of swarm {swarm} counts {counted} replicas as free; {actual} are."
        for name, swarm, counted, actual in rows
    ]


@check("pool", "The pool's counts differ from what swarms hold: room is lost, or given twice.")
def pool_miscounted(now: dt.datetime) -> list[str]:
    rows = _rows(
        """
        SELECT r.name, r.counted, r.held FROM swarms_resourcepool p, LATERAL (
            SELECT coalesce(sum(agents_asked), 0) AS agents, coalesce(sum(memory_gb_asked), 0) AS memory_gb,
                coalesce(sum(cpu_asked), 0) AS cpu, count(*) AS swarms
            FROM swarms_swarm WHERE holds_resources AND status IN ('running', 'paused', 'stopping')
        ) h, LATERAL (VALUES
            ('agents', p.agents_used::numeric, h.agents::numeric), ('GB of memory', p.memory_gb_used, h.memory_gb),
            ('CPU cores', p.cpu_used, h.cpu), ('swarms', p.swarms_used::numeric, h.swarms::numeric)
        ) AS r (name, counted, held)
        WHERE r.counted <> r.held
        """
    )
    return [f"The pool counts {counted} {name} in use, and swarms hold {held}." for name, counted, held in rows]


@check("holdings", "What is charged by the hour is not what swarms hold: agent-hours are missed, or are too many.")
def holdings_differ_from_swarms(now: dt.datetime) -> list[str]:
    rows = _rows(
        """
        SELECT coalesce(s.id, h.swarm_id), s.id IS NOT NULL
        FROM (SELECT id, agents_asked FROM swarms_swarm
              WHERE holds_resources AND status IN ('running', 'paused', 'stopping')) s
        FULL JOIN (SELECT swarm_id, agents FROM swarms_holding WHERE until IS NULL) h ON h.swarm_id = s.id
        WHERE s.id IS NULL OR h.swarm_id IS NULL OR s.agents_asked <> h.agents ORDER BY 1
        """
    )
    return [
        f"Swarm {swarm} holds resources that no holding counts."
        if holds
        else f"Swarm {swarm} holds nothing, but its holding goes on."
        for swarm, holds in rows
    ]


@check("charges", "Model calls were charged to swarms without saying which task made them.")
def charges_without_task(now: dt.datetime) -> list[str]:
    return [
        f"Ledger entry {entry.entry_id} of tenant {entry.tenant_id} at {_time(entry.at)} names no task."
        for entry in consistency.charges_without_task(limit=MOST)
    ]


@check("calls", "Model calls were made and are not in the ledger.")
def calls_without_charge(now: dt.datetime) -> list[str]:
    # A call is settled with its attempt, or charged when its reservation ends, a lease later: hence the grace.
    rows = _rows(
        """
        WITH latest AS (
            SELECT id, task_id, requests FROM execution_attempt
            WHERE finished_at >= %(since)s AND finished_at < %(before)s
            AND requests > 0 AND (cost > 0 OR outcome = 'succeeded')
            ORDER BY finished_at DESC LIMIT 5000
        ), charged AS (
            SELECT attempt_id FROM costs_ledgerentry
            WHERE swarm_id IN (SELECT t.swarm_id FROM latest JOIN swarms_task t ON t.id = latest.task_id)
            AND at >= %(since)s - interval '1 day' AND attempt_id IS NOT NULL
        )
        SELECT id, task_id, requests FROM latest
        WHERE NOT EXISTS (SELECT FROM charged WHERE charged.attempt_id = latest.id) ORDER BY id
        """,
        since=now - dt.timedelta(hours=1),
        before=now - 2 * GRACE,
    )
    return [f"Attempt {attempt} at task {task} made {count} calls, none is charged." for attempt, task, count in rows]


@check("spending", "Budget periods differ from the ledger.")
def periods_differ_from_ledger(now: dt.datetime) -> list[str]:
    return [_gap(gap, "spent") for gap in consistency.spent_differs_from_ledger(limit=MOST)]


@check("reserved", "Budget periods count reservations wrongly: money is blocked, or could be spent twice.")
def periods_differ_from_reservations(now: dt.datetime) -> list[str]:
    return [_gap(gap, "reserved") for gap in consistency.reserved_differs_from_reservations(limit=MOST)]


@check("reservations", "Reservations outlived their lease: money that is not owed is blocked.")
def leftover_reservations(now: dt.datetime) -> list[str]:
    return [
        f"Reservation {held.reservation_id} of tenant {held.tenant_id} ended at {_time(held.expires_at)}."
        for held in consistency.leftover_reservations(now=now, grace=GRACE, limit=MOST)
    ]


@check("rollups", "Roll-ups of costs differ from the ledger: reports are wrong. See manage.py verify_rollups.")
def rollups_differ_from_ledger(now: dt.datetime) -> list[str]:
    return [
        f"{gap.day}, tenant {gap.tenant_id}, {gap.what}: the roll-ups say {gap.recorded}, the ledger {gap.rows}."
        for gap in consistency.days_differ_from_ledger()[:MOST]
    ]


@check("statements", "Statements are not whole: a month hangs, does not add up, overlaps another, or left entries out.")
def statements_not_whole(now: dt.datetime) -> list[str]:
    return [_of_statement(fault) for fault in statement_faults(now=now, limit=MOST)]


@check("partitions", "Rows lie in a default partition: the month's partition was not made in time.")
def rows_in_default_partitions(now: dt.datetime) -> list[str]:
    tables = ("events_event", "audit_auditentry", "costs_ledgerentry")
    union = " UNION ALL ".join(f"(SELECT '{table}', at FROM {table}_default LIMIT 1)" for table in tables)
    return [f"{table} has rows of {at:%Y-%m} in its default partition." for table, at in _rows(union)]


def _of_statement(found: StatementFault) -> str:
    month = f"{found.period} of {found.tenant}"
    at = _time(found.at) if found.at else ""
    says = f"{month} was closed with {found.recorded} nano-dollars in {found.recorded_entries} entries"
    counted = f"{found.found} in {found.found_entries}"
    return {
        Fault.CLOSING: f"{month} has been closing since {at}, and nobody finishes it.",
        Fault.LINES: f"{says}; its lines add up to {counted}.",
        Fault.LEDGER: f"{says}; the ledger has {counted}.",
        Fault.OVERLAPS: f"{month} overlaps the month before it, which goes on until {at}.",
        Fault.OUTSIDE: f"Entry of {found.tenant} at {at} is before {found.period}, which is closed, and in no month.",
    }[Fault(found.fault)]


def _gap(gap: consistency.PeriodGap, what: str) -> str:
    holder = f", {gap.holder}" if gap.holder else ""
    return (
        f'Budget "{gap.budget}" of tenant {gap.tenant_id}, {gap.key}{holder}: {gap.recorded} nano-dollars are '
        f"{what}, and the rows say {gap.rows}."
    )


def _time(at: dt.datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
