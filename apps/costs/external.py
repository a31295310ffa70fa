"""Costs of agents that run elsewhere: each event is charged once, to every budget period that watches it.

What has been spent cannot be refused: it takes what a hard budget has left, and what is beyond that is overage, which
refuses the next reservation. Locks are taken in one order: events, people, budget periods.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from django.db import DataError, connection, transaction

from apps.audit import trail
from apps.costs.booking import Booking, bookings
from apps.costs.entries import NewEntry
from apps.costs.external_events import CostEvent, Key, Outcome, Status
from apps.costs.models import run_id
from apps.costs.price_book import PriceBook
from apps.costs.prices import Rates, UnknownModel
from apps.costs.settling import Moves, apply
from apps.costs.watching import PeriodKey, Watched, ids_of_periods, watching
from apps.events import log as events
from apps.privacy.models import DataSubject
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.money import usd_text

log = structlog.get_logger(__name__)

AT_ONCE = 1000
"""Events of one transaction: the budgets that watch them are locked while their ledger entries are written."""


class _Known(NamedTuple):
    """An event that is recorded. The person's reference is None when there was none, or it is forgotten."""

    content: uuid.UUID
    amount: int
    has_subject: bool
    reference: str | None

    def answer(self, event: CostEvent) -> Outcome:
        same_person = bool(event.end_user) == self.has_subject and self.reference in (None, event.end_user)
        if same_person and self.content == event.content():
            return Outcome(Status.DUPLICATE, self.amount)
        return _CONFLICT


_CONFLICT = Outcome(
    Status.FAILED,
    code="conflict",
    detail="This event_id was used for another event. A correction is an adjustment, not the same event anew.",
    attr="event_id",
)
_TOO_LARGE = Outcome(
    Status.FAILED,
    code="too_large",
    detail="A budget that watches this event cannot count that much money.",
    attr="amount_usd",
)


def record(reported: Sequence[CostEvent], *, by: Principal, now: dt.datetime) -> list[Outcome]:
    """Charges events that are not charged yet; their outcomes in the same order. Raises AccessDenied.

    Each ``AT_ONCE`` of them are one transaction; inside a transaction of the caller's they are all of that one. So
    after a crash some may be recorded and some not, and sending all again puts that right.
    """
    for tenant_id in {event.tenant_id for event in reported}:
        by.verify(Permission.COST_RECORD, tenant_id)
    # A second batch in a transaction that holds the first one's periods would take locks out of their order.
    step = len(reported) if connection.in_atomic_block else AT_ONCE
    outcomes: list[Outcome] = []
    for start in range(0, len(reported), step or 1):
        batch = reported[start : start + step]
        try:
            with transaction.atomic():
                outcomes += _Batch(batch, by, now).record()
        except DataError:
            log.warning("external_events_too_large", count=len(batch))
            outcomes += [_TOO_LARGE] * len(batch)
    return outcomes


class _Costed(NamedTuple):
    """An event with its cost, and when and in whose name it is booked."""

    place: int
    event: CostEvent
    amount: int
    rates: Rates | None
    booking: Booking


@dataclass(frozen=True, slots=True)
class _Charge:
    """An event that is new, as far as matching it with budgets asks for."""

    costed: _Costed
    row_id: int
    tenant_id: uuid.UUID
    subject_id: uuid.UUID | None
    swarm_id: uuid.UUID | None
    agent: str


class _Batch:
    """The events of one transaction."""

    def __init__(self, reported: Sequence[CostEvent], by: Principal, now: dt.datetime) -> None:
        self.reported = reported
        self.by = by
        self.now = now
        self.outcomes: dict[int, Outcome] = {}

    def record(self) -> list[Outcome]:
        known = _find(event.key for event in self.reported)
        fresh: dict[Key, _Costed] = {}
        repeated: list[int] = []
        for costed in self._costed(known):
            first = fresh.setdefault(costed.event.key, costed)
            if first is not costed:
                repeated.append(costed.place)
        rows = self._claim(list(fresh.values()))
        others = _find(key for key in fresh if key not in rows)  # somebody else sent them at the same time
        for key, costed in fresh.items():
            if key in rows:
                self.outcomes[costed.place] = Outcome(Status.RECORDED, costed.amount)
            else:
                self.outcomes[costed.place] = others[key].answer(costed.event)
        for place in repeated:
            self.outcomes[place] = self._repeat(self.reported[place], fresh, others)
        self._charge([(fresh[key], row_id) for key, row_id in rows.items()])
        return [self.outcomes[place] for place in range(len(self.reported))]

    def _costed(self, known: dict[Key, _Known]) -> list[_Costed]:
        """Those that are not known yet, with what they cost; the others have their outcome."""
        unknown = []
        for place, event in enumerate(self.reported):
            if event.key in known:
                self.outcomes[place] = known[event.key].answer(event)
            else:
                unknown.append((place, event))
        book = PriceBook((event.tenant_id, event.model) for _, event in unknown if event.amount is None)
        booked = bookings([(event.tenant_id, event.at) for _, event in unknown], now=self.now)
        costed = []
        for (place, event), booking in zip(unknown, booked, strict=True):
            amount, rates = event.amount, None
            if amount is None:
                try:
                    price = book.price_of(event.model, tenant_id=event.tenant_id, at=event.at)
                except UnknownModel as why:
                    self.outcomes[place] = Outcome(Status.FAILED, code="unknown_model", detail=str(why), attr="model")
                    continue
                rates = price.rates(event.input_tokens)
                amount = price.cost(
                    event.input_tokens,
                    event.output_tokens,
                    cache_read_tokens=event.cache_read_tokens,
                    cache_write_tokens=event.cache_write_tokens,
                )
            costed.append(_Costed(place, event, amount, rates, booking))
        return costed

    def _repeat(self, event: CostEvent, fresh: dict[Key, _Costed], others: dict[Key, _Known]) -> Outcome:
        """The outcome of an event whose id came before in the same batch."""
        if event.key in others:
            return others[event.key].answer(event)
        first = fresh[event.key]
        return Outcome(Status.DUPLICATE, first.amount) if first.event == event else _CONFLICT

    def _claim(self, costed: Sequence[_Costed]) -> dict[Key, int]:
        """Makes the rows of those that nobody has recorded; their ids. Waits for others that are recording them."""
        if not costed:
            return {}
        rows = sorted(costed, key=lambda each: each.event.key)
        with connection.cursor() as cursor:
            cursor.execute(
                """
                INSERT INTO costs_externalevent
                    (tenant_id, event_id, content, at, booked_at, received_at, amount, overage, entry_id)
                SELECT e.tenant_id, e.event_id, e.content, e.at, e.booked_at, %s, e.amount, 0, 0
                FROM unnest(%s::uuid[], %s::text[], %s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::bigint[])
                         WITH ORDINALITY AS e (tenant_id, event_id, content, at, booked_at, amount, place)
                ORDER BY e.place ON CONFLICT DO NOTHING RETURNING tenant_id, event_id, id
                """,
                [
                    self.now,
                    [each.event.tenant_id for each in rows],
                    [each.event.event_id for each in rows],
                    [each.event.content() for each in rows],
                    [each.event.at for each in rows],
                    [each.booking.at for each in rows],
                    [each.amount for each in rows],
                ],
            )
            return {Key(tenant_id, event_id): id for tenant_id, event_id, id in cursor}

    def _charge(self, new: Sequence[tuple[_Costed, int]]) -> None:
        """Puts what is new into budgets, ledger, event log and trail."""
        if not new:
            return
        charges = _charges(sorted(new, key=lambda pair: pair[0].place))
        times = [charge.costed.booking.at for charge in charges]
        watched = watching(charges, now=self.now, times=times)
        ids = ids_of_periods(watched.spans, now=self.now)
        # A budget that was deleted since has no period any more.
        periods = [tuple(sorted(ids[key] for key in keys if key in ids)) for keys in watched.keys]
        moves = Moves()
        for charge, period_ids in zip(charges, periods, strict=True):
            moves.charge_unreserved(period_ids, charge.costed.amount)
            moves.entries.append(_entry(charge, period_ids))
        entry_ids = apply(moves, now=self.now)
        excess = {id: change.overage for id, change in moves.periods.items() if change.overage}
        overages = _shares(charges, periods, excess)
        _link(charges, entry_ids, overages)
        _begin_runs_early(ids, watched)
        _announce_overage(charges, periods, excess, ids, watched, now=self.now)
        self._write_down(charges)

    def _write_down(self, charges: Sequence[_Charge]) -> None:
        for tenant_id in sorted({charge.tenant_id for charge in charges}):
            amounts = [charge.costed.amount for charge in charges if charge.tenant_id == tenant_id]
            details = {"act": "events", "recorded": len(amounts), "amount_usd": usd_text(sum(amounts))}
            trail.record(self.by, Permission.COST_RECORD, Tenant(pk=tenant_id), tenant_id=tenant_id, details=details)


def _find(keys: Iterable[Key]) -> dict[Key, _Known]:
    """Those of these events that are recorded."""
    wanted = list(keys)
    if not wanted:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT e.tenant_id, e.event_id, e.content, e.amount, l.subject_id IS NOT NULL, s.reference
            FROM unnest(%s::uuid[], %s::text[]) AS k (tenant_id, event_id)
            JOIN costs_externalevent e ON e.tenant_id = k.tenant_id AND e.event_id = k.event_id
            LEFT JOIN costs_ledgerentry l ON l.id = e.entry_id AND l.at = e.booked_at
            LEFT JOIN privacy_datasubject s ON s.id = l.subject_id
            """,
            [[key.tenant_id for key in wanted], [key.event_id for key in wanted]],
        )
        return {Key(tenant_id, event_id): _Known(*rest) for tenant_id, event_id, *rest in cursor}


def _charges(new: Sequence[tuple[_Costed, int]]) -> list[_Charge]:
    people = [(costed.event.tenant_id, costed.event.end_user) for costed, _ in new if costed.event.end_user]
    subjects = DataSubject.objects.pseudonyms(people)
    return [
        _Charge(
            costed,
            row_id,
            costed.event.tenant_id,
            subjects.get((costed.event.tenant_id, costed.event.end_user)),
            run_id(costed.event.tenant_id, costed.event.run),
            costed.event.agent,
        )
        for costed, row_id in new
    ]


def _entry(charge: _Charge, period_ids: tuple[int, ...]) -> NewEntry:
    event = charge.costed.event
    return NewEntry(
        tenant_id=event.tenant_id,
        kind=event.kind,
        amount=charge.costed.amount,
        at=charge.costed.booking.at,
        subject_id=charge.subject_id,
        swarm_id=charge.swarm_id,
        agent=event.agent,
        model=event.model,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        cache_read_tokens=event.cache_read_tokens,
        cache_write_tokens=event.cache_write_tokens,
        rates=charge.costed.rates,
        period_ids=period_ids,
        external_id=event.event_id,
        run=event.run,
        note=charge.costed.booking.note,
    )


def _shares(charges: Sequence[_Charge], periods: Sequence[tuple[int, ...]], excess: dict[int, int]) -> list[int]:
    """How far each event went beyond a period: the last ones did, as the first ones took what was left."""
    shares = [0] * len(charges)
    if not excess:
        return shares
    open_excess = dict(excess)
    for place in range(len(charges) - 1, -1, -1):
        for period_id in periods[place]:
            share = min(charges[place].costed.amount, open_excess.get(period_id, 0))
            if share:
                open_excess[period_id] -= share
                shares[place] = max(shares[place], share)
    return shares


def _link(charges: Sequence[_Charge], entry_ids: Sequence[int], overages: Sequence[int]) -> None:
    """Ties the events' rows to their ledger entries."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE costs_externalevent e SET entry_id = u.entry_id, overage = u.overage
            FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS u (id, entry_id, overage) WHERE e.id = u.id
            """,
            [[charge.row_id for charge in charges], list(entry_ids), list(overages)],
        )


def _begin_runs_early(ids: dict[PeriodKey, int], watched: Watched) -> None:
    """A run begins with the earliest of its costs, though a later one may have been reported first."""
    runs = [(ids[key], span.starts_at) for key, span in watched.spans.items() if span.ends_at is None and key in ids]
    if not runs:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE costs_budgetperiod p SET starts_at = r.starts_at
            FROM unnest(%s::bigint[], %s::timestamptz[]) AS r (id, starts_at)
            WHERE p.id = r.id AND p.starts_at > r.starts_at
            """,
            [list(column) for column in zip(*runs, strict=True)],
        )


def _announce_overage(
    charges: Sequence[_Charge],
    periods: Sequence[tuple[int, ...]],
    excess: dict[int, int],
    ids: dict[PeriodKey, int],
    watched: Watched,
    *,
    now: dt.datetime,
) -> None:
    """One ``budget.overage`` event for each period that had less left than these events cost."""
    if not excess:
        return
    keys = {period_id: key for key, period_id in ids.items() if period_id in excess}
    over: dict[int, list[_Charge]] = {period_id: [] for period_id in sorted(excess)}
    for charge, period_ids in zip(charges, periods, strict=True):
        for period_id in period_ids:
            if period_id in over:
                over[period_id].append(charge)
    announced = []
    for period_id, of in over.items():
        key = keys[period_id]
        data = {
            "budget_id": str(key.budget_id),
            "budget": watched.names.get(key.budget_id, ""),
            "period": key.key,
            "holder": key.holder,
            "external_events": len(of),
            "billed": sum(charge.costed.amount for charge in of),
            "excess": excess[period_id],
        }
        announced.append(events.NewEvent("budget.overage", of[0].tenant_id, None, None, data))
        log.warning("budget_overage", tenant_id=str(of[0].tenant_id), **data)
    events.emit(announced, now=now)
