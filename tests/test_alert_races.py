"""Each alert level is told once per period, by 32 writers at once of which some are killed, and after a restart."""

from __future__ import annotations

from collections import Counter

import pytest
from django.db import connection

from apps.costs.alerting import threshold
from apps.costs.models import BudgetAlert, BudgetPeriod, Cause
from apps.events.models import Event
from apps.tenants.models import Tenant
from tests.costs import budget, verify_money_is_whole
from tests.hammer import HIGHEST, PROCESSES, THREADS
from tests.test_never_over import hammer

LEVELS = (80, 90, 100)


def _highest_owed() -> dict[int, int]:
    """By period: the most that was ever owed in it, over all prefixes of the ledger."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, max(reached) FROM (
                SELECT period_id AS id, sum(l.amount) OVER (PARTITION BY period_id ORDER BY l.id) AS reached
                FROM costs_ledgerentry l CROSS JOIN unnest(l.period_ids) AS period_id) AS prefixes
            GROUP BY id
            """
        )
        return {period_id: int(reached) for period_id, reached in cursor}


@pytest.mark.processes
def test_each_level_is_told_once_by_many_writers_and_after_a_restart(own_database: str, acme: Tenant) -> None:  # C5
    assert PROCESSES * THREADS >= 16
    budget(acme, 2000 * HIGHEST, "tenant")
    budget(acme, 2000 * HIGHEST, "moving", enforcement="soft", alert_levels=[])  # whose limit the hammer changes
    budget(acme, 700 * HIGHEST, "writer", scope="agent", target="writer", period="daily")
    budget(acme, 300 * HIGHEST, "each user", scope="end_user", period="daily")
    budget(acme, 40 * HIGHEST, "soft", enforcement="soft")
    budget(acme, 10 * HIGHEST, "soft run", scope="swarm", period="run", enforcement="soft")
    hammer(own_database, "before", acme, seconds=1.5)
    hammer(own_database, "after the restart", acme, seconds=6)
    verify_money_is_whole()

    highest = _highest_owed()
    for period in BudgetPeriod.objects.exclude(budget__name="moving").prefetch_related("alerts"):
        reached = {level for level in LEVELS if highest.get(period.pk, 0) >= threshold(level, period.limit)}
        raised = {alert.level: alert.cause for alert in period.alerts.all()}
        by_refusal = {level for level, cause in raised.items() if cause == Cause.REFUSED}
        assert reached | by_refusal == set(raised)
        assert by_refusal <= {100}
    names = ("budget__name", "key", "holder")
    alerts = Counter(BudgetAlert.objects.values_list(*(f"period__{name}" for name in names), "level"))
    told = Counter(
        Event.objects.filter(kind="budget.alert").values_list(
            "data__budget", "data__period", "data__holder", "data__level"
        )
    )
    assert sum(alerts.values()) > 10
    assert told == alerts, "each with its event, once"
    assert set(told.values()) == {1}
