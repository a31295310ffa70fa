"""The ledger: it only grows, adds up, and is read by those who may; and the watchdog's questions to it."""

from __future__ import annotations

import datetime as dt

import pytest
from django.db import DatabaseError, connection, transaction
from pytest_django import DjangoAssertNumQueries

from apps.costs import consistency
from apps.costs.models import BudgetPeriod, Kind, LedgerEntry, Reservation
from apps.costs.models.ledger import Cost
from apps.costs.reserving import Settlement, charge_expired, settle
from apps.tenants.access import principal_of
from apps.tenants.models import Tenant, User
from portal.ids import uuid7
from tests.costs import LATER, NOW, ask, budget

pytestmark = pytest.mark.django_db


def _spend(tenant: Tenant, amount: int, **changes: object) -> None:
    (verdict,) = ask(tenant, amount, **changes)
    settle([Settlement(verdict.id, amount)], now=NOW)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE costs_ledgerentry SET amount = 0",
        "UPDATE {partition} SET amount = 0",
        "UPDATE costs_ledgerentry SET at = at + interval '1 month'",  # moving a row to another partition
        "DELETE FROM costs_ledgerentry",
        "DELETE FROM {partition}",
    ],
)
def test_the_database_refuses_to_change_or_delete_an_entry(acme: Tenant, statement: str) -> None:  # C1
    LedgerEntry.objects.create(tenant_id=acme.pk, kind=Kind.LLM, amount=5)
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM costs_ledgerentry")
        (partition,) = cursor.fetchone() or ("",)
    assert partition != "costs_ledgerentry"
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement.format(partition=partition))
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        LedgerEntry.objects.update(amount=0)
    assert LedgerEntry.objects.get().amount == 5


def test_costs_of_swarms_by_kind_take_one_query(
    acme: Tenant, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    swarm, other, idle = uuid7(), uuid7(), uuid7()
    _spend(acme, 10, swarm_id=swarm)
    _spend(acme, 7, swarm_id=other)
    (late,) = ask(acme, 20, swarm_id=swarm)
    charge_expired(now=LATER)
    settle([Settlement(late.id, 15)], now=LATER)
    for kind, amount in ((Kind.STORAGE, 3), (Kind.INFRASTRUCTURE, 4), (Kind.ADJUSTMENT, -1)):
        LedgerEntry.objects.create(tenant_id=acme.pk, swarm_id=swarm, kind=kind, amount=amount)
    with django_assert_num_queries(1):
        costs = LedgerEntry.objects.of_swarms([swarm, other, idle])
    assert costs == {swarm: Cost(25, 4, 3, -1), other: Cost(7), idle: Cost()}
    assert costs[swarm].total == 31


def test_reserved_amounts_of_swarms_take_one_query(
    acme: Tenant, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    swarm = uuid7()
    ask(acme, 10, 5, swarm_id=swarm)
    ask(acme, 3)
    with django_assert_num_queries(1):
        assert Reservation.objects.of_swarms([swarm, uuid7()]) == {swarm: 15}


def test_spending_of_a_time_has_its_start_and_not_its_end(acme: Tenant, rival: Tenant) -> None:
    _spend(acme, 10)
    _spend(rival, 7)
    day = dt.timedelta(days=1)
    assert LedgerEntry.objects.spent_between(NOW, NOW + day) == 17
    assert LedgerEntry.objects.filter(tenant_id=acme.pk).spent_between(NOW, NOW + day) == 10
    assert LedgerEntry.objects.spent_between(NOW - day, NOW) == 0


def test_the_outsider_sees_no_entry_and_no_reservation(acme: Tenant, finance: User, outsider: User) -> None:  # A5
    _spend(acme, 10)
    ask(acme, 5)
    for rows in (LedgerEntry.objects, Reservation.objects):
        assert rows.visible_to(principal_of(finance)).count() == 1
        assert not rows.visible_to(principal_of(outsider)).exists()


def test_the_watchdog_finds_nothing_when_all_is_well(
    acme: Tenant, django_assert_num_queries: DjangoAssertNumQueries
) -> None:  # I9
    budget(acme, 100)
    budget(acme, 100, "users", scope="end_user")
    _spend(acme, 10, swarm_id=uuid7(), task_id=uuid7(), subject_id=uuid7())
    (late, _) = ask(acme, 20, 5)
    charge_expired(now=LATER, limit=1)
    settle([Settlement(late.id, 15)], now=LATER)
    with django_assert_num_queries(4):
        assert consistency.spent_differs_from_ledger() == []
        assert consistency.reserved_differs_from_reservations() == []
        assert consistency.charges_without_task() == []
        assert consistency.leftover_reservations(now=NOW) == []


def test_the_watchdog_names_a_period_that_differs_from_the_ledger(acme: Tenant) -> None:
    budget(acme, 100, "month")
    _spend(acme, 10)
    BudgetPeriod.objects.update(spent=9)
    (gap,) = consistency.spent_differs_from_ledger()
    assert (gap.tenant_id, gap.budget, gap.key, gap.recorded, gap.rows) == (acme.pk, "month", "2026-11", 9, 10)


def test_the_watchdog_names_a_period_that_differs_from_its_reservations(acme: Tenant) -> None:
    budget(acme, 100, "month")
    ask(acme, 10)
    BudgetPeriod.objects.update(reserved=12)
    (gap,) = consistency.reserved_differs_from_reservations()
    assert (gap.recorded, gap.rows) == (12, 10)
    # One that no reservation names any more is found by what was charged to it lately.
    _spend(acme, 5)
    Reservation.objects.all().delete()
    (gap,) = consistency.reserved_differs_from_reservations()
    assert (gap.recorded, gap.rows) == (12, 0)


def test_the_watchdog_names_charges_of_a_swarm_without_a_task(acme: Tenant) -> None:
    _spend(acme, 10, swarm_id=uuid7())
    _spend(acme, 5)
    (orphan,) = consistency.charges_without_task()
    assert orphan.amount == 10


def test_the_watchdog_names_reservations_that_should_have_been_charged(acme: Tenant) -> None:
    (verdict,) = ask(acme, 10)
    (left,) = consistency.leftover_reservations(now=LATER)
    assert (left.reservation_id, left.amount) == (verdict.id, 10)
