"""When a cost that is reported late is booked: at its own time, as long as that can still be."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import NamedTuple


class Booking(NamedTuple):
    """The time that a ledger entry gets, and what it says where that is not the cost's own time."""

    at: dt.datetime
    note: str = ""


def bookings(costs: Sequence[tuple[uuid.UUID, dt.datetime]], *, now: dt.datetime) -> list[Booking]:
    """When each of these costs, a tenant's id and a time, is booked; in the same order."""
    return [Booking(at) for _, at in costs]
