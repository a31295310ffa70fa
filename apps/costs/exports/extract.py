"""What an export is made of."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """A tenant's month, with the terms that its statement froze when it was closed."""

    tenant_id: uuid.UUID
    tenant_name: str
    period: str
    starts_at: dt.datetime
    ends_at: dt.datetime
    is_closed: bool
    statement_id: str = ""
