"""Two at once: each race is held at its worst moment by a row lock, then let go."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from apps.audit.trail import ORCHESTRATOR
from apps.costs.actions import change_budget
from apps.costs.models import Budget, BudgetPeriod, LedgerEntry, Reservation
from apps.costs.reserving import Settlement, Verdict, charge_expired, release, reserve, settle
from apps.costs.watching import ids_of_periods, watching
from apps.tenants.models import Tenant
from tests.costs import LATER, NOW, ask, budget, call, granted, period, verify_money_is_whole


class Aside(threading.Thread):
    """Runs something on a connection of its own."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.act = act
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.act()
        finally:
            connection.close()

    def until_it_waits(self) -> Aside:
        """Returns when it waits for a lock that another transaction holds."""
        pause = threading.Event()
        for _ in range(1000):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_stat_clear_snapshot()")  # or it shows the same picture each time
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
                )
                if (cursor.fetchone() or (0,))[0]:
                    return self
            assert self.is_alive(), f"it did not wait: {self.result}"
            pause.wait(0.01)
        raise AssertionError("it never waited")

    def outcome(self) -> Any:
        self.join(30)
        assert not self.is_alive()
        return self.result


def test_a_period_is_never_made_with_a_limit_that_is_being_changed(own_database: str, acme: Tenant) -> None:
    month = budget(acme, 100)
    with transaction.atomic():
        change_budget(month, limit=50, by=ORCHESTRATOR, now=NOW)
        aside = Aside(lambda: ask(acme, 60)).until_it_waits()
    assert granted(aside.outcome()) == [False]
    assert (period(month).limit, period(month).ceiling) == (50, 50)


def test_a_lowered_limit_waits_for_a_period_that_is_being_made(own_database: str, acme: Tenant) -> None:
    month = budget(acme, 100)
    with transaction.atomic():
        ask(acme, 60)
        aside = Aside(lambda: change_budget(month, limit=50, by=ORCHESTRATOR, now=NOW)).until_it_waits()
    aside.outcome()
    assert (period(month).limit, period(month).ceiling, period(month).reserved) == (50, 60, 60)


def test_who_waits_for_a_period_that_is_being_made_holds_no_other(own_database: str, acme: Tenant) -> None:
    # The one who makes it may lock the others next, and a transaction around a reservation keeps what it locked.
    month, each_agent = budget(acme, 100), budget(acme, 50, "each agent", scope="agent")
    ask(acme, 40)
    wanted = call(acme, 10, agent="editor")
    spans = {key: span for key, span in watching([wanted], now=NOW).spans.items() if key.budget_id == each_agent.pk}

    def within_a_transaction() -> list[Verdict]:
        with transaction.atomic():
            return reserve([wanted], now=NOW)

    with transaction.atomic():
        ids_of_periods(spans, now=NOW)
        aside = Aside(within_a_transaction).until_it_waits()
        assert BudgetPeriod.objects.select_for_update(nowait=True).get(budget=month).reserved == 40
    assert granted(aside.outcome()) == [True]
    assert period(month).reserved == 50
    assert BudgetPeriod.objects.get(budget=each_agent, holder="editor").reserved == 10


def test_the_last_of_the_money_goes_to_one_of_two(own_database: str, acme: Tenant) -> None:
    month = budget(acme, 100)
    ask(acme, 40)
    with transaction.atomic():
        assert granted(ask(acme, 60)) == [True]
        aside = Aside(lambda: ask(acme, 60)).until_it_waits()
    (verdict,) = aside.outcome()
    assert (verdict.granted, verdict.may_fit_later) == (False, True)
    assert period(month).reserved == 100


def test_who_waited_for_another_reservation_adds_to_it(own_database: str, acme: Tenant) -> None:
    month, soft = budget(acme, 100), budget(acme, 10, "soft", enforcement="soft")
    ask(acme, 10)
    with transaction.atomic():
        ask(acme, 20)
        aside = Aside(lambda: ask(acme, 30, 40)).until_it_waits()
    assert granted(aside.outcome()) == [True, True]
    assert (period(month).reserved, period(soft).reserved) == (100, 100)
    verify_money_is_whole()


MAKE_ROOM: dict[str, Callable[[Budget, uuid.UUID], object]] = {
    "a release": lambda _, held: release([held]),
    "a settlement": lambda _, held: settle([Settlement(held, 10)], now=NOW),
    "a correction": lambda _, held: settle([Settlement(held, 10)], now=LATER),
    "a higher limit": lambda month, _: change_budget(month, limit=200, by=ORCHESTRATOR, now=NOW),
}


@pytest.mark.parametrize("make_room", MAKE_ROOM.values(), ids=MAKE_ROOM)
def test_who_waits_while_room_is_made_gets_it(
    own_database: str, acme: Tenant, make_room: Callable[[Budget, uuid.UUID], object]
) -> None:
    month = budget(acme, 100)
    ask(acme, 5)
    (verdict,) = ask(acme, 95)
    if make_room is MAKE_ROOM["a correction"]:
        charge_expired(now=LATER)
    with transaction.atomic():
        make_room(month, verdict.id)
        aside = Aside(lambda: ask(acme, 50)).until_it_waits()
    assert granted(aside.outcome()) == [True]
    verify_money_is_whole()


def test_a_settlement_and_the_end_of_the_lease_charge_once(own_database: str, acme: Tenant) -> None:
    month = budget(acme, 100)
    (verdict,) = ask(acme, 60)
    with transaction.atomic():
        assert charge_expired(now=LATER) == 1
        aside = Aside(lambda: settle([Settlement(verdict.id, 45)], now=LATER)).until_it_waits()
    assert [(s.charged, s.late) for s in aside.outcome()] == [(45, True)]
    assert list(LedgerEntry.objects.order_by("id").values_list("amount", flat=True)) == [60, -15]
    assert period(month).spent == 45

    (verdict,) = ask(acme, 30)
    with transaction.atomic():
        settle([Settlement(verdict.id, 10)], now=LATER)
        assert Aside(lambda: charge_expired(now=LATER)).outcome() == 0  # passes over it, without waiting
    assert period(month).spent == 55
    verify_money_is_whole()


def test_two_late_settlements_correct_once(own_database: str, acme: Tenant) -> None:
    month = budget(acme, 100)
    (verdict,) = ask(acme, 60)
    charge_expired(now=LATER)
    with transaction.atomic():
        settle([Settlement(verdict.id, 45)], now=LATER)
        aside = Aside(lambda: settle([Settlement(verdict.id, 20)], now=LATER)).until_it_waits()
    assert aside.outcome()[0].charged == 45
    assert LedgerEntry.objects.count() == 2
    assert period(month).spent == 45


def test_asking_again_for_a_call_that_is_being_settled_does_not_deadlock(own_database: str, acme: Tenant) -> None:
    month = budget(acme, 100)
    request = call(acme, 60)
    reserve([request], now=NOW)
    with transaction.atomic():
        period_id = period(month).pk
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM costs_budgetperiod WHERE id = %s FOR UPDATE", [period_id])
        # It has deleted the reservation and waits for the period; asking again must not wait for it in turn.
        aside = Aside(lambda: settle([Settlement(request.id, 45)], now=NOW)).until_it_waits()
        assert granted(reserve([request], now=NOW)) == [True]
    aside.outcome()
    assert (period(month).spent, period(month).reserved) == (45, 0)
    assert not Reservation.objects.exists()
    verify_money_is_whole()
