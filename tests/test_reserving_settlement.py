"""Settling: what was billed is in the ledger and in the budgets, exactly once, whatever happened to the lease."""

from __future__ import annotations

import datetime as dt

import pytest
from structlog.testing import capture_logs

from apps.costs.models import Kind, LedgerEntry, Reservation
from apps.costs.reserving import Settled, Settlement, charge_expired, release, reserve, settle
from apps.events.models import Event
from apps.tenants.models import Tenant
from portal.ids import uuid7
from tests.costs import LATER, NOW, SOMEBODY, ask, budget, call, granted, period, verify_money_is_whole

pytestmark = pytest.mark.django_db


def test_a_settlement_moves_reserved_to_spent_and_gives_back_the_rest(acme: Tenant) -> None:  # C1
    month = budget(acme, 100)
    request = call(acme, 60, subject_id=SOMEBODY, swarm_id=uuid7(), task_id=uuid7(), attempt_id=uuid7())
    reserve([request], now=NOW)
    assert settle([Settlement(request.id, 45, 7, 8)], now=LATER) == [Settled(request.id, 45, late=False)]
    stand = period(month)
    assert (stand.spent, stand.reserved, stand.overage, stand.remaining) == (45, 0, 0, 55)
    entry = LedgerEntry.objects.get()
    assert (entry.kind, entry.amount, entry.input_tokens, entry.output_tokens) == (Kind.LLM, 45, 7, 8)
    assert (entry.at, entry.unsettled, entry.period_ids) == (LATER, False, [stand.pk])
    for field in ("tenant_id", "subject_id", "swarm_id", "task_id", "attempt_id", "agent", "model"):
        assert getattr(entry, field) == getattr(request, field)
    assert entry.reservation_id == request.id
    assert not Reservation.objects.exists()


def test_results_come_in_the_order_asked(acme: Tenant) -> None:
    budget(acme, 100)
    first, second = ask(acme, 10, 20)
    results = settle([Settlement(second.id, 2), Settlement(uuid7(), 3), Settlement(first.id, 1)], now=NOW)
    assert [result.charged for result in results] == [2, 0, 1]


def test_a_call_that_no_budget_watches_is_in_the_ledger_too(acme: Tenant) -> None:
    (verdict,) = ask(acme, 10)
    settle([Settlement(verdict.id, 4)], now=NOW)
    assert LedgerEntry.objects.get().amount == 4


def test_what_is_billed_beyond_the_reservation_is_overage_and_an_event(acme: Tenant) -> None:
    month = budget(acme, 100)
    swarm = uuid7()
    (verdict,) = ask(acme, 60, swarm_id=swarm)
    settle([Settlement(verdict.id, 65)], now=NOW)
    stand = period(month)
    assert (stand.spent, stand.overage, stand.remaining) == (60, 5, 35)
    event = Event.objects.get(kind="budget.overage")
    assert (event.swarm_id, event.data["excess"], event.data["billed"]) == (swarm, 5, 65)
    # It counts against the next call.
    assert granted(ask(acme, 36, 35)) == [False, True]
    verify_money_is_whole()


def test_overage_beyond_the_limit_is_not_dropped(acme: Tenant) -> None:
    month = budget(acme, 100)
    (verdict,) = ask(acme, 100)
    settle([Settlement(verdict.id, 1000)], now=NOW)
    assert (period(month).spent, period(month).overage, period(month).remaining) == (100, 900, 0)
    assert granted(ask(acme, 0, 1)) == [False, False]
    verify_money_is_whole()


def test_an_unknown_cost_is_charged_as_reserved_and_marked(acme: Tenant) -> None:  # C4
    month = budget(acme, 100)
    (verdict,) = ask(acme, 60)
    assert settle([Settlement(verdict.id, None)], now=NOW) == [Settled(verdict.id, 60, late=False)]
    assert LedgerEntry.objects.get().unsettled
    assert period(month).spent == 60


def test_no_reservation_outlives_its_lease(acme: Tenant) -> None:  # C4
    month = budget(acme, 100)
    old, young = call(acme, 60), call(acme, 40, expires_at=LATER)
    reserve([old, young], now=NOW)
    assert charge_expired(now=NOW) == 0
    assert charge_expired(now=NOW + dt.timedelta(seconds=30)) == 1
    assert charge_expired(now=NOW + dt.timedelta(seconds=30)) == 0
    assert (period(month).spent, period(month).reserved) == (60, 40)
    entry = LedgerEntry.objects.get()
    assert (entry.reservation_id, entry.unsettled) == (old.id, True)
    verify_money_is_whole()


def test_expired_reservations_are_charged_a_bounded_number_at_a_time(acme: Tenant) -> None:
    ask(acme, *[1] * 5)
    assert [charge_expired(now=LATER, limit=2) for _ in range(4)] == [2, 2, 1, 0]


@pytest.mark.parametrize(("billed", "spent", "overage"), [(45, 45, 0), (60, 60, 0), (0, 0, 0), (70, 60, 10)])
def test_a_late_settlement_corrects_the_charge_once(acme: Tenant, billed: int, spent: int, overage: int) -> None:
    month = budget(acme, 100)
    (verdict,) = ask(acme, 60)
    charge_expired(now=LATER)
    for _ in range(2):
        result = settle([Settlement(verdict.id, billed, 7, 8)], now=LATER)
        assert result == [Settled(verdict.id, billed, late=True)]
    charge, adjustment = LedgerEntry.objects.order_by("id")
    assert (adjustment.kind, adjustment.corrects, adjustment.amount) == (Kind.ADJUSTMENT, charge.pk, billed - 60)
    assert (adjustment.input_tokens, adjustment.output_tokens) == (7, 8)
    assert (period(month).spent, period(month).overage) == (spent, overage)
    assert Event.objects.filter(kind="budget.overage").count() == (1 if overage else 0)
    verify_money_is_whole()


def test_a_late_settlement_that_knows_nothing_changes_nothing(acme: Tenant) -> None:
    (verdict,) = ask(acme, 60)
    charge_expired(now=LATER)
    assert settle([Settlement(verdict.id, None)], now=LATER) == [Settled(verdict.id, 60, late=True)]
    assert LedgerEntry.objects.count() == 1


def test_settling_twice_charges_once(acme: Tenant) -> None:
    month = budget(acme, 100)
    (verdict,) = ask(acme, 60)
    twice = [Settlement(verdict.id, 45), Settlement(verdict.id, 50)]
    assert [result.charged for result in settle(twice, now=NOW)] == [45, 45]
    assert settle(twice[1:], now=NOW) == [Settled(verdict.id, 45, late=True)]
    assert (period(month).spent, LedgerEntry.objects.count()) == (45, 1)


def test_a_settlement_of_an_unknown_call_is_reported(acme: Tenant) -> None:
    budget(acme, 100)
    (verdict,) = ask(acme, 60)
    release([verdict.id])
    with capture_logs() as logs:
        assert settle([Settlement(verdict.id, 45)], now=NOW) == [Settled(verdict.id, 0, late=True)]
    assert [line["event"] for line in logs] == ["settlement_unmatched"]
    assert Event.objects.get(kind="budget.settlement_unmatched").data["billed"] == 45


def test_settling_lives_on_when_the_budget_is_gone(acme: Tenant) -> None:
    month = budget(acme, 100)
    (verdict,) = ask(acme, 60)
    month.delete()
    settle([Settlement(verdict.id, 45)], now=NOW)
    assert LedgerEntry.objects.get().amount == 45
