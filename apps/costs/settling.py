"""What becomes of a reservation: the cost that was billed, nothing, or all of it where nobody knows.

Whoever deletes the reservation's row moves its money, so it is moved once, whatever runs at the same time.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
from django.db import connection, transaction
from django.utils import timezone

from apps.costs import alerting
from apps.costs.entries import NewEntry, write
from apps.costs.fitting import BIGGEST
from apps.costs.models import Cause, Kind
from apps.costs.prices import Rates
from apps.events import log as events

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a call cost, in nano-dollars. ``amount`` None: nobody knows, so the whole reservation is charged.

    ``rates`` is what the tokens were priced at; None where the amount was given as such. ``input_tokens`` includes
    those of the provider's prompt cache.
    """

    reservation_id: uuid.UUID
    amount: int | None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    rates: Rates | None = None

    def __post_init__(self) -> None:
        counts = (self.input_tokens, self.output_tokens, self.cache_read_tokens, self.cache_write_tokens)
        for value in (self.amount or 0, *counts):
            if not 0 <= value <= BIGGEST:
                raise ValueError(f"cannot settle {self}: amounts and tokens must be from 0 to {BIGGEST}")


@dataclass(frozen=True, slots=True)
class Settled:
    """What the ledger holds for the call now, in nano-dollars, corrections included.

    ``late``: its reservation was gone, because it had expired, been released, or been settled before.
    """

    reservation_id: uuid.UUID
    charged: int
    late: bool


class Held(NamedTuple):
    """A reservation that was just deleted."""

    id: uuid.UUID
    tenant_id: uuid.UUID
    subject_id: uuid.UUID | None
    swarm_id: uuid.UUID | None
    task_id: uuid.UUID | None
    attempt_id: uuid.UUID | None
    agent: str
    model: str
    run: str
    amount: int
    period_ids: list[int]

    def entry(self, amount: int, kind: Kind, settlement: Settlement | None = None, **more: Any) -> NewEntry:
        """A ledger entry for the call it was held for, with the tokens and rates of its settlement."""
        if settlement is not None:
            more |= {name: getattr(settlement, name) for name in _OF_SETTLEMENT}
        return NewEntry(
            tenant_id=self.tenant_id,
            kind=kind,
            amount=amount,
            subject_id=self.subject_id,
            swarm_id=self.swarm_id,
            task_id=self.task_id,
            attempt_id=self.attempt_id,
            reservation_id=self.id,
            agent=self.agent,
            model=self.model,
            run=self.run,
            period_ids=self.period_ids,
            **more,
        )


_OF_SETTLEMENT = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "rates")


@dataclass(slots=True)
class Change:
    """What is added to a period's columns.

    ``unreserved`` was spent without asking: once the period is locked, it becomes spending as far as the ceiling leaves
    room beside what is spent and reserved, and overage beyond that. Below zero it is owed no longer, and comes off the
    overage first.
    """

    spent: int = 0
    reserved: int = 0
    overage: int = 0
    unreserved: int = 0


@dataclass(slots=True)
class Moves:
    """What one transaction does to periods, ledger and event log."""

    periods: dict[int, Change] = field(default_factory=dict)
    entries: list[NewEntry] = field(default_factory=list)
    events: list[events.NewEvent] = field(default_factory=list)

    def add(self, period_ids: Iterable[int], *, spent: int = 0, reserved: int = 0, overage: int = 0) -> None:
        for period_id in period_ids:
            change = self.periods.setdefault(period_id, Change())
            change.spent += spent
            change.reserved += reserved
            change.overage += overage

    def charge_unreserved(self, period_ids: Iterable[int], amount: int) -> None:
        """Counts a cost that nothing was reserved for; its ledger entry is up to the caller."""
        for period_id in period_ids:
            self.periods.setdefault(period_id, Change()).unreserved += amount

    def charge(self, held: Held, amount: int, **entry: Any) -> None:
        """Turns a reservation into a charge; what is beyond the reservation becomes overage."""
        excess = max(amount - held.amount, 0)
        self.add(held.period_ids, spent=amount - excess, reserved=-held.amount, overage=excess)
        self.entries.append(held.entry(amount, Kind.LLM, **entry))
        if excess:
            self.report_overage(held, amount, excess)

    def report_overage(self, held: Held, amount: int, excess: int) -> None:
        data = {
            "reservation_id": str(held.id),
            "model": held.model,
            "agent": held.agent,
            "reserved": held.amount,
            "billed": amount,
            "excess": excess,
        }
        self.events.append(events.NewEvent("budget.overage", held.tenant_id, held.swarm_id, held.task_id, data))
        log.warning("budget_overage", tenant_id=str(held.tenant_id), swarm_id=str(held.swarm_id), **data)


def settle(settlements: Sequence[Settlement], *, now: dt.datetime) -> list[Settled]:
    """Charges what calls cost, in one transaction; the results in the same order. It refuses no cost.

    The amount moves from reserved to spent, and what is beyond the reservation to overage, with a ``budget.overage``
    event. A call that was charged as a whole because its lease ended gets an adjustment entry with the difference,
    once. A settlement whose call is unknown, or was settled before, changes nothing; the unknown ones are reported.
    """
    if not settlements:
        return []
    with transaction.atomic(savepoint=False):
        moves, results = take(settlements)
        apply(moves, now=now)
    return [results[settlement.reservation_id] for settlement in settlements]


def take(settlements: Iterable[Settlement]) -> tuple[Moves, dict[uuid.UUID, Settled]]:
    """The first half of :func:`settle`: takes the reservations away; what is then to be applied, and the results by id.

    For a transaction with locks of its own between the two halves, which applies the moves before it ends. It locks
    reservations, no budget period.
    """
    wanted: dict[uuid.UUID, Settlement] = {}
    for settlement in settlements:
        wanted.setdefault(settlement.reservation_id, settlement)
    moves = Moves()
    results: dict[uuid.UUID, Settled] = {}
    for held in _take(wanted) if wanted else ():
        settlement = wanted[held.id]
        charged = held.amount if settlement.amount is None else settlement.amount
        moves.charge(held, charged, settlement=settlement, unsettled=settlement.amount is None)
        results[held.id] = Settled(held.id, charged, late=False)
    late = [wanted[id] for id in sorted(wanted.keys() - results.keys())]
    if late:
        results.update(_settle_late(late, moves))
    return moves, results


def release(ids: Sequence[uuid.UUID]) -> int:
    """Gives reservations back unspent: the call was never made, or is certain not to be billed; how many there were."""
    with transaction.atomic(savepoint=False):
        moves = Moves()
        taken = _take(ids) if ids else []
        for held in taken:
            moves.add(held.period_ids, reserved=-held.amount)
        apply(moves, now=None)
    return len(taken)


def charge_expired(*, now: dt.datetime, limit: int = 1000) -> int:
    """Charges, as a whole and marked unsettled, reservations that outlived their lease; how many, at most ``limit``.

    Rows that are being settled or extended at this moment are passed over.
    """
    with transaction.atomic(savepoint=False):
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                WITH due AS MATERIALIZED (  -- once: run again for each row of a join, it would find others each time
                    SELECT id FROM costs_reservation WHERE expires_at <= %s ORDER BY expires_at
                    LIMIT %s FOR UPDATE SKIP LOCKED)
                DELETE FROM costs_reservation WHERE id IN (SELECT id FROM due)
                RETURNING {_HELD}
                """,
                [now, limit],
            )
            taken = [Held(*row) for row in cursor]
        moves = Moves()
        for held in sorted(taken):
            moves.charge(held, held.amount, unsettled=True, note="Charged as reserved: its lease ended unsettled.")
        apply(moves, now=now)
    if taken:
        log.warning("reservations_charged_unsettled", count=len(taken), amount=sum(held.amount for held in taken))
    return len(taken)


_HELD = "id, tenant_id, subject_id, swarm_id, task_id, attempt_id, agent, model, run, amount, period_ids"


def _take(ids: Iterable[uuid.UUID]) -> list[Held]:
    """Deletes those reservations that are still there, locking them in the order of their ids."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            DELETE FROM costs_reservation WHERE id IN (
                SELECT id FROM costs_reservation WHERE id = ANY(%s) ORDER BY id FOR UPDATE)
            RETURNING {_HELD}
            """,
            [list(ids)],
        )
        return sorted(Held(*row) for row in cursor)


def _settle_late(late: Sequence[Settlement], moves: Moves) -> dict[uuid.UUID, Settled]:
    """Corrects the charges of reservations that are gone, where they are still uncorrected."""
    ids = [settlement.reservation_id for settlement in late]
    with connection.cursor() as cursor:
        # The lock makes two late settlements of one call take turns; the sums are read after it, so the second sees
        # the first one's correction.
        cursor.execute(
            f"""
            SELECT id, unsettled, {_HELD.replace("id,", "reservation_id,", 1)} FROM costs_ledgerentry
            WHERE reservation_id = ANY(%s) AND kind = 'llm' ORDER BY id FOR UPDATE
            """,
            [ids],
        )
        entries = {row[2]: (row[0], row[1], Held(*row[2:])) for row in cursor}
        cursor.execute(
            """
            SELECT reservation_id, sum(amount)::bigint, bool_or(corrects IS NOT NULL) FROM costs_ledgerentry
            WHERE reservation_id = ANY(%s) GROUP BY reservation_id
            """,
            [ids],
        )
        sums = {row[0]: (row[1], row[2]) for row in cursor}
    results = {}
    for settlement in late:
        id = settlement.reservation_id
        if id not in entries:
            moves.events.append(
                events.NewEvent(
                    "budget.settlement_unmatched", data={"reservation_id": str(id), "billed": settlement.amount}
                )
            )
            log.error("settlement_unmatched", reservation_id=str(id), billed=settlement.amount)
            results[id] = Settled(id, 0, late=True)
            continue
        entry_id, unsettled, held = entries[id]
        charged, corrected = sums[id]
        if unsettled and not corrected and settlement.amount is not None:
            difference = settlement.amount - charged
            excess = max(difference, 0)
            moves.add(held.period_ids, spent=difference - excess, overage=excess)
            note = "Settled after its lease had ended."
            moves.entries.append(held.entry(difference, Kind.ADJUSTMENT, settlement, corrects=entry_id, note=note))
            if excess:
                moves.report_overage(held, settlement.amount, excess)
            charged = settlement.amount
        results[id] = Settled(id, charged, late=True)
    return results


def apply(moves: Moves, *, now: dt.datetime | None) -> list[int]:
    """Locks the periods in the order of their ids and puts the moves into them, the ledger and the event log.

    In the current transaction, once for all it moves; the ids of the ledger entries, in the order given.
    """
    written: list[int] = []
    if moves.periods:
        _change_periods(moves, now=now)
    if moves.entries:
        # Ids are drawn while the periods are locked, so the entries of one period are numbered in the order in which
        # they were charged to it: every prefix of the ledger is a state that the budget has been in.
        written = write(moves.entries, now=now)
    events.emit(moves.events, now=now)
    return written


def _change_periods(moves: Moves, *, now: dt.datetime | None) -> None:
    ids = sorted(moves.periods)
    changes = [moves.periods[id] for id in ids]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, spent + overage, overage, next_alert, ceiling - spent - reserved
            FROM costs_budgetperiod WHERE id = ANY(%s) ORDER BY id FOR UPDATE
            """,
            [ids],
        )
        due = []
        for period_id, owed, overage, next_alert, room in cursor:
            change = moves.periods[period_id]
            if change.unreserved < 0:
                beyond = max(change.unreserved, -overage - change.overage)
                change.overage += beyond
                change.spent += change.unreserved - beyond
            elif change.unreserved:
                room = change.unreserved if room is None else room - change.spent - change.reserved
                fits = min(change.unreserved, max(room, 0))
                change.spent += fits
                change.overage += change.unreserved - fits
            charged = change.spent + change.overage
            if charged and next_alert is not None and owed + charged >= next_alert:
                due.append(period_id)
        cursor.execute(
            """
            UPDATE costs_budgetperiod p
            SET spent = p.spent + c.spent, reserved = p.reserved + c.reserved, overage = p.overage + c.overage,
                updated_at = coalesce(%s, p.updated_at)
            FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) AS c (id, spent, reserved, overage)
            WHERE p.id = c.id
            """,
            [now, ids, [c.spent for c in changes], [c.reserved for c in changes], [c.overage for c in changes]],
        )
    if due:
        swarms = {id: next((e.swarm_id for e in moves.entries if id in e.period_ids), None) for id in due}
        moves.events += alerting.review(due, cause=Cause.SPENT, now=now or timezone.now(), swarms=swarms)
