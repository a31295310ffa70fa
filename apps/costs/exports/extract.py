"""What an export is made of."""

from __future__ import annotations

import datetime as dt
import uuid
import zoneinfo
from dataclasses import dataclass
from typing import Any


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


def _text(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
