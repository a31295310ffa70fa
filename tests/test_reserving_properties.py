"""Whatever happens, in whatever order: no hard budget is passed, and every period is the sum of its rows."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from apps.audit.trail import ORCHESTRATOR
from apps.costs import actions
from apps.costs.fitting import Ask, PeriodState, fit
from apps.costs.models import Budget, LedgerEntry, Reservation
from apps.costs.reserving import Settlement, charge_expired, extend, release, reserve, settle
from apps.tenants.models import Tenant
from portal.ids import uuid7
from tests.costs import NOW, budget, call, verify_money_is_whole

_amounts = st.integers(0, 60)
_places = st.integers(0, 30)
_states = st.builds(
    PeriodState,
    st.just(0),
    st.booleans(),
    st.integers(0, 200),
    st.integers(0, 120),
    st.integers(0, 120),
    st.integers(0, 40),
)


@given(
    st.lists(_states, min_size=1, max_size=4),
    st.lists(st.tuples(_amounts, st.sets(st.integers(0, 3))), max_size=12),
)
def test_what_is_granted_fits_and_what_is_refused_did_not(
    states: list[PeriodState], asked: list[tuple[int, set[int]]]
) -> None:
    periods = {n: PeriodState(n, s.is_hard, s.limit, s.spent, s.reserved, s.overage) for n, s in enumerate(states)}
    asks = [Ask(amount, tuple(sorted(ids & periods.keys()))) for amount, ids in asked]
    taken = dict.fromkeys(periods, 0)
    for ask, refusal in zip(asks, fit(asks, periods), strict=True):
        room = {
            n: periods[n].limit - periods[n].owed - periods[n].reserved - taken[n]
            for n in ask.period_ids
            if periods[n].is_hard
        }
        if refusal is None:
            assert all(ask.amount <= left for left in room.values())
            for n in ask.period_ids:
                taken[n] += ask.amount
        else:
            assert ask.amount > room[refusal.period_id]
            for_good = any(periods[n].owed + ask.amount > periods[n].limit for n in room)
            assert refusal.may_fit_later is not for_good


class Spending(RuleBasedStateMachine):
    """One tenant with budgets of every scope, and calls that end in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.rolled_back = transaction.atomic()
        self.rolled_back.__enter__()
        self.now = NOW
        # Lists and places in them, not bundles: a draw from an empty bundle would be thrown away.
        self.calls: list[uuid.UUID] = []
        self.gone: list[uuid.UUID] = []
        self.tenant = Tenant.objects.create(slug=f"t{uuid7()}", name="T", time_zone="America/New_York")
        self.swarms, self.users = [uuid7(), uuid7()], [uuid7(), None]
        self.budgets = [
            budget(self.tenant, 200, "month"),
            budget(self.tenant, 90, "day", period="daily"),
            budget(self.tenant, 60, "user", scope="end_user", period="daily"),
            budget(self.tenant, 70, "writer", scope="agent", target="writer"),
            budget(self.tenant, 80, "run", period="run"),
            budget(self.tenant, 50, "soft", enforcement="soft"),
        ]

    def end(self, places: list[int]) -> list[uuid.UUID]:
        """Takes calls out of those in flight."""
        ids = [self.calls.pop(place % len(self.calls)) for place in places[: len(self.calls)]]
        self.gone += ids
        return ids

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.rolled_back.__exit__(None, None, None)

    @rule(
        asked=st.lists(
            st.tuples(_amounts, st.integers(0, 1), st.integers(0, 1), st.sampled_from(["writer", "reader"])),
            min_size=1,
            max_size=5,
        ),
        fresh=st.booleans(),
        again=st.booleans(),
    )
    def reserve_calls(self, asked: list[tuple[int, int, int, str]], fresh: bool, again: bool) -> None:
        requests = [
            call(
                self.tenant,
                amount,
                swarm_id=self.swarms[swarm],
                subject_id=self.users[user],
                agent=agent,
                attempt_id=uuid7(),
                expires_at=self.now + dt.timedelta(seconds=30),
            )
            for amount, swarm, user, agent in asked
        ]
        if fresh:
            with transaction.atomic():
                expected = reserve(requests, now=self.now)
                transaction.set_rollback(True)
            verdicts = reserve(requests, now=self.now, fresh=True)
            assert verdicts == expected
        else:
            verdicts = reserve(requests, now=self.now)
        if again:
            kept = [request for request, verdict in zip(requests, verdicts, strict=True) if verdict.granted]
            assert all(verdict.granted for verdict in reserve(kept, now=self.now))
        self.calls += [verdict.id for verdict in verdicts if verdict.granted]

    @rule(places=st.lists(_places, min_size=1, max_size=4), part=st.integers(0, 110), known=st.booleans())
    def settle_calls(self, places: list[int], part: int, known: bool) -> None:
        ids = self.end(places)
        reserved = dict(Reservation.objects.filter(pk__in=ids).values_list("pk", "amount"))
        settle([Settlement(id, reserved.get(id, 40) * part // 100 if known else None) for id in ids], now=self.now)

    @rule(place=_places)
    def release_call(self, place: int) -> None:
        release(self.end([place]))

    @rule(places=st.sets(_places, min_size=1, max_size=3), amount=_amounts)
    def settle_late_or_again(self, places: set[int], amount: int) -> None:
        ids = [self.gone[place % len(self.gone)] for place in sorted(places) if self.gone]
        settle([Settlement(id, amount) for id in ids], now=self.now)

    @rule(limit=st.integers(1, 4))
    def charge_expired_calls(self, limit: int) -> None:
        charge_expired(now=self.now, limit=limit)

    @rule(place=_places)
    def extend_call(self, place: int) -> None:
        ids = self.calls[place % len(self.calls) :][:1] if self.calls else []
        attempts = Reservation.objects.filter(pk__in=ids).values_list("attempt_id", flat=True)
        extend([a for a in attempts if a], self.now + dt.timedelta(seconds=30))

    @rule(seconds=st.sampled_from([1, 20, 40, 6 * 3600, 12 * 24 * 3600]))
    def time_passes(self, seconds: int) -> None:
        self.now += dt.timedelta(seconds=seconds)

    @rule(n=st.integers(0, 5), limit=st.integers(0, 250))
    def change_limit(self, n: int, limit: int) -> None:
        actions.change_budget(self.budgets[n], limit=limit, by=ORCHESTRATOR, now=self.now)

    @rule(n=st.integers(0, 5), soft=st.booleans())
    def change_enforcement(self, n: int, soft: bool) -> None:
        actions.change_budget(self.budgets[n], enforcement="soft" if soft else "hard", by=ORCHESTRATOR, now=self.now)

    @invariant()
    def money_is_whole(self) -> None:
        verify_money_is_whole()

    @invariant()
    def every_charge_is_corrected_at_most_once(self) -> None:
        corrected = list(LedgerEntry.objects.exclude(corrects=None).values_list("corrects", flat=True))
        assert len(corrected) == len(set(corrected))
        calls = LedgerEntry.objects.filter(kind="llm").values_list("reservation_id", flat=True)
        charged = [id for id in calls if id]
        assert len(charged) == len(set(charged))
        assert not Reservation.objects.filter(pk__in=charged).exists()


@pytest.mark.django_db
def test_any_sequence_of_acts_keeps_the_money_whole() -> None:  # C4
    run_state_machine_as_test(
        Spending,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )
    assert not Budget.objects.exists()
