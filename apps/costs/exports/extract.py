"""What an export is made of."""

from __future__ import annotations

import datetime as dt
import uuid
import zoneinfo
from dataclasses import dataclass, field
from typing import Any

from apps.costs.centres import Terms, terms_of
from apps.costs.models import Statement
from apps.costs.periods import Month, Window, last_statement, window_of
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
    is_frozen: bool = False
    """Whether its terms are those of a statement, also while that is closing."""
    terms: Terms = field(default_factory=Terms)

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
            **self.terms.params(),
        }

    def centre_sql(self) -> dict[str, str]:
        """What the queries of exports have in them: the code of the cost centre of the ledger entry ``l``."""
        return {"centre": self.terms.sql()}


def extract_of(tenant: Tenant, period: str, *, now: dt.datetime) -> Extract:
    """A tenant's month ("2026-10"): as it was closed, or as it is now.

    Raises CannotExport for what is no month, has not begun, or lies within what was closed before it.
    """
    try:
        month = Month.parse(period)
    except ValueError as error:
        raise CannotExport(str(error)) from None
    statement = Statement.objects.filter(tenant=tenant, period=period).first()
    if statement is not None:
        return extract_of_statement(statement)
    last = last_statement(tenant.pk)
    if last is not None and period < last.period:
        raise CannotExport(
            f"{tenant.slug} owed nothing for {period}: there was no entry when {last.period} was closed."
        )
    window = window_of(tenant, month, last)
    if window.starts_at > now:
        raise CannotExport(f"{period} has not begun for {tenant.slug}: it does at {_text(window.starts_at)}.")
    return extract_of_window(tenant, window)


def extract_of_window(tenant: Tenant, window: Window) -> Extract:
    """An open month, with the tenant's cost centres of now."""
    return Extract(
        tenant_id=tenant.pk,
        tenant_slug=tenant.slug,
        tenant_name=tenant.name,
        time_zone=tenant.time_zone,
        period=str(window.month),
        starts_at=window.starts_at,
        ends_at=window.ends_at,
        is_closed=False,
        terms=terms_of(tenant.pk),
    )


def extract_of_statement(statement: Statement) -> Extract:
    """A month with the terms that were frozen when it was closed; while its lines are added up it is a draft still."""
    return Extract(
        tenant_id=statement.tenant_id,
        tenant_slug=statement.tenant_slug,
        tenant_name=statement.tenant_name,
        time_zone=statement.time_zone,
        period=statement.period,
        starts_at=statement.starts_at,
        ends_at=statement.ends_at,
        is_closed=statement.is_closed,
        statement_id=str(statement.pk) if statement.is_closed else "",
        is_frozen=True,
        terms=Terms.of_json(statement.terms),
    )


def _text(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
