"""A reservation in one statement: what it took for granted is looked at again before it does anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection
from pytest_django import DjangoAssertNumQueries

from apps.costs import watching
from apps.costs.models import Budget, BudgetPeriod, Reservation
from apps.costs.reserving import release, reserve
from apps.tenants.models import Tenant
from portal.ids import uuid7
from tests.costs import NOW, ask, budget, call, granted, period, verify_money_is_whole

pytestmark = pytest.mark.django_db

SWARM, USER = uuid7(), uuid7()


def _ask(tenant: Tenant, *amounts: int) -> list[bool]:
    return granted(ask(tenant, *amounts, swarm_id=SWARM, subject_id=USER))


CHANGES: dict[str, Callable[[Tenant, Budget], object]] = {
    "a budget of the tenant": lambda acme, _: budget(acme, 5, "another"),
    "a budget of the user": lambda acme, _: budget(acme, 5, "another", scope="end_user", target=str(USER)),
    "a budget of each user": lambda acme, _: budget(acme, 5, "another", scope="end_user"),
    "a budget of the agent": lambda acme, _: budget(acme, 5, "another", scope="agent", target="writer"),
    "a budget of the run": lambda acme, _: budget(acme, 5, "another", scope="swarm", target=str(SWARM), period="run"),
    "a lower limit": lambda _, month: BudgetPeriod.objects.filter(budget=month).update(limit=45, ceiling=45),
    "a shorter period": lambda _, month: Budget.objects.filter(pk=month.pk).update(period="daily", limit=5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_budget_that_was_made_or_changed_since_is_heeded_at_once(
    acme: Tenant, change: Callable[[Tenant, Budget], object]
) -> None:
    month = budget(acme, 1000)
    assert _ask(acme, 10, 10) == _ask(acme, 10, 10) == [True, True]
    change(acme, month)
    assert _ask(acme, 8) == [False]
    assert Reservation.objects.count() == 4
    verify_money_is_whole()


@pytest.mark.parametrize(
    "change",
    [
        lambda month: Budget.objects.filter(pk=month.pk).update(is_active=False),
        lambda month: Budget.objects.filter(pk=month.pk).update(scope="agent", target="somebody else"),
        lambda month: month.delete(),
    ],
    ids=["put out of force", "for another agent", "deleted"],
)
def test_a_budget_that_no_longer_watches_refuses_nothing(acme: Tenant, change: Callable[[Budget], object]) -> None:
    month = budget(acme, 20)
    assert _ask(acme, 10) == _ask(acme, 10) == [True]
    change(month)
    assert _ask(acme, 10, 10) == [True, True]


def test_the_day_is_the_one_of_the_tenants_clocks_of_now(acme: Tenant) -> None:
    budget(acme, 1000, period="daily")
    assert _ask(acme, 10) == [True]
    Tenant.objects.filter(pk=acme.pk).update(time_zone="Pacific/Kiritimati")  # it is tomorrow there
    assert _ask(acme, 10) == [True]
    assert sorted(BudgetPeriod.objects.values_list("key", "reserved")) == [("2026-11-21", 10), ("2026-11-22", 10)]


def test_the_usual_case_is_one_statement_for_whoever_asks(
    acme: Tenant, rival: Tenant, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for tenant in (acme, rival):
        (
            budget(tenant, 1000),
            budget(tenant, 1000, "run", period="run"),
            budget(tenant, 1000, "soft", enforcement="soft"),
        )
        ask(tenant, 1, swarm_id=SWARM)
    together = [call(tenant, 5, swarm_id=SWARM) for tenant in (acme, rival, acme)]
    with django_assert_num_queries(1):
        assert granted(reserve(together, now=NOW, fresh=True)) == [True] * 3
    assert sorted(BudgetPeriod.objects.values_list("budget__tenant__slug", "reserved")) == [
        *[(acme.slug, 11)] * 3,
        *[(rival.slug, 6)] * 3,
    ]
    with django_assert_num_queries(1):  # nothing watches it
        assert granted(ask(acme, 5, swarm_id=None)) == [True]


def test_a_reservation_names_its_periods_and_all_of_its_call(acme: Tenant) -> None:
    month, run = budget(acme, 1000), budget(acme, 1000, "run", period="run")
    ask(acme, 1, swarm_id=SWARM)
    wanted = [
        call(acme, 5, swarm_id=SWARM, subject_id=USER, task_id=uuid7(), attempt_id=uuid7(), run="r-1", model="m"),
        call(acme, 7, agent='with "quotes", a \\ and {braces}'),
    ]
    reserve(wanted, now=NOW, fresh=True)
    for each in wanted:
        kept = Reservation.objects.get(pk=each.id)
        for name in ("tenant_id", "subject_id", "swarm_id", "task_id", "attempt_id", "agent", "model", "run", "amount"):
            assert getattr(kept, name) == getattr(each, name), name
        assert (kept.created_at, kept.expires_at) == (NOW, each.expires_at)
    periods = [period(month).pk, period(run).pk]
    assert [Reservation.objects.get(pk=each.id).period_ids for each in wanted] == [sorted(periods), periods[:1]]
    assert release([each.id for each in wanted]) == 2
    verify_money_is_whole()


def test_it_is_planned_once_and_for_all_batches(acme: Tenant) -> None:
    budget(acme, 10**6)
    for calls in (1, 3, 1, 20, 2, 7):
        ask(acme, *range(calls), swarm_id=uuid7() if calls % 2 else None, subject_id=USER if calls > 2 else None)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), sum(generic_plans + custom_plans) FROM pg_prepared_statements "
            "WHERE statement LIKE '%%costs_reservation%%'"
        )
        plans, runs = cursor.fetchone() or (0, 0)
    assert plans == 1
    assert runs >= 3


def test_only_so_many_budgets_are_remembered(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "REMEMBERED", 3)
    for number in range(6):
        swarm = uuid7()
        budget(acme, 100, f"run {number}", scope="swarm", target=str(swarm), period="run")
        assert granted(ask(acme, 10, swarm_id=swarm)) == granted(ask(acme, 90, swarm_id=swarm)) == [True]
        assert granted(ask(acme, 1, swarm_id=swarm)) == [False]
    assert watching._last_seen.count <= 4
