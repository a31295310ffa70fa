"""What an export is made of."""

from __future__ import annotations

import datetime as dt
import re
import uuid
import zoneinfo
from dataclasses import dataclass
from typing import Any

from apps.tenants.models import Tenant


class CannotExport(Exception):
    """There is nothing to export; the text says why, for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """A tenant's month with the terms that its statement froze when it was closed.

    Whoever makes an export asks nothing else of the tenant: its name, time zone and cost centres may change.
    """

    tenant_id: uuid.UUID
    tenant_slug: str
    tenant_name: str
    time_zone: str
    period: str
    starts_at: dt.datetime
    ends_at: dt.datetime
    is_closed: bool
    statement_id: str = ""

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        return zoneinfo.ZoneInfo(self.time_zone)

    def params(self) -> dict[str, Any]:
        """What the queries of exports are given."""
        return {
            "tenant_id": self.tenant_id,
            "tenant_name": self.tenant_name,
            "zone": self.time_zone,
            "starts_at": self.starts_at,
            "ends_at": self.ends_at,
            "starts": _text(self.starts_at),
            "ends": _text(self.ends_at),
            "statement_id": self.statement_id or None,
            "status": "Closed" if self.is_closed else "Draft",
        }

    def centre_sql(self) -> dict[str, str]:
        return {"centre": "''", "join": ""}


def extract_of(tenant: Tenant, period: str, *, now: dt.datetime) -> Extract:
    """A tenant's month ("2026-10") as it is now. Raises CannotExport for what is no month, or has not begun."""
    found = re.fullmatch(r"(2[0-9]{3})-(0[1-9]|1[0-2])", period)
    if not found:
        raise CannotExport(f'"{period}" is not a month such as 2026-10.')
    first = dt.date(int(found[1]), int(found[2]), 1)
    after = (first + dt.timedelta(days=31)).replace(day=1)
    # In UTC, because two moments of one zone compare by their clock faces.
    starts_at, ends_at = (dt.datetime.combine(d, dt.time(), tenant.zone).astimezone(dt.UTC) for d in (first, after))
    if starts_at > now:
        raise CannotExport(f"{period} has not begun for {tenant.slug}: it does at {_text(starts_at)}.")
    return Extract(
        tenant_id=tenant.pk,
        tenant_slug=tenant.slug,
        tenant_name=tenant.name,
        time_zone=tenant.time_zone,
        period=period,
        starts_at=starts_at,
        ends_at=ends_at,
        is_closed=False,
    )


def _text(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
