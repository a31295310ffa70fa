"""What the demo's tenants spent before the demo began, so that reports, exports and what-ifs have something to show."""

from __future__ import annotations

import datetime as dt

from django.db import connection, transaction

from apps.costs import rollups, seeding
from apps.costs.models import LedgerEntry, Statement
from apps.demo.seeding import TENANTS
from apps.demo.swarms import PEOPLE

ENTRIES = 4000
DAYS = 80
CAST = seeding.Cast(
    slugs=[tenant.slug for tenant in TENANTS],
    # None that a spec of the demo has: whatever people decide about these agents, its swarms run on.
    agents=["invoice-reader", "contract-checker", "ticket-sorter", "translator", "planner", "tester", "forecaster"],
    people=PEOPLE,
    jobs=["invoices", "contracts", "tickets", "translations", "test-plan"],
)


def write_history(now: dt.datetime) -> int:
    """Writes the past, until yesterday, of agents elsewhere; how many entries. A ledger in use, or closed, gets none.

    One transaction. Nothing is charged to budgets: those of the demo begin with it.
    """
    yesterday = now.astimezone(dt.UTC).date() - dt.timedelta(days=1)
    plan = seeding.Plan(ENTRIES, len(CAST.slugs), DAYS, yesterday, cast=CAST)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('demo history'))")
        closed = Statement.objects.filter(tenant__slug__in=CAST.slugs)
        if LedgerEntry.objects.order_by().exists() or closed.exists():
            return 0
        seeding.seed(plan, progress=lambda what, done, of: None, now=now)
    rollups.roll(now=now)
    return ENTRIES
