"""Budgets: their periods on the tenant's clocks, how they stand, and who may see and change them."""

from __future__ import annotations

import datetime as dt
import uuid
import zoneinfo
from typing import Any
from unittest.mock import patch

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from apps.audit.models import AuditEntry
from apps.audit.trail import ORCHESTRATOR
from apps.costs import actions
from apps.costs.budgets import Standing, blocked_tenants, standings
from apps.costs.models import Budget, BudgetPeriod
from apps.costs.reserving import Settlement, settle
from apps.costs.watching import Span, span_of
from apps.events.models import Event
from apps.tenants.access import AccessDenied, principal_of
from apps.tenants.models import Tenant, User
from portal.ids import uuid7
from portal.money import NANO
from tests.costs import NOW, ask, budget, granted, period, verify_money_is_whole

ZONES = [zoneinfo.ZoneInfo(name) for name in sorted(zoneinfo.available_timezones()) if "/" in name]


def _utc(*args: int) -> dt.datetime:
    return dt.datetime(*args, tzinfo=dt.UTC)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("kind", "zone", "now", "expected"),
    [
        # Plain days and months, west and east of Greenwich.
        ("daily", "America/New_York", _utc(2026, 11, 21, 4, 59), ("2026-11-20", _utc(2026, 11, 20, 5), 24)),
        ("daily", "Asia/Tokyo", _utc(2026, 11, 21, 15), ("2026-11-22", _utc(2026, 11, 21, 15), 24)),
        ("monthly", "Asia/Tokyo", _utc(2026, 12, 31, 15), ("2027-01", _utc(2026, 12, 31, 15), 31 * 24)),
        ("monthly", "UTC", _utc(2028, 2, 29, 23), ("2028-02", _utc(2028, 2, 1), 29 * 24)),
        # Clocks go forward and back: 23 and 25 hours, and a month with an hour more.
        ("daily", "America/New_York", _utc(2026, 3, 8, 12), ("2026-03-08", _utc(2026, 3, 8, 5), 23)),
        ("daily", "America/New_York", _utc(2026, 11, 1, 12), ("2026-11-01", _utc(2026, 11, 1, 4), 25)),
        ("monthly", "America/New_York", _utc(2026, 11, 1, 12), ("2026-11", _utc(2026, 11, 1, 4), 30 * 24 + 1)),
        # Midnight does not exist: the day begins at one.
        ("daily", "America/Sao_Paulo", _utc(2018, 11, 4, 12), ("2018-11-04", _utc(2018, 11, 4, 3), 23)),
        # Midnight comes twice: the day begins with the first.
        ("daily", "America/Havana", _utc(2026, 11, 1, 4, 30), ("2026-11-01", _utc(2026, 11, 1, 4), 25)),
        # A whole day is left out.
        ("daily", "Pacific/Apia", _utc(2011, 12, 30, 9), ("2011-12-29", _utc(2011, 12, 29, 10), 24)),
    ],
)
def test_periods_are_those_of_the_tenants_clocks(
    kind: str, zone: str, now: dt.datetime, expected: tuple[str, dt.datetime, int]
) -> None:  # C2
    key, starts_at, hours = expected
    assert span_of(kind, zoneinfo.ZoneInfo(zone), now, None) == (key, starts_at, starts_at + dt.timedelta(hours=hours))


_times = st.integers(631_152_000, 2_840_140_800).map(lambda seconds: dt.datetime.fromtimestamp(seconds, dt.UTC))


@given(st.sampled_from(["daily", "monthly"]), st.sampled_from(ZONES), _times)
def test_periods_join_without_gap_or_overlap(kind: str, zone: zoneinfo.ZoneInfo, now: dt.datetime) -> None:
    span = span_of(kind, zone, now, None)
    assert span is not None
    assert span.ends_at is not None
    assert span.starts_at <= now < span.ends_at
    assert now.astimezone(zone).date().isoformat().startswith(span.key)
    moment = dt.timedelta(microseconds=1)
    before, after = span_of(kind, zone, span.starts_at - moment, None), span_of(kind, zone, span.ends_at, None)
    assert before is not None
    assert after is not None
    assert (before.ends_at, after.starts_at) == (span.starts_at, span.ends_at)
    assert span_of(kind, zone, span.ends_at - moment, None) == span


def test_a_run_begins_with_its_first_call_and_has_no_set_end() -> None:
    swarm, utc = uuid7(), zoneinfo.ZoneInfo("UTC")
    assert span_of("run", utc, NOW, swarm) == Span(str(swarm), NOW, None)
    assert span_of("run", utc, NOW, None) is None


@pytest.mark.django_db
def test_standings_of_many_budgets_take_two_queries(
    acme: Tenant, rival: Tenant, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    month = budget(acme, 100, "month")
    untouched = budget(rival, 50, "untouched", period="daily")
    users = budget(acme, 40, "users", scope="end_user", period="daily")
    runs = budget(acme, 40, "runs", period="run")
    swarm, other = uuid7(), uuid7()
    own = budget(acme, 20, "own run", scope="swarm", target=str(swarm), period="run")
    light, heavy = uuid7(), uuid7()
    first = ask(acme, 10, subject_id=light, swarm_id=other) + ask(acme, 20, subject_id=heavy, swarm_id=swarm)
    settle([Settlement(first[1].id, 5)], now=NOW)
    ask(acme, 8, subject_id=heavy, swarm_id=swarm)
    with django_assert_num_queries(2):
        stand = standings([month, untouched, users, runs, own], now=NOW)
    seen = {b.name: (s.holder, s.spent, s.reserved, s.remaining, s.limit, s.of) for b, s in _pairs(stand)}
    assert seen == {
        "month": ("", 5, 18, 77, 100, 1),
        "untouched": ("", 0, 0, 50, 50, 0),
        "users": (str(heavy), 5, 8, 27, 40, 2),
        "runs": ("", 5, 8, 27, 40, 2),
        "own run": ("", 5, 8, 7, 20, 1),
    }
    assert stand[month.pk].percent == 23.0
    assert stand[untouched.pk].key == "2026-11-21"
    # A run that is long over is not current, but a run's own budget still tells how it ended.
    settle([Settlement(v.id, 8) for v in first], now=NOW)
    BudgetPeriod.objects.filter(budget__in=[runs, own]).update(reserved=0)
    later = standings([runs, own], now=NOW + dt.timedelta(hours=3))
    assert [(later[b.pk].of, later[b.pk].spent > 0) for b in (runs, own)] == [(0, False), (1, True)]
    assert standings([], now=NOW) == {}


def _pairs(stand: dict[uuid.UUID, Standing]) -> list[tuple[Budget, Standing]]:
    return [(Budget.objects.get(pk=s.budget_id), s) for s in stand.values()]


@pytest.mark.django_db
def test_the_standing_of_last_month_is_not_that_of_this_one(acme: Tenant) -> None:
    month = budget(acme, 100)
    ask(acme, 100)
    assert standings([month], now=NOW)[month.pk].percent == 100.0
    assert standings([month], now=NOW + dt.timedelta(days=15))[month.pk].percent == 0.0


@pytest.mark.django_db
def test_a_used_up_hard_budget_blocks_its_tenant_until_it_ends(
    acme: Tenant, rival: Tenant, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    budget(acme, 10 * NANO, "Acme, daily", period="daily")
    budget(acme, 20 * NANO, "Acme, monthly")
    budget(acme, 0, "runs", period="run")
    budget(acme, 0, "soft", enforcement="soft")
    budget(acme, 0, "user", scope="end_user")
    budget(acme, 0, "old", is_active=False)
    budget(rival, 5 * NANO, "Rival")
    (verdict,) = ask(acme, 10 * NANO)
    assert blocked_tenants(now=NOW) == {}  # the call in flight may give it back
    settle([Settlement(verdict.id, 10 * NANO)], now=NOW)
    with django_assert_max_num_queries(3):
        blocked = blocked_tenants(now=NOW)
    assert blocked == {acme.pk: ('Budget "Acme, daily" is used up: $10.00 of $10.00.', _utc(2026, 11, 22, 5))}
    assert blocked_tenants(now=_utc(2026, 11, 22, 5)) == {}


@pytest.mark.django_db
def test_a_budget_of_nothing_blocks_before_any_call(acme: Tenant) -> None:
    budget(acme, 0, "none")
    assert blocked_tenants(now=NOW)[acme.pk][1] == _utc(2026, 12, 1, 5)


@pytest.mark.django_db
def test_the_outsider_sees_no_budget_and_no_period(acme: Tenant, viewer: User, outsider: User) -> None:  # A5
    budget(acme, 10)
    ask(acme, 5)
    for rows in (Budget.objects, BudgetPeriod.objects):
        assert rows.visible_to(principal_of(viewer)).count() == 1
        assert not rows.visible_to(principal_of(outsider)).exists()


@pytest.mark.django_db
def test_budgets_of_single_runs_can_be_left_out(acme: Tenant) -> None:
    budget(acme, 10)
    budget(acme, 10, "runs", period="run")
    actions.set_run_budget(uuid7(), acme, 10, "brief")
    assert {b.name for b in Budget.objects.lasting()} == {"all", "runs"}


@pytest.mark.django_db
def test_creating_a_budget_is_audited_and_an_event(acme: Tenant, finance: User) -> None:  # G5
    made = actions.create_budget(tenant=acme, name=" Month ", limit=50 * NANO, by=principal_of(finance), note="n")
    made.refresh_from_db()
    assert (made.name, made.limit, made.period, made.enforcement, made.note) == (
        "Month", 50 * NANO, "monthly", "hard", "n",
    )  # fmt: skip
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor, entry.resource_id) == ("budget:update", str(finance.pk), str(made.pk))
    assert entry.details["limit_usd"] == "50.00"
    assert Event.objects.get(kind="budget.created").tenant_id == acme.pk


@pytest.mark.django_db
def test_only_who_may_update_budgets_can(acme: Tenant, viewer: User, outsider: User, developer: User) -> None:  # A1
    month = budget(acme, 10)
    for user in (viewer, outsider, developer):
        by = principal_of(user)
        with pytest.raises(AccessDenied, match="budget:update"):
            actions.create_budget(tenant=acme, name="x", limit=1, by=by)
        with pytest.raises(AccessDenied):
            actions.change_budget(month, limit=20, by=by, now=NOW)
        with pytest.raises(AccessDenied):
            actions.deactivate_budget(month, by=by)
    assert not AuditEntry.objects.exists()
    assert Budget.objects.get().limit == 10


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"limit": -1}, {"limit"}),
        ({"limit": 2**63}, {"limit"}),
        ({"name": " "}, {"name"}),
        ({"scope": "planet", "period": "yearly", "enforcement": "maybe"}, {"scope", "period", "enforcement"}),
        ({"scope": "end_user", "target": "user-8842"}, {"target"}),
        ({"scope": "swarm", "target": "brief"}, {"target"}),
        ({"scope": "tenant", "target": "x"}, {"__all__"}),
        ({"name": "taken"}, {"__all__"}),
    ],
)
def test_a_wrong_budget_is_refused_with_every_field(acme: Tenant, fields: dict[str, Any], wrong: set[str]) -> None:
    budget(acme, 1, "taken")
    with pytest.raises(ValidationError) as error:
        actions.create_budget(**{"tenant": acme, "name": "new", "limit": 1, "by": ORCHESTRATOR, **fields})
    assert set(error.value.message_dict) == wrong
    assert not Event.objects.exists()


@pytest.mark.django_db
def test_a_higher_limit_lets_calls_through_at_once(acme: Tenant) -> None:
    month = budget(acme, 10)
    assert granted(ask(acme, 10, 5)) == [True, False]
    changed = actions.change_budget(month, limit=15, by=ORCHESTRATOR, now=NOW)
    assert changed.limit == 15
    assert granted(ask(acme, 5, 1)) == [True, False]
    assert AuditEntry.objects.get().details == {"limit_usd": ["0.00000001", "0.000000015"]}


@pytest.mark.django_db
def test_a_limit_below_what_is_committed_lets_that_stand_and_nothing_more(acme: Tenant) -> None:
    month = budget(acme, 100)
    first, second = ask(acme, 40, 30)
    settle([Settlement(first.id, 40)], now=NOW)
    actions.change_budget(month, limit=50, by=ORCHESTRATOR, now=NOW)
    assert (period(month).limit, period(month).ceiling) == (50, 70)
    assert granted(ask(acme, 1)) == [False]
    settle([Settlement(second.id, 5)], now=NOW)
    assert granted(ask(acme, 6, 5)) == [False, True]
    verify_money_is_whole()


@pytest.mark.django_db
def test_exhaustion_is_announced_again_after_the_limit_was_raised(acme: Tenant) -> None:
    month = budget(acme, 10)
    ask(acme, 11)
    actions.change_budget(month, limit=20, by=ORCHESTRATOR, now=NOW)
    ask(acme, 21)
    assert Event.objects.filter(kind="budget.exhausted").count() == 2


@pytest.mark.django_db
def test_a_budget_can_turn_soft_and_hard_again(acme: Tenant) -> None:
    month = budget(acme, 10)
    ask(acme, 10)
    actions.change_budget(month, enforcement="soft", by=ORCHESTRATOR, now=NOW)
    assert granted(ask(acme, 10)) == [True]
    actions.change_budget(month, enforcement="hard", by=ORCHESTRATOR, now=NOW)
    assert (period(month).limit, period(month).ceiling) == (10, 20)
    assert granted(ask(acme, 1)) == [False]


@pytest.mark.django_db
def test_a_deactivated_budget_still_settles_what_is_in_flight(acme: Tenant) -> None:
    month = budget(acme, 10)
    (verdict,) = ask(acme, 10)
    assert not actions.deactivate_budget(month, by=ORCHESTRATOR).is_active
    assert granted(ask(acme, 99)) == [True]
    settle([Settlement(verdict.id, 4)], now=NOW)
    assert (period(month).spent, period(month).reserved) == (4, 0)


@pytest.mark.django_db
def test_a_change_that_changes_nothing_writes_nothing(acme: Tenant) -> None:
    actions.change_budget(budget(acme, 10), limit=10, by=ORCHESTRATOR, now=NOW)
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db
def test_a_runs_own_budget_is_hard_and_watches_only_that_run(acme: Tenant) -> None:
    swarm, twin = uuid7(), uuid7()
    for id in (swarm, twin):
        actions.set_run_budget(id, acme, 10, "market-brief", by=ORCHESTRATOR)
    assert granted(ask(acme, 10, 1, swarm_id=swarm)) == [True, False]
    assert granted(ask(acme, 10, swarm_id=twin)) == [True]
    assert granted(ask(acme, 99, swarm_id=uuid7())) == [True]
    assert AuditEntry.objects.count() == 2
    assert Event.objects.filter(kind="budget.created", swarm_id=swarm).exists()


@pytest.mark.django_db(transaction=False)
@pytest.mark.parametrize("broken", ["apps.costs.actions.record", "apps.events.log.emit"])
def test_when_the_second_write_fails_nothing_stays(acme: Tenant, broken: str) -> None:
    month = budget(acme, 10)
    ask(acme, 5)
    with patch(broken, side_effect=RuntimeError("disk full")):
        with pytest.raises(RuntimeError):
            actions.create_budget(tenant=acme, name="x", limit=1, by=ORCHESTRATOR)
        with pytest.raises(RuntimeError):
            actions.change_budget(month, limit=20, by=ORCHESTRATOR, now=NOW)
    assert list(Budget.objects.values_list("name", "limit")) == [("all", 10)]
    assert period(month).limit == 10
    assert not AuditEntry.objects.exists()
    assert not Event.objects.exists()
