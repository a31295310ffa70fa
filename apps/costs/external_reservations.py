"""Hard caps for agents that run elsewhere: they reserve before a call and settle after it, as the gate does here.

The arithmetic is that of :mod:`apps.costs.reserving` and :mod:`apps.costs.settling`; the lease is the caller's own.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from django.db import DataError, connection, transaction

from apps.audit.trail import record
from apps.costs import reserving
from apps.costs.models import ExternalReservation, run_id
from apps.costs.prices import ModelPrice, Rates, price_of
from apps.costs.reserving import CallRequest, Refused, Settlement
from apps.privacy.models import DataSubject
from apps.tenants.access import Principal
from apps.tenants.roles import Permission
from portal.ids import uuid7
from portal.money import usd_label, usd_text

MOST_NANO = 10**15
"""A million dollars: nobody's call costs more, so a greater amount is a slip of the pen."""

LONGEST_LEASE = dt.timedelta(hours=1)


class CannotSettle(Exception):
    """A reservation is no longer what the caller takes it for; the text is for a person. ``code`` is for a program."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class State(StrEnum):
    """What became of the money."""

    HELD = "held"
    SETTLED = "settled"
    UNSETTLED = "unsettled"  # the lease ended first, so all of it was charged; settling corrects that once
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a reservation stands. ``charged`` in nano-dollars, None while it is held; ``expires_at`` only then."""

    state: State
    charged: int | None = None
    expires_at: dt.datetime | None = None


def standings(ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Standing]:
    """How each of these external reservations stands. Two queries, however many."""
    found: dict[uuid.UUID, Standing] = {id: Standing(State.RELEASED, 0) for id in ids}
    if not found:
        return found
    with connection.cursor() as cursor:
        # What is held first: a charge that happens between the two queries is then found in the ledger.
        cursor.execute("SELECT id, expires_at FROM costs_reservation WHERE id = ANY(%s)", [list(ids)])
        found.update((id, Standing(State.HELD, None, expires_at)) for id, expires_at in cursor)
        cursor.execute(
            """
            SELECT reservation_id, sum(amount)::bigint, bool_or(unsettled) AND NOT bool_or(corrects IS NOT NULL)
            FROM costs_ledgerentry WHERE reservation_id = ANY(%s) GROUP BY reservation_id
            """,
            [list(ids)],
        )
        for id, charged, unsettled in cursor:
            found[id] = Standing(State.UNSETTLED if unsettled else State.SETTLED, charged)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Money that an agent elsewhere wants held for a call: ``amount`` in nano-dollars for ``lease``.

    ``end_user`` is the tenant's own reference of a person.
    """

    tenant_id: uuid.UUID
    amount: int
    lease: dt.timedelta
    agent: str = ""
    model: str = ""
    run: str = ""
    end_user: str = ""


def reserve(wanted: Wanted, *, by: Principal, now: dt.datetime) -> tuple[ExternalReservation, Standing] | Refused:
    """Holds the money in every budget period that watches the call, or says which one refuses.

    Raises AccessDenied. A refusal is an answer and not an error, as what it announces of the budget has to stay.
    """
    by.verify(Permission.COST_RECORD, wanted.tenant_id, amount=wanted.amount)
    with transaction.atomic():
        subject_id = None
        if wanted.end_user:
            subject_id = DataSubject.objects.pseudonym(wanted.tenant_id, wanted.end_user)
        request = CallRequest(
            id=uuid7(),
            tenant_id=wanted.tenant_id,
            subject_id=subject_id,
            swarm_id=run_id(wanted.tenant_id, wanted.run),
            task_id=None,
            attempt_id=None,
            agent=wanted.agent,
            model=wanted.model,
            amount=wanted.amount,
            expires_at=now + wanted.lease,
            run=wanted.run,
        )
        (verdict,) = reserving.reserve([request], now=now, fresh=True)
        if verdict.refused:
            return verdict.refused
        made = ExternalReservation.objects.create(
            id=request.id,
            tenant_id=wanted.tenant_id,
            agent=wanted.agent,
            model=wanted.model,
            run=wanted.run,
            amount=wanted.amount,
            created_at=now,
        )
        _write_down("reserve", made, by=by, amount_usd=usd_text(wanted.amount))
    return made, Standing(State.HELD, None, request.expires_at)


def extend(held: ExternalReservation, lease: dt.timedelta, *, by: Principal, now: dt.datetime) -> Standing:
    """Keeps it at least for ``lease`` from now on. Raises AccessDenied, or CannotSettle when it is over.

    No audit entry: it moves no money, and a long call does it every few seconds.
    """
    by.verify(Permission.COST_RECORD, held.tenant_id)
    reserving.extend_calls([held.pk], now + lease)
    standing = standings([held.pk])[held.pk]
    if standing.state != State.HELD:
        raise _over(standing)
    return standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """What a call cost: ``amount`` in nano-dollars, or None to price the tokens. Input includes those of the cache."""

    amount: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def priced(self, price: ModelPrice) -> tuple[int, Rates]:
        """The cost of the tokens and the rates behind it."""
        cost = price.cost(
            self.input_tokens,
            self.output_tokens,
            cache_read_tokens=self.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens,
        )
        return cost, price.rates(self.input_tokens)


def settle(held: ExternalReservation, billed: Billed, *, by: Principal, now: dt.datetime) -> Standing:
    """Charges what the call cost; what is beyond the reservation too, as overage.

    After the end of the lease it corrects the charge, once. The same again changes nothing. Raises AccessDenied;
    UnknownModel where tokens cannot be priced; CannotSettle when it was released, or settled at another amount.
    """
    by.verify(Permission.COST_RECORD, held.tenant_id)
    amount, rates = billed.amount, None
    if amount is None:
        # At the prices that it was reserved at.
        amount, rates = billed.priced(price_of(held.model, tenant_id=held.tenant_id, at=held.created_at))
    before = standings([held.pk])[held.pk]
    if before.state == State.SETTLED and before.charged == amount:
        return before
    if before.state in (State.SETTLED, State.RELEASED):
        raise _over(before)
    settlement = Settlement(
        held.pk,
        amount,
        billed.input_tokens,
        billed.output_tokens,
        billed.cache_read_tokens,
        billed.cache_write_tokens,
        rates,
    )
    try:
        with transaction.atomic():
            (settled,) = reserving.settle([settlement], now=now)
            if settled.charged != amount:  # somebody else was faster
                raise _over(standings([held.pk])[held.pk])
            _write_down("settle", held, by=by, amount_usd=usd_text(amount))
    except DataError:
        raise CannotSettle("too_large", "A budget that watches this call cannot count that much money.") from None
    return replace(before, state=State.SETTLED, charged=amount, expires_at=None)


def release(held: ExternalReservation, *, by: Principal, now: dt.datetime) -> Standing:
    """Gives it back: the call was not made. The same again changes nothing. Raises AccessDenied, or CannotSettle."""
    by.verify(Permission.COST_RECORD, held.tenant_id)
    with transaction.atomic():
        if reserving.release([held.pk]):
            _write_down("release", held, by=by, amount_usd=usd_text(held.amount))
            return Standing(State.RELEASED, 0)
    standing = standings([held.pk])[held.pk]
    if standing.state != State.RELEASED:
        raise _over(standing)
    return standing


def _over(standing: Standing) -> CannotSettle:
    match standing.state:
        case State.RELEASED:
            return CannotSettle(
                "already_released", "It was released already. If the call was made after all, report a cost event."
            )
        case State.UNSETTLED:
            return CannotSettle(
                "lease_ended",
                f"Its lease has ended, so all of it ({usd_label(standing.charged or 0)}) was charged. "
                "Settle it with what the call cost; 0 if it was not made.",
            )
        case _:
            return CannotSettle("already_settled", f"It was settled already, at {usd_label(standing.charged or 0)}.")


def _write_down(act: str, held: ExternalReservation, *, by: Principal, amount_usd: str) -> None:
    details = {"act": act, "amount_usd": amount_usd}
    record(by, Permission.COST_RECORD, held, tenant_id=held.tenant_id, details=details)
