"""Agents elsewhere, many at once and some of them killed: no hard budget is passed, and each event is charged once."""

from __future__ import annotations

import datetime as dt

import pytest
from django.db import connection
from django.db.models import Count, Sum
from django.utils import timezone

from apps.costs.models import Budget, BudgetPeriod, ExternalEvent, ExternalReservation, LedgerEntry, Reservation
from apps.costs.reserving import charge_expired
from apps.tenants.models import Tenant
from tests.costs import budget, verify_money_is_whole
from tests.hammer import HIGHEST
from tests.test_never_over import hammer, spend_what_is_left, verify_nothing_passed

MODULE = "tests.external_hammer"


def _budgets(tenant: Tenant, limit: int) -> None:
    budget(tenant, limit, "tenant")
    budget(tenant, limit // 3, "each user", scope="end_user", period="daily")
    budget(tenant, limit // 3, "each run", period="run")
    budget(tenant, limit // 2, "writer", scope="agent", target="writer", period="daily")


def _charge_what_is_left() -> None:
    later = timezone.now() + dt.timedelta(hours=1)
    while charge_expired(now=later):
        pass
    assert not Reservation.objects.exists()
    assert set(BudgetPeriod.objects.values_list("reserved", flat=True)) == {0}


def _verify_no_deadlocks() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert cursor.fetchone() == (0,)


@pytest.mark.processes
def test_no_hard_budget_is_passed_by_agents_elsewhere(own_database: str, acme: Tenant) -> None:  # C4, C9
    limit = 120 * HIGHEST + 7
    _budgets(acme, limit)
    hammer(own_database, "calls", acme, module=MODULE)
    verify_nothing_passed()
    assert LedgerEntry.objects.count() > 150
    assert ExternalReservation.objects.count() >= LedgerEntry.objects.filter(kind="llm").count()
    assert LedgerEntry.objects.filter(unsettled=True).exists()
    _charge_what_is_left()
    verify_nothing_passed()
    # Nothing is refused over money that is not owed: the rest fits to the last nano-dollar.
    Budget.objects.exclude(name="tenant").update(is_active=False)
    spend_what_is_left(acme, limit)
    _verify_no_deadlocks()


@pytest.mark.processes
def test_events_sent_by_all_at_once_are_charged_once(own_database: str, acme: Tenant) -> None:  # C9
    _budgets(acme, 10_000 * HIGHEST)
    hammer(own_database, "events", acme, module=MODULE)
    _charge_what_is_left()
    verify_money_is_whole()
    entries = LedgerEntry.objects.exclude(external_id="")
    assert entries.count() > 500
    assert entries.values("external_id").annotate(times=Count("id")).filter(times__gt=1).count() == 0
    assert set(entries.values_list("id", "external_id", "amount")) == set(
        ExternalEvent.objects.values_list("entry_id", "event_id", "amount")
    )
    names = entries.values_list("external_id", flat=True)
    owed = sum(int(name.removeprefix("event-")) * 1000 for name in names)
    assert entries.aggregate(total=Sum("amount"))["total"] == owed
    _verify_no_deadlocks()
