"""Alerts of budgets: each level once per period, in the transaction that reaches it, and withdrawn when untrue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries
from structlog.testing import capture_logs

from apps.audit.models import AuditEntry
from apps.audit.trail import ORCHESTRATOR
from apps.costs import actions
from apps.costs.alerting import Plan, Raised, highest_reached, plan, threshold
from apps.costs.fitting import BIGGEST
from apps.costs.models import Budget, BudgetAlert
from apps.costs.reserving import Settlement, charge_expired, release, reserve, settle
from apps.events.models import Event
from apps.tenants.access import principal_of
from apps.tenants.models import Tenant, User
from portal.ids import uuid7
from tests.costs import LATER, NOW, ask, budget, call, granted, period, verify_money_is_whole

LEVELS = (80, 90, 100)


def spend(tenant: Tenant, *amounts: int, now: dt.datetime = NOW, **fields: Any) -> None:
    """One call after the other, each in transactions of its own."""
    for amount in amounts:
        request = call(tenant, amount, **fields)
        assert reserve([request], now=now)[0].granted
        settle([Settlement(request.id, amount)], now=now)


def alerts(of: Budget, **filters: Any) -> list[tuple[int, str, int]]:
    """(level, cause, owed) of a budget's standing alerts, in the order in which they were raised."""
    rows = BudgetAlert.objects.standing().filter(period__budget=of, **filters).order_by("id")
    return list(rows.values_list("level", "cause", "owed"))


def told(kind: str = "budget.alert") -> list[int]:
    return [event.data["level"] for event in Event.objects.filter(kind=kind).order_by("id")]


@pytest.mark.parametrize(
    ("facts", "expected", "why"),
    [
        ({"owed": 79}, Plan((), (), 80), "below every level"),
        ({"owed": 80}, Plan((80,), (), 90), "reached exactly"),
        ({"owed": 250}, Plan((80, 90, 100), (), None), "one charge reaches all"),
        ({"owed": 95, "raised": [(1, 80)]}, Plan((90,), (), 100), "what stands is not raised again"),
        ({"owed": 10, "raised": [(1, 80)]}, Plan((), (), 90), "a correction takes nothing back"),
        ({"owed": 10, "raised": [(1, 80)], "changed": True}, Plan((), (1,), 80), "a change of the limit does"),
        ({"owed": 10, "refused": True}, Plan((100,), (), 80), "refused for good: used up, whatever is owed"),
        ({"owed": 10, "refused": True, "levels": (50, 80)}, Plan((), (), 50), "nobody asked to hear of 100 %"),
        ({"owed": 10, "raised": [(1, 100, True)], "changed": True}, Plan((), (), 80), "what was refused still is"),
        (
            {"owed": 10, "raised": [(1, 100, True)], "changed": True, "refusals_stand": False},
            Plan((), (1,), 80),
            "there is room again",
        ),
        ({"owed": 99, "raised": [(7, 70)], "changed": True, "levels": (100,)}, Plan((), (), 100), "a level taken out"),
        ({"owed": 0, "limit": 0}, Plan((), (), 1), "nothing of nothing is no alert"),
        ({"owed": 1, "limit": 0}, Plan((80, 90, 100), (), None), "anything of nothing is"),
        ({"owed": 8, "limit": 9}, Plan((80,), (), 9), "a level is reached when all of it is: 8 of 7.2, not of 8.1"),
        ({"owed": 5, "limit": BIGGEST, "levels": (101,)}, Plan((), (), None), "more than can ever be owed"),
    ],
)
def test_which_alerts_are_due(facts: dict[str, Any], expected: Plan, why: str) -> None:  # C5
    given_ = {"limit": 100, **facts}
    levels: Sequence[int] = given_.pop("levels", LEVELS)
    raised = [Raised(id, level, bool(refusal)) for id, level, *refusal in given_.pop("raised", [])]
    assert plan(levels, raised, **given_) == expected, why


@given(st.integers(1, 1000), st.integers(0, BIGGEST), st.integers(0, BIGGEST))
def test_a_level_is_reached_when_that_part_of_the_limit_is_owed(level: int, limit: int, owed: int) -> None:
    exactly = owed * 100 >= level * limit and owed > 0
    assert (owed >= threshold(level, limit)) is exactly
    assert highest_reached([level], owed=owed, limit=limit) == (level if exactly else None)


@pytest.mark.django_db
@pytest.mark.parametrize("limit", [0, 1, 3, 99, 101, 10**15 + 7, BIGGEST // 2, BIGGEST])
@pytest.mark.parametrize("levels", [[], [1], [80, 90], [150, 1000]])
def test_the_database_knows_the_first_threshold_of_a_new_period(acme: Tenant, limit: int, levels: list[int]) -> None:
    made = budget(acme, limit, enforcement="soft", alert_levels=levels)
    ask(acme, 0)
    assert period(made).next_alert == plan(levels, [], owed=0, limit=limit).next_alert


@pytest.mark.django_db
@pytest.mark.parametrize("enforcement", ["hard", "soft"])
def test_each_level_is_told_once_per_period(acme: Tenant, enforcement: str) -> None:  # C3, C5
    month = budget(acme, 100, "month", enforcement=enforcement)
    swarm = uuid7()
    spend(acme, 79, swarm_id=swarm)
    assert alerts(month) == []
    with capture_logs() as logs:
        spend(acme, 2, 8, 5, swarm_id=swarm)  # 81, 89, 94
        spend(acme, 6, 0, swarm_id=swarm)
    assert alerts(month) == [(80, "spent", 81), (90, "spent", 94), (100, "spent", 100)]
    assert [(line["event"], line["log_level"], line["percent"]) for line in logs] == [
        ("budget_alert", "warning", level) for level in LEVELS
    ]
    event = Event.objects.filter(kind="budget.alert").earliest("id")
    assert (event.tenant_id, event.swarm_id) == (acme.pk, swarm)
    assert (event.data["budget"], event.data["level"], event.data["owed"], event.data["limit"]) == (
        "month",
        80,
        81,
        100,
    )
    assert period(month).next_alert is None
    verify_money_is_whole()


@pytest.mark.django_db
def test_the_next_period_begins_anew(acme: Tenant) -> None:
    day = budget(acme, 100, period="daily")
    spend(acme, 85)
    spend(acme, 85, now=NOW + dt.timedelta(days=1))
    assert [(row.period.key, row.level) for row in BudgetAlert.objects.order_by("id")] == [
        ("2026-11-21", 80),
        ("2026-11-22", 80),
    ]
    assert day.periods.count() == 2


@pytest.mark.django_db
def test_holders_that_are_watched_separately_are_told_of_separately(acme: Tenant) -> None:
    each = budget(acme, 100, scope="end_user", period="daily")
    one, other = uuid7(), uuid7()
    requests = [call(acme, 90, subject_id=one), call(acme, 40, subject_id=other), call(acme, 45, subject_id=other)]
    reserve(requests, now=NOW)
    settle([Settlement(request.id, request.amount) for request in requests], now=NOW)
    assert {(row.period.holder, row.level) for row in BudgetAlert.objects.filter(period__budget=each)} == {
        (str(one), 80), (str(one), 90), (str(other), 80),
    }  # fmt: skip


@pytest.mark.django_db
def test_what_a_lease_or_a_provider_charges_alerts_too(acme: Tenant) -> None:
    month = budget(acme, 100)
    (verdict,) = ask(acme, 85)
    charge_expired(now=LATER)
    assert alerts(month) == [(80, "spent", 85)]
    settle([Settlement(verdict.id, 120)], now=LATER)  # late, and more than was reserved
    assert alerts(month) == [(80, "spent", 85), (90, "spent", 120), (100, "spent", 120)]


@pytest.mark.django_db
def test_a_release_and_a_correction_downwards_say_nothing(acme: Tenant) -> None:
    month = budget(acme, 100)
    (verdict,) = ask(acme, 95)
    release([verdict.id])
    assert alerts(month) == []
    (verdict,) = ask(acme, 95)
    charge_expired(now=LATER)
    settle([Settlement(verdict.id, 10)], now=LATER)
    spend(acme, 75)  # 85 are owed: the second time that 80 is passed in this period
    assert told() == [80, 90]


@pytest.mark.django_db
def test_a_call_that_is_refused_for_good_uses_the_budget_up_once(acme: Tenant) -> None:  # C5
    month = budget(acme, 100)
    spend(acme, 30)
    swarm = uuid7()
    assert granted(ask(acme, 71, 72, swarm_id=swarm)) == [False, False]
    ask(acme, 80, swarm_id=swarm)
    assert alerts(month) == [(100, "refused", 30)]
    assert Event.objects.get(kind="budget.alert").swarm_id == swarm
    spend(acme, 60)
    assert alerts(month) == [(100, "refused", 30), (80, "spent", 90), (90, "spent", 90)]
    spend(acme, 10)
    assert told() == [100, 80, 90]


@pytest.mark.django_db
def test_a_call_that_may_fit_later_uses_nothing_up(acme: Tenant) -> None:
    month = budget(acme, 100)
    ask(acme, 60, 60)
    assert alerts(month) == []


@pytest.mark.django_db
def test_levels_can_be_chosen(acme: Tenant) -> None:
    soft = actions.create_budget(
        tenant=acme, name="soft", limit=100, enforcement="soft", alert_levels=[200, 50], by=ORCHESTRATOR
    )
    quiet = actions.create_budget(tenant=acme, name="quiet", limit=100, alert_levels=[], by=ORCHESTRATOR)
    assert soft.alert_levels == [50, 200]
    spend(acme, 60, 40)
    actions.deactivate_budget(quiet, by=ORCHESTRATOR)
    spend(acme, 99, 1)
    assert (alerts(soft), alerts(quiet)) == ([(50, "spent", 60), (200, "spent", 200)], [])


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ([0, 80], "not 0"),
        ([1001], "from 1 to 1000"),
        ([80, 80], "80 is given more than once"),
        (list(range(1, 12)), "At most 10"),
    ],
)
def test_wrong_levels_are_refused(acme: Tenant, levels: list[int], says: str) -> None:
    month = budget(acme, 100)
    with pytest.raises(ValidationError, match=says) as error:
        actions.change_budget(month, alert_levels=levels, by=ORCHESTRATOR, now=NOW)
    assert set(error.value.message_dict) == {"alert_levels"}
    with pytest.raises(ValidationError, match=says):
        actions.create_budget(tenant=acme, name="new", limit=1, alert_levels=levels, by=ORCHESTRATOR)
    month.alert_levels = [90, 80]
    with pytest.raises(ValidationError, match="lowest to the highest"):
        month.full_clean()


@pytest.mark.django_db
def test_a_higher_limit_withdraws_what_is_no_longer_true(acme: Tenant) -> None:
    month = budget(acme, 100)
    spend(acme, 95)
    raised = list(BudgetAlert.objects.order_by("id"))
    actions.change_budget(month, limit=110, by=ORCHESTRATOR, now=LATER)
    assert alerts(month) == [(80, "spent", 95)]  # 95 of 110 are 86 %
    assert (told(), told("budget.alert_withdrawn")) == ([80, 90], [90])
    raised[1].refresh_from_db()
    assert (raised[1].withdrawn_at, raised[1].limit) == (LATER, 100)  # kept as it was told
    spend(acme, 10)
    assert alerts(month) == [(80, "spent", 95), (90, "spent", 105)]
    assert told() == [80, 90, 90]


@pytest.mark.django_db
def test_a_lower_limit_raises_what_is_reached_now(acme: Tenant) -> None:
    month = budget(acme, 100)
    spend(acme, 50)
    actions.change_budget(month, limit=60, by=ORCHESTRATOR, now=LATER)
    assert alerts(month) == [(80, "changed", 50)]
    actions.change_budget(month, limit=40, by=ORCHESTRATOR, now=LATER)
    assert alerts(month) == [(80, "changed", 50), (90, "changed", 50), (100, "changed", 50)]
    assert BudgetAlert.objects.latest("id").limit == 40


@pytest.mark.django_db
def test_new_levels_count_for_what_is_spent_already(acme: Tenant) -> None:
    month = budget(acme, 100)
    spend(acme, 85)
    actions.change_budget(month, alert_levels=[100, 70], by=ORCHESTRATOR, now=NOW)
    assert alerts(month) == [(80, "spent", 85), (70, "changed", 85)]
    assert AuditEntry.objects.get().details == {"alert_levels": [[80, 90, 100], [70, 100]]}
    spend(acme, 10)
    assert told() == [80, 70]  # 90 is no level any more
    spend(acme, 5)
    assert told() == [80, 70, 100]


@pytest.mark.django_db
def test_a_refusal_stands_until_there_is_more_room(acme: Tenant) -> None:
    month = budget(acme, 100)
    spend(acme, 30)
    ask(acme, 80)
    actions.change_budget(month, limit=90, by=ORCHESTRATOR, now=NOW)
    assert alerts(month) == [(100, "refused", 30)]
    actions.change_budget(month, limit=95, by=ORCHESTRATOR, now=NOW)
    assert alerts(month) == []
    ask(acme, 80)
    assert told() == [100, 100]
    actions.change_budget(month, enforcement="soft", by=ORCHESTRATOR, now=NOW)
    assert alerts(month) == []


@pytest.mark.django_db
def test_earlier_periods_keep_their_alerts_when_the_limit_changes(acme: Tenant) -> None:
    day = budget(acme, 100, period="daily")
    spend(acme, 95)
    actions.change_budget(day, limit=500, by=ORCHESTRATOR, now=NOW + dt.timedelta(days=1))
    assert alerts(day) == [(80, "spent", 95), (90, "spent", 95)]


@pytest.mark.django_db
def test_the_database_keeps_a_second_alert_of_a_level_out(acme: Tenant) -> None:
    month = budget(acme, 100)
    spend(acme, 85)
    with pytest.raises(IntegrityError, match="one_standing_alert_per_level"), transaction.atomic():
        BudgetAlert.objects.create(period=period(month), level=80, owed=85, limit=100)
    with pytest.raises(IntegrityError, match="alert_level_in_range"), transaction.atomic():
        BudgetAlert.objects.create(period=period(month), level=1001, owed=85, limit=100)


@pytest.mark.django_db
def test_a_charge_that_reaches_nothing_costs_no_statement_more(
    acme: Tenant, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    budget(acme, 10_000)
    spend(acme, 10)
    requests = [call(acme, 10) for _ in range(50)]
    reserve(requests, now=NOW)
    with django_assert_max_num_queries(4):
        settle([Settlement(request.id, 10) for request in requests], now=NOW)
    big = call(acme, 9000)
    reserve([big], now=NOW)
    with django_assert_max_num_queries(9):
        settle([Settlement(big.id, 9000)], now=NOW)
    assert told() == [80, 90]


@pytest.mark.django_db
def test_a_period_from_before_there_were_alerts_catches_up(acme: Tenant) -> None:
    month = budget(acme, 100)
    spend(acme, 85)
    BudgetAlert.objects.all().delete()
    month.periods.update(next_alert=0)
    spend(acme, 1)
    assert alerts(month) == [(80, "spent", 86)]
    assert period(month).next_alert == 90


@pytest.mark.django_db
def test_the_outsider_sees_no_alert(acme: Tenant, viewer: User, outsider: User) -> None:  # A5
    budget(acme, 100)
    spend(acme, 85)
    assert BudgetAlert.objects.visible_to(principal_of(viewer)).count() == 1
    assert not BudgetAlert.objects.visible_to(principal_of(outsider)).exists()


@pytest.mark.django_db
def test_when_the_alert_cannot_be_told_the_charge_does_not_stand(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    month = budget(acme, 100)
    (verdict,) = ask(acme, 90)

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr("apps.events.log.emit", broken)
        with pytest.raises(RuntimeError), transaction.atomic():
            settle([Settlement(verdict.id, 90)], now=NOW)
    assert (period(month).spent, alerts(month)) == (0, [])
    settle([Settlement(verdict.id, 90)], now=NOW)
    assert [level for level, _, _ in alerts(month)] == [80, 90]
