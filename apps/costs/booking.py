"""When a cost that is reported late is booked: at its own time, as long as its month is open."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from apps.costs.periods import closed_up_to


class Booking(NamedTuple):
    """The time that a ledger entry gets, and what it says where that is not the cost's own time."""

    at: dt.datetime
    note: str = ""


def bookings(costs: Sequence[tuple[uuid.UUID, dt.datetime]], *, now: dt.datetime) -> list[Booking]:
    """When each of these costs, a tenant's id and a time, is booked; in the same order.

    What belongs to a closed month is booked ``now``. To be called in the transaction that writes the entries: no month
    is closed before it ends.
    """
    ends = closed_up_to({tenant_id for tenant_id, _ in costs}) if costs else {}
    return [
        Booking(now, f"Of {at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC, a month that was closed when it was reported.")
        if tenant_id in ends and at < ends[tenant_id]
        else Booking(at)
        for tenant_id, at in costs
    ]
