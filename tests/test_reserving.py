"""Reserving: a hard budget lets through what fits, to the last nano-dollar, and not one more."""

from __future__ import annotations

import datetime as dt

import pytest
from pytest_django import DjangoAssertNumQueries

from apps.costs.fitting import BIGGEST, Ask, PeriodState, Refusal, fit
from apps.costs.models import BudgetPeriod, Reservation
from apps.costs.reserving import Settlement, extend, release, reserve, settle
from apps.events.models import Event
from apps.tenants.models import Tenant
from portal.ids import uuid7
from portal.money import NANO
from tests.costs import LATER, NOW, SOMEBODY, ask, budget, call, granted, period, verify_money_is_whole

pytestmark = pytest.mark.django_db


def _state(
    id: int, limit: int, *, spent: int = 0, reserved: int = 0, overage: int = 0, hard: bool = True
) -> PeriodState:
    return PeriodState(id, hard, limit, spent, reserved, overage)


@pytest.mark.parametrize(
    ("asks", "periods", "expected"),
    [
        # To the last nano-dollar, and not one more.
        ([(10, (1,))], [_state(1, 10)], [None]),
        ([(11, (1,))], [_state(1, 10)], [Refusal(1, 10, False)]),
        # Greedy in the order asked: what does not fit takes nothing, so a smaller one behind it fits.
        ([(6, (1,)), (5, (1,)), (4, (1,))], [_state(1, 10)], [None, Refusal(1, 4, True), None]),
        # All scopes or nothing: the second budget refuses, so the first is not touched.
        ([(5, (1, 2)), (10, (1,))], [_state(1, 10), _state(2, 4)], [Refusal(2, 4, False), None]),
        # What is reserved may come back; what is spent or was billed beyond may not.
        ([(5, (1,))], [_state(1, 10, reserved=6)], [Refusal(1, 4, True)]),
        ([(5, (1,))], [_state(1, 10, spent=6)], [Refusal(1, 4, False)]),
        ([(5, (1,))], [_state(1, 10, overage=6)], [Refusal(1, 4, False)]),
        ([(1, (1,))], [_state(1, 10, spent=8, overage=6)], [Refusal(1, 0, False)]),
        # Of two that refuse, the one that refuses for good is named.
        ([(5, (1, 2))], [_state(1, 10, reserved=6), _state(2, 4)], [Refusal(2, 4, False)]),
        # Soft budgets refuse nothing that can be counted.
        ([(99, (1,))], [_state(1, 10, hard=False)], [None]),
        ([(BIGGEST, (1,))], [_state(1, 10, spent=1, hard=False)], [Refusal(1, BIGGEST - 1, False)]),
        # A call that costs nothing fits into what is used up, but not into what is passed.
        ([(0, (1,))], [_state(1, 10, spent=10)], [None]),
        # Nothing watches it.
        ([(99, ())], [], [None]),
    ],
)
def test_what_fits(asks: list[tuple[int, tuple[int, ...]]], periods: list[PeriodState], expected: list[object]) -> None:
    assert fit([Ask(*a) for a in asks], {p.id: p for p in periods}) == expected


def test_a_budget_is_spent_to_the_last_nano_dollar(acme: Tenant) -> None:  # C4
    month = budget(acme, 100)
    assert granted(ask(acme, 60, 41, 40, 1)) == [True, False, True, False]
    assert (period(month).reserved, period(month).remaining) == (100, 0)
    verify_money_is_whole()


def test_every_scope_must_have_room_or_none_is_touched(acme: Tenant) -> None:  # C2
    swarm = uuid7()
    budgets = [
        budget(acme, 100, "tenant"),
        budget(acme, 30, "each user", scope="end_user", period="daily"),
        budget(acme, 25, "writers", scope="agent", target="writer", period="daily"),
        budget(acme, 20, "this run", scope="swarm", target=str(swarm), period="run"),
    ]
    verdicts = ask(acme, 21, 20, subject_id=SOMEBODY, swarm_id=swarm)
    assert granted(verdicts) == [False, True]
    assert verdicts[0].reason.startswith('Budget "this run" has ')
    assert [period(b).reserved for b in budgets] == [20, 20, 20, 20]


def test_a_budget_of_each_holder_keeps_them_apart(acme: Tenant) -> None:
    each = budget(acme, 10, scope="end_user", period="daily")
    for _ in range(2):
        user = uuid7()
        assert granted(ask(acme, 10, 1, subject_id=user)) == [True, False]
    assert granted(ask(acme, 50)) == [True]  # a call for nobody in particular
    assert BudgetPeriod.objects.filter(budget=each, reserved=10).count() == 2


def test_each_run_has_its_own_period(acme: Tenant) -> None:
    budget(acme, 10, period="run")
    assert granted(ask(acme, 10, 1, swarm_id=uuid7())) == [True, False]
    assert granted(ask(acme, 10, 1, swarm_id=uuid7())) == [True, False]


def test_other_tenants_and_inactive_budgets_do_not_count(acme: Tenant, rival: Tenant) -> None:  # A5
    budget(rival, 0)
    budget(acme, 0, is_active=False)
    assert granted(ask(acme, 5)) == [True]


def test_a_soft_budget_refuses_nothing(acme: Tenant) -> None:  # C3
    budget(acme, 10, "soft", enforcement="soft")
    hard = budget(acme, 50, "hard")
    assert granted(ask(acme, 20, 20, 20)) == [True, True, False]
    assert period(hard).reserved == 40


def test_a_refusal_says_which_budget_and_whether_to_wait(acme: Tenant) -> None:
    budget(acme, 3 * NANO, "Acme, monthly")
    first, second, third = ask(acme, 2 * NANO, 2 * NANO, 4 * NANO)
    assert first.granted
    assert second.reason == (
        'Budget "Acme, monthly" has $1.00 left of $3.00; this call can cost up to $2.00. '
        "Calls in flight may give some back."
    )
    assert (second.may_fit_later, third.may_fit_later) == (True, False)


def test_the_same_id_is_granted_again_and_counted_once(acme: Tenant) -> None:
    month = budget(acme, 100)
    request = call(acme, 60)
    assert granted(reserve([request, request], now=NOW)) == [True, True]
    # The rest is judged as if the known one were not in the batch.
    assert granted(reserve([request, call(acme, 40), call(acme, 1)], now=NOW)) == [True, True, False]
    assert period(month).reserved == 100
    verify_money_is_whole()


def test_release_gives_back_and_says_how_many(acme: Tenant) -> None:
    month = budget(acme, 100)
    verdicts = ask(acme, 60, 40)
    assert release([verdicts[0].id, uuid7()]) == 1
    assert release([verdicts[0].id]) == 0
    assert period(month).reserved == 40
    assert release([]) == 0


def test_extend_lengthens_and_never_shortens(acme: Tenant) -> None:
    attempt, other = uuid7(), uuid7()
    ask(acme, 1, 2, attempt_id=attempt)
    ask(acme, 3, attempt_id=other)
    assert extend([attempt], LATER) == 2
    assert extend([attempt], NOW) == 2
    assert set(Reservation.objects.filter(attempt_id=attempt).values_list("expires_at", flat=True)) == {LATER}
    assert Reservation.objects.get(attempt_id=other).expires_at < LATER


@pytest.mark.parametrize("amount", [-1, BIGGEST + 1])
def test_an_amount_that_cannot_be_counted_is_an_error(amount: int) -> None:
    with pytest.raises(ValueError, match="nano-dollars"):
        call(Tenant(), amount)
    with pytest.raises(ValueError, match="from 0 to"):
        Settlement(uuid7(), amount)


def test_exhaustion_is_announced_once_per_period(acme: Tenant) -> None:
    budget(acme, 10, "tight")
    swarm = uuid7()
    ask(acme, 8, swarm_id=swarm)
    ask(acme, 3, swarm_id=swarm)  # may fit later: not exhausted yet
    assert not Event.objects.filter(kind="budget.exhausted").exists()
    for _ in range(2):
        ask(acme, 11, 12, swarm_id=swarm)
    event = Event.objects.get(kind="budget.exhausted")
    assert (event.tenant_id, event.swarm_id) == (acme.pk, swarm)
    assert (event.data["budget"], event.data["limit"], event.data["asked"]) == ("tight", 10, 11)
    tomorrow = NOW + dt.timedelta(days=31)
    reserve([call(acme, 11)], now=tomorrow)
    assert Event.objects.filter(kind="budget.exhausted").count() == 2


def test_a_reservation_goes_to_the_period_in_which_it_was_made(acme: Tenant) -> None:
    month = budget(acme, 100)
    request = call(acme, 60)
    end = dt.datetime(2026, 12, 1, 4, 59, 59, tzinfo=dt.UTC)  # a second before midnight in New York
    reserve([request], now=end)
    settle([Settlement(request.id, 50)], now=end + dt.timedelta(seconds=5))
    assert (period(month).key, period(month).spent) == ("2026-11", 50)
    reserve([call(acme, 100)], now=end + dt.timedelta(seconds=5))
    assert BudgetPeriod.objects.get(key="2026-12").reserved == 100


def test_a_batch_takes_a_handful_of_statements(
    acme: Tenant, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    budget(acme, 10**12, "tenant")
    budget(acme, 10**12, "user", scope="end_user", period="daily")
    users = [uuid7() for _ in range(10)]
    requests = [call(acme, 10, subject_id=users[i % 10], swarm_id=uuid7()) for i in range(100)]
    with django_assert_max_num_queries(7):  # the periods are new
        reserve(requests[:50], now=NOW, fresh=True)
    with django_assert_max_num_queries(1):
        reserve(requests[50:], now=NOW, fresh=True)
    with django_assert_max_num_queries(4):
        settle([Settlement(r.id, 5) for r in requests], now=NOW)
    verify_money_is_whole()


def test_no_requests_no_work(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_max_num_queries(0):
        assert reserve([], now=NOW) == []
        assert settle([], now=NOW) == []


def test_an_agents_name_is_not_mistaken_for_a_persons_id(acme: Tenant) -> None:
    budget(acme, 0, scope="agent", target=str(SOMEBODY))
    assert granted(ask(acme, 5, subject_id=SOMEBODY)) == [True]
    assert granted(ask(acme, 5, agent=str(SOMEBODY))) == [False]
