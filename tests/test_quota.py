"""Limits of a region: never exceeded in any sixty seconds, and never left unused without need."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.providers.quota import GRACE_S, PERIOD_S, SHARE, SOON_S, Limits, Quota, Returned, Spare, Use


def take(
    quota: Quota, limits: Limits, asks: list[int], now: float, holder: str = "a", holding: int = 0, **more: Any
) -> tuple[Quota, Any]:
    return quota.take(limits, asks, holder=holder, holding=holding, lease_s=20, now=now, **more)


def test_requests_a_minute() -> None:
    limits = Limits(requests_per_minute=3)
    quota, answer = take(Quota(), limits, [1, 1], 100)
    assert answer.granted == 2
    quota, answer = take(quota, limits, [1, 1], 101, holder="b")
    assert answer.granted == 1
    # The oldest grants count for a minute, and for as long as they may wait to be used.
    assert answer.again_in_s == 100 + PERIOD_S - 101
    assert take(quota, limits, [1], 100 + PERIOD_S - 0.1)[1].granted == 0
    assert take(quota, limits, [1, 1, 1], 100 + PERIOD_S)[1].granted == 2


def test_tokens_a_minute_count_as_asked_until_the_call_has_ended() -> None:
    limits = Limits(tokens_per_minute=1000)
    quota, answer = take(Quota(), limits, [600, 600], 100)
    assert answer.granted == 1
    quota, answer = take(quota, limits, [600], 101, returned=[Returned(100, 550)])
    assert answer.granted == 1
    assert sum(tokens for _, tokens in quota.granted.values()) == 650


def test_a_call_that_could_take_more_than_a_minute_has_takes_it_all() -> None:
    limits = Limits(tokens_per_minute=1000)
    quota, answer = take(Quota(), limits, [5000], 100)
    assert answer.granted == 1
    assert take(quota, limits, [1], 110)[1].granted == 0


def test_calls_at_once_and_the_places_of_a_process_that_died() -> None:
    limits = Limits(concurrency=2)
    quota, answer = take(Quota(), limits, [1, 1, 1], 100)
    assert (answer.granted, answer.again_in_s) == (2, SOON_S)
    assert take(quota, limits, [1], 119, holder="b")[1].granted == 0
    renewed, _ = take(quota, limits, [], 110, holding=2)
    assert take(renewed, limits, [1], 125, holder="b")[1].granted == 0
    assert take(quota, limits, [1, 1, 1], 120, holder="b")[1].granted == 2
    assert take(quota, limits, [1], 101, holding=1)[1].granted == 1
    ended, _ = take(quota, limits, [], 101)
    assert take(ended, limits, [1, 1], 101, holder="b")[1].granted == 2


def test_it_is_kept_as_json() -> None:
    quota, _ = take(Quota(), Limits(50, 5000, 50), [10, 20], 100.5, spare=Spare(2, 20, 2))
    assert Quota.of_json(quota.as_json()) == quota
    assert Quota.of_json({}) == Quota()


def test_leave_in_advance_is_a_part_of_plenty() -> None:
    wanted = Spare(requests=10, tokens=1000, places=10)
    limits = Limits(requests_per_minute=100, tokens_per_minute=100_000, concurrency=50)
    quota, answer = take(Quota(), limits, [100], 100, spare=wanted)
    assert answer.ample
    assert answer.spare == Spare(10, 1000, 49 // SHARE)
    # It counts for everybody, from the moment on when it is given.
    assert quota.in_use(now=100) == Use(11, 1100, 7)
    quota, _ = take(quota, limits, [], 101, returned=[Returned(100, 1000, requests=10)])
    assert quota.in_use(now=101) == Use(1, 100, 0)


@pytest.mark.parametrize(
    ("limits", "asks"),
    [
        (Limits(requests_per_minute=10), [1] * 3),  # too little is left
        (Limits(requests_per_minute=100), [1] * 90),
        (Limits(concurrency=100), [1] * 90),
        (Limits(tokens_per_minute=1000), [900]),
        (Limits(tokens_per_minute=1000), [600, 600]),  # somebody waits already
    ],
)
def test_there_is_none_where_little_is_left(limits: Limits, asks: list[int]) -> None:
    _, answer = take(Quota(), limits, asks, 100, spare=Spare(1, 1, 1))
    assert not answer.ample
    assert answer.spare == Spare()


def test_who_is_refused_asks_again_when_leave_may_have_come_back() -> None:
    limits = Limits(requests_per_minute=20)
    quota, answer = take(Quota(), limits, [1], 100, spare=Spare(requests=2))
    assert answer.spare.requests == 2
    quota, answer = take(quota, limits, [1] * 18, 100.5, holder="b")
    assert answer.granted == 17
    assert 0 < answer.again_in_s < 2
    _, answer = take(quota, limits, [1], 103, holder="b")
    assert answer.again_in_s == 100 + PERIOD_S - 103


STEPS = st.lists(
    st.tuples(
        st.floats(0, 15),  # seconds since the step before
        st.sampled_from("ab"),
        st.lists(st.integers(1, 400), min_size=1, max_size=4),
        st.floats(0, GRACE_S - 0.5),  # after which the granted calls are sent
        st.booleans(),  # whether the holder's calls have ended by then
    ),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_no_limit_is_ever_exceeded(steps: list[tuple[float, str, list[int], float, bool]]) -> None:
    limits = Limits(requests_per_minute=6, tokens_per_minute=1000, concurrency=5)
    quota, now = Quota(), 1000.0
    sent: list[tuple[float, int]] = []
    running = {"a": 0, "b": 0}
    for passed, holder, asks, wait, ended in steps:
        now += passed
        for each in running:
            quota, _ = take(quota, limits, [], now, each, running[each])  # both live
        if ended:
            running[holder] = 0
        quota, answer = take(quota, limits, asks, now, holder, running[holder])
        running[holder] += answer.granted
        sent += [(now + wait, tokens) for tokens in asks[: answer.granted]]
        assert sum(running.values()) <= 5
        if answer.granted < len(asks):
            assert answer.again_in_s > 0
    for start, _ in sent:
        within = [tokens for at, tokens in sent if start <= at < start + 60]
        assert len(within) <= 6
        assert sum(within) <= 1000


@pytest.mark.parametrize(("limits", "has_any"), [(Limits(), False), (Limits(concurrency=1), True)])
def test_a_region_without_limits_is_known_as_such(limits: Limits, has_any: bool) -> None:
    assert bool(limits) is has_any
