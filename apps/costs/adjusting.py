"""Correcting what is owed: an adjustment, another entry in a month that is open, linked to the one it corrects."""

from __future__ import annotations

import datetime as dt

from django.db import DataError, connection, transaction
from django.db.models import Sum

from apps.audit import trail
from apps.costs.entries import NewEntry
from apps.costs.fitting import BIGGEST
from apps.costs.models import Kind, LedgerEntry
from apps.costs.settling import Moves, apply
from apps.events import log as events
from apps.tenants.access import Principal
from apps.tenants.roles import Permission
from portal.money import usd_text
from portal.notify import Channel, notify

LONGEST_REASON = 200


class CannotAdjust(Exception):
    """The entry cannot be adjusted so; the text says why, for a person."""


def owed_for(entry: LedgerEntry) -> int:
    """What is owed for an entry with all that corrects it, in nano-dollars. One query."""
    corrections = LedgerEntry.objects.filter(corrects=entry.pk, tenant_id=entry.tenant_id)
    total = corrections.aggregate(total=Sum("amount"))["total"]
    return entry.amount + int(total or 0)


def verify_adjust(entry: LedgerEntry) -> None:
    """Raises CannotAdjust for an entry that is a correction itself."""
    if entry.corrects is not None:
        raise CannotAdjust(f"This entry is a correction itself. Adjust the one it corrects, entry {entry.corrects}.")


def difference_to(entry: LedgerEntry, *, owed: int, seen: int) -> int:
    """What must be added for ``owed`` to be owed. Raises CannotAdjust when nothing must, or ``seen`` is outdated."""
    before = owed_for(entry)
    if before != seen:
        raise CannotAdjust(
            f"Meanwhile {usd_text(before)} USD is owed for it, not {usd_text(seen)} USD: look at it again."
        )
    if owed == before:
        raise CannotAdjust(f"{usd_text(owed)} USD is what is owed for it already.")
    return owed - before


def adjust(entry: LedgerEntry, *, owed: int, seen: int, reason: str, by: Principal, now: dt.datetime) -> int:
    """Makes ``owed`` what is owed for an entry, by another one ``now`` with the difference; that one's id.

    ``seen`` is what was owed when whoever adjusts looked: should another have adjusted it since, nothing changes.
    Amounts are nano-dollars. The budget periods that the entry was charged to get the difference. Raises AccessDenied,
    or CannotAdjust.
    """
    by.verify(Permission.COST_UPDATE, entry.tenant_id, amount=abs(owed - seen))
    verify_adjust(entry)
    reason = " ".join(reason.split())
    if not reason:
        raise CannotAdjust("Say why: whoever reads the statement will ask.")
    if len(reason) > LONGEST_REASON:
        raise CannotAdjust(f"The reason has {len(reason)} characters; there is room for {LONGEST_REASON}.")
    if not 0 <= owed <= BIGGEST:
        raise CannotAdjust("What is owed must be zero or more, and no more than can be counted.")
    try:
        with transaction.atomic():
            return _adjust(entry, owed, seen, reason, by, now)
    except DataError:
        raise CannotAdjust("A budget that watches this entry cannot count that much money.") from None


def _adjust(entry: LedgerEntry, owed: int, seen: int, reason: str, by: Principal, now: dt.datetime) -> int:
    with connection.cursor() as cursor:
        # Those who correct one entry take turns here, a late settlement of its call with them.
        cursor.execute(
            "SELECT FROM costs_ledgerentry WHERE id = %s AND at = %s FOR UPDATE",
            [entry.pk, entry.at],
        )
    difference = difference_to(entry, owed=owed, seen=seen)
    moves = Moves()
    moves.charge_unreserved(entry.period_ids, difference)
    moves.entries.append(
        NewEntry(
            tenant_id=entry.tenant_id,
            kind=Kind.ADJUSTMENT,
            amount=difference,
            at=now,
            subject_id=entry.subject_id,
            swarm_id=entry.swarm_id,
            task_id=entry.task_id,
            attempt_id=entry.attempt_id,
            reservation_id=entry.reservation_id,
            agent=entry.agent,
            model=entry.model,
            run=entry.run,
            corrects=entry.pk,
            period_ids=entry.period_ids,
            note=reason,
        )
    )
    data = {
        "entry": entry.pk,
        "difference_usd": usd_text(difference),
        "owed_usd": usd_text(owed),
    }
    moves.events.append(events.NewEvent("ledger.adjusted", entry.tenant_id, entry.swarm_id, data=data))
    (adjustment,) = apply(moves, now=now)
    details = {"act": "adjust", **data, "adjustment": adjustment}
    trail.record(by, Permission.COST_UPDATE, entry, tenant_id=entry.tenant_id, reason=reason, details=details)
    if difference < 0:
        notify(Channel.ADMIT)  # a swarm that waits for the budget may fit now
    return adjustment
