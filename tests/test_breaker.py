"""The breaker as a value: what opens it, who may probe, what closes it."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from apps.providers.breaker import BreakerPolicy, Circuit, Failure, State

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
POLICY = BreakerPolicy(failures=3, window_s=10, share=0.5, probe_every_s=15)
A, B = uuid.UUID(int=1), uuid.UUID(int=2)


def at(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


OPENING = [
    # failures as (second, calls since the last one), whether they open it, why
    ([(0, 1), (1, 1), (2, 1)], True, "three in a row"),
    ([(0, 1), (1, 1)], False, "two are not three"),
    ([(0, 1), (5, 1), (11, 1)], False, "the first is out of the window"),
    ([(0, 1), (1, 1), (9.9, 1)], True, "all within the window"),
    ([(0, 900), (1, 1), (2, 1)], True, "calls before the first failure say nothing about the outage"),
    ([(0, 1), (1, 50), (2, 50)], False, "three in a hundred"),
    ([(0, 1), (1, 3), (2, 2)], True, "three in six"),
    ([(0, 1), (1, 4), (2, 2)], False, "three in seven"),
    ([(0, 1), (1, 50), (2, 50), (3, 1)], False, "an outage may have begun, but one long run is among the last three"),
    ([(0, 1), (1, 50), (2, 50), (3, 1), (4, 1)], True, "the last three are all it takes"),
]


@pytest.mark.parametrize(("failures", "opens", "why"), OPENING, ids=[row[2] for row in OPENING])
def test_what_opens_it(failures: list[tuple[float, int]], opens: bool, why: str) -> None:
    circuit = Circuit()
    for second, calls in failures:
        circuit = circuit.failed([Failure(at(second), calls)], POLICY, now=at(second))
    assert (circuit.state is State.OPEN) == opens
    if opens:
        assert circuit.next_probe_at == at(failures[-1][0] + 15)


def test_failures_of_several_processes_count_together_in_the_order_of_time() -> None:
    circuit = Circuit().failed([Failure(at(2)), Failure(at(0))], POLICY, now=at(3))
    assert circuit.failed([Failure(at(1))], POLICY, now=at(3)).state is State.OPEN


def opened() -> Circuit:
    return Circuit().failed([Failure(NOW)] * 3, POLICY, now=NOW)


def test_one_probes_at_a_time_and_a_dead_prober_keeps_nobody_from_it() -> None:
    circuit = opened()
    assert circuit.claimed(A, now=at(14), lease_s=5) is circuit, "too early"
    held = circuit.claimed(A, now=at(15), lease_s=5)
    assert held.claimed(B, now=at(19), lease_s=5) is held, "A has it"
    second = held.claimed(B, now=at(20), lease_s=5)
    assert second is not held
    for late in (second.answered(A, now=at(21), lease_s=5), second.passed(A), second.refused(A, POLICY, now=at(21))):
        assert late is second, "what A says now changes nothing"


def test_the_call_after_a_good_answer_closes_it_or_opens_it_again() -> None:
    trial = opened().claimed(A, now=at(15), lease_s=5).answered(A, now=at(16), lease_s=5)
    assert trial.state is State.HALF_OPEN
    assert trial.claimed(B, now=at(17), lease_s=5) is trial
    assert trial.passed(A) == Circuit()
    again = trial.refused(A, POLICY, now=at(17))
    assert (again.state, again.next_probe_at, again.probe) == (State.OPEN, at(32), None)
    # The prober died between the answer and the call: another takes over.
    assert trial.claimed(B, now=at(21), lease_s=5).state is State.OPEN


def test_what_a_person_opened_only_a_person_closes() -> None:
    held = Circuit().opened_by_hand()
    assert held.claimed(A, now=at(10**6), lease_s=5) is held
    assert held.proved() is held
    assert held.opened_by_hand() is held
    assert held.closed_by_hand() == Circuit()
    assert opened().opened_by_hand().held
    assert Circuit().closed_by_hand() == Circuit()


def test_a_call_that_had_nowhere_else_to_go_closes_it() -> None:
    assert opened().proved() == Circuit()


class BreakerMachine(RuleBasedStateMachine):
    """Two probers and a clock: whatever they do, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit()
        self.clock = 0.0
        self.answered_by: uuid.UUID | None = None

    @property
    def now(self) -> dt.datetime:
        return at(self.clock)

    def become(self, after: Circuit) -> None:
        self.before, self.circuit = self.circuit, after

    @rule(seconds=st.floats(0.1, 20))
    def time_passes(self, seconds: float) -> None:
        self.clock += seconds

    @rule(calls=st.lists(st.integers(1, 9), min_size=1, max_size=4))
    def calls_fail(self, calls: list[int]) -> None:
        before = self.circuit
        self.become(before.failed([Failure(self.now, each) for each in calls], POLICY, now=self.now))
        if before.state is not State.CLOSED:
            assert self.circuit is before
        assert len(self.circuit.failures) <= POLICY.failures

    @rule(token=st.sampled_from([A, B]))
    def claims(self, token: uuid.UUID) -> None:
        before = self.circuit
        self.become(before.claimed(token, now=self.now, lease_s=5))
        if self.circuit is not before:
            assert not before.held
            assert before.probe is None or before.probe.expires_at <= self.now

    @rule(token=st.sampled_from([A, B]))
    def is_answered(self, token: uuid.UUID) -> None:
        self.become(self.circuit.answered(token, now=self.now, lease_s=5))

    @rule(token=st.sampled_from([A, B]))
    def passes(self, token: uuid.UUID) -> None:
        before = self.circuit
        self.become(before.passed(token))
        if self.circuit is not before:
            assert before.probe is not None
            assert (before.state, before.probe.token) == (State.HALF_OPEN, token)

    @rule(token=st.sampled_from([A, B]))
    def is_refused(self, token: uuid.UUID) -> None:
        self.become(self.circuit.refused(token, POLICY, now=self.now))

    @rule()
    def a_person_opens(self) -> None:
        self.become(self.circuit.opened_by_hand())

    @precondition(lambda self: self.circuit.state is not State.CLOSED)
    @rule()
    def a_person_closes(self) -> None:
        self.become(self.circuit.closed_by_hand())
        assert self.circuit == Circuit()

    @invariant()
    def it_makes_sense(self) -> None:
        circuit = self.circuit
        if circuit.state is State.CLOSED:
            assert circuit.probe is None
            assert not circuit.held
        if circuit.state is State.HALF_OPEN:
            assert circuit.probe is not None
        if circuit.state is State.OPEN and not circuit.held:
            # Sooner or later somebody may probe: nothing stays open for ever.
            assert circuit.is_due(self.now + dt.timedelta(hours=1))


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase
