"""What the tests of money share: calls to reserve, and sums that must agree."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from django.db import connection

from apps.costs.models import Budget, BudgetPeriod
from apps.costs.reserving import CallRequest, Verdict, reserve
from apps.tenants.models import Tenant
from portal.ids import uuid7

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(hours=1)
SOMEBODY = uuid.UUID(int=0x8842)


def call(tenant: Tenant, amount: int, **changes: Any) -> CallRequest:
    """A call of a tenant's swarm that can cost ``amount`` nano-dollars; its lease lasts 30 s from NOW."""
    fields: dict[str, Any] = {
        "id": uuid7(),
        "tenant_id": tenant.pk,
        "subject_id": None,
        "swarm_id": None,
        "task_id": None,
        "attempt_id": None,
        "agent": "writer",
        "model": "simulated:small",
        "amount": amount,
        "expires_at": NOW + dt.timedelta(seconds=30),
    }
    return CallRequest(**{**fields, **changes})


def ask(tenant: Tenant, *amounts: int, **changes: Any) -> list[Verdict]:
    """The verdicts on calls of these amounts, asked for in one batch."""
    return reserve([call(tenant, amount, **changes) for amount in amounts], now=NOW, fresh=True)


def granted(verdicts: list[Verdict]) -> list[bool]:
    return [verdict.granted for verdict in verdicts]


def budget(tenant: Tenant, limit: int, name: str = "all", **fields: Any) -> Budget:
    return Budget.objects.create(tenant=tenant, name=name, limit=limit, **fields)


def period(of: Budget) -> BudgetPeriod:
    """The only period of a budget."""
    return BudgetPeriod.objects.get(budget=of)


def verify_money_is_whole() -> None:
    """Fails unless every period is within its ceiling and is exactly the sum of its entries and reservations."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT p.id, p.spent + p.overage, coalesce(l.total, 0), p.reserved, coalesce(r.total, 0), p.ceiling, p.spent
            FROM costs_budgetperiod p
            LEFT JOIN (SELECT unnest(period_ids) AS id, sum(amount) AS total FROM costs_ledgerentry GROUP BY 1) l
                USING (id)
            LEFT JOIN (SELECT unnest(period_ids) AS id, sum(amount) AS total FROM costs_reservation GROUP BY 1) r
                USING (id)
            """
        )
        for period_id, owed, entries, reserved, reservations, ceiling, spent in cursor:
            assert owed == entries, f"period {period_id}: spent and overage are {owed}, the ledger says {entries}"
            assert reserved == reservations, f"period {period_id}: {reserved} reserved, but {reservations} in rows"
            assert ceiling is None or spent + reserved <= ceiling, f"period {period_id} is over its ceiling"
