"""The ledger entries of a filter as CSV, for spreadsheets: columns with units in their names, one entry a row."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import transaction

from apps.audit import trail
from apps.costs.models import LedgerEntry
from apps.costs.spend_forms import Chosen
from apps.tenants.access import Principal
from apps.tenants.roles import Permission
from portal.copying import as_text

_USD = "({} * 0.000000001)"
"""Exact: a product keeps all decimals, a quotient would not."""

_COLUMNS = {
    "entry": "e.id",
    "at_utc": """to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
    "day": "(e.at AT TIME ZONE coalesce(t.time_zone, 'UTC'))::date",
    "tenant": "coalesce(t.slug, e.tenant_id::text)",
    "kind": "e.kind",
    "amount_usd": _USD.format("e.amount"),
    "state": "CASE WHEN e.saved IS NOT NULL THEN 'cached' WHEN e.unsettled THEN 'unsettled' ELSE 'settled' END",
    "corrects_entry": "e.corrects",
    "model": as_text("e.model"),
    "agent": as_text("e.agent"),
    "swarm": "e.swarm_id",
    "task": "e.task_id",
    "user_pseudonym": "e.subject_id",
    "run": as_text("e.run"),
    "external_event": as_text("e.external_id"),
    "input_tokens": "e.input_tokens",
    "cached_input_tokens_read": "e.cache_read_tokens",
    "cached_input_tokens_written": "e.cache_write_tokens",
    "output_tokens": "e.output_tokens",
    "input_usd_per_million": _USD.format("e.input_per_mtok"),
    "cache_read_usd_per_million": _USD.format("e.cache_read_per_mtok"),
    "cache_write_usd_per_million": _USD.format("e.cache_write_per_mtok"),
    "output_usd_per_million": _USD.format("e.output_per_mtok"),
    "quantity": "e.quantity",
    "unit_price_usd": _USD.format("e.unit_price"),
    "note": as_text("e.note"),
    "saved_usd": _USD.format("e.saved"),
}

COLUMNS = tuple(_COLUMNS)


def export(chosen: Chosen, *, by: Principal) -> tuple[str, tuple[Any, ...]]:
    """The SELECT of the rows, the earliest first, and its parameters; that it was asked for is in the audit trail.

    Raises AccessDenied unless ``by`` may read the costs of each chosen tenant.
    """
    record_export(chosen, by=by, what="ledger")
    try:
        rows, params = chosen.entries().order_by().query.sql_with_params()
    except EmptyResultSet:
        rows, params = LedgerEntry.objects.filter(pk=0).order_by().query.sql_with_params()
    columns = ", ".join(f"{expression} AS {name}" for name, expression in _COLUMNS.items())
    query = f"SELECT {columns} FROM ({rows}) AS e LEFT JOIN tenants_tenant t ON t.id = e.tenant_id ORDER BY e.at, e.id"
    return query, params


def record_export(chosen: Chosen, *, by: Principal, what: str) -> None:
    """Writes down that the costs of these tenants were taken out. Raises AccessDenied unless ``by`` may read them."""
    for tenant in chosen.tenants:
        by.verify(Permission.COST_READ, tenant.pk)
    details = {"what": what, "days": str(chosen.frame or "any time"), "filter": dict(chosen.query)}
    of_all = chosen.filter.tenants is None
    with transaction.atomic():
        # One entry for each tenant, so that each one's auditors find it; one without where all are read at once.
        for tenant_id in [None] if of_all else [tenant.pk for tenant in chosen.tenants]:
            trail.record(by, "cost:export", LedgerEntry(), tenant_id=tenant_id, details=details)
