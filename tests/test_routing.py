"""Where a call goes: one table, a reason a row."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from apps.providers.breaker import State
from apps.providers.routing import RegionFacts, RoutingPolicy, find_route, patience_s

OPEN = State.OPEN


def region(name: str, order: int = 1, p99: float | None = None, **more: Any) -> RegionFacts:
    samples = more.pop("samples", 100 if p99 is not None else 0)
    return RegionFacts(uuid.uuid5(uuid.NAMESPACE_DNS, name), order, name, p99_s=p99, samples=samples, **more)


def names(regions: list[RegionFacts], **how: Any) -> list[str]:
    by_id = {each.id: each.name for each in regions}
    return [by_id[id] for id in find_route(regions, **how).order]


ROUTES: list[tuple[list[RegionFacts], dict[str, Any], list[str], str]] = [
    ([region("b", 2), region("a", 1)], {}, ["a", "b"], "without samples, the order of preference"),
    ([region("a", 1, 2.0), region("b", 2, 0.5)], {}, ["b", "a"], "the lowest p99 leads"),
    ([region("a", 1, 1.0), region("b", 2, 0.85)], {}, ["a", "b"], "a little better is not better"),
    ([region("a", 1, 9.0, samples=19), region("b", 2, 0.5)], {}, ["a", "b"], "too few samples to be judged by"),
    ([region("a", 1, 9.0, samples=20), region("b", 2, 0.5)], {}, ["b", "a"], "just enough"),
    ([region("a", 1, state=OPEN), region("b", 2)], {}, ["b"], "an open breaker gets nothing"),
    ([region("a", 1, draining=True), region("b", 2)], {}, ["b"], "nor does a region that is drained"),
    ([region("a", 1, 0.1, held_up=True), region("b", 2, 5.0)], {}, ["b", "a"], "one at its limits comes last"),
    ([region("a", 1, held_up=True), region("b", 2, state=OPEN)], {}, ["a"], "but is waited for when there is no other"),
    ([region("b", 2, state=OPEN), region("a", 1, state=OPEN)], {}, ["a"], "all are broken: the primary is tried once"),
    ([region("a", 1), region("b", 2)], {"allowed": {"b"}}, ["b"], "residency"),
    ([region("a", 1), region("b", 2, state=OPEN)], {"allowed": {"b"}}, ["b"], "residency, even when it is down"),
    ([region("a", 1, 1.0), region("b", 1, 4.0), region("c", 2, 2.0)], {}, ["a", "c", "b"], "the rest by p99, too"),
]  # fmt: skip


@pytest.mark.parametrize(("regions", "how", "order", "why"), ROUTES, ids=[row[3] for row in ROUTES])
def test_the_order_in_which_regions_are_tried(
    regions: list[RegionFacts], how: dict[str, Any], order: list[str], why: str
) -> None:
    assert names(regions, **how) == order


def test_traffic_does_not_flap_between_regions_that_are_about_as_good() -> None:
    a, b = region("a", 1, 1.0), region("b", 2, 0.9)
    assert names([a, b]) == ["a", "b"]
    assert names([a, b], leader=b.id) == ["b", "a"], "whoever leads keeps the lead"
    worse = region("b", 2, 1.2)
    assert names([a, worse], leader=b.id) == ["b", "a"], "until another is clearly better"
    assert names([a, region("b", 2, 1.3)], leader=b.id) == ["a", "b"]


def test_the_primary_gets_its_traffic_back_when_it_has_recovered() -> None:
    # Its samples from before are forgotten, so it leads until it is known to be worse.
    back, stand_in = region("a", 1), region("b", 2, 0.2)
    assert names([back, stand_in], leader=stand_in.id) == ["a", "b"]


def test_regions_of_one_order_share_the_calls_unless_one_is_much_worse() -> None:
    a, b, c = region("a", 1, 1.0), region("b", 1, 1.1), region("c", 1, 5.0)
    route = find_route([a, b, c])
    assert {route.turned(turn)[0] for turn in range(10)} == {a.id, b.id}
    assert route.turned(0)[2] == c.id
    assert sorted(route.turned(1)) == sorted(route.turned(0))


def test_a_region_without_samples_is_explored_and_one_that_has_them_is_not() -> None:
    a, b, c = region("a", 1, 1.0), region("b", 2), region("c", 3, 9.0)
    route = find_route([a, b, c])
    assert route.unknown == (b.id,)
    assert route.turned(0, explore=True)[0] == b.id
    assert route.turned(0)[0] == a.id
    assert find_route([a, region("b", 2, 9.0), c]).turned(0, explore=True)[0] == a.id


PROBLEMS: list[tuple[list[RegionFacts], dict[str, Any], str]] = [
    ([], {}, "no enabled region"),
    ([region("a", draining=True)], {}, "a is being drained"),
    ([region("a")], {"allowed": {"eu-1"}}, "keeps this tenant's calls in eu-1, and none of that is enabled"),
    ([region("a")], {"allowed": frozenset()}, "allows this tenant none of its regions"),
    ([region("a", draining=True), region("b")], {"allowed": {"a"}}, "a is being drained"),
]


@pytest.mark.parametrize(("regions", "how", "words"), PROBLEMS, ids=[row[2] for row in PROBLEMS])
def test_without_a_route_it_says_why(regions: list[RegionFacts], how: dict[str, Any], words: str) -> None:
    route = find_route(regions, **how)
    assert route.order == ()
    assert words in route.problem


PATIENCE = [
    # setting, p99, left, others: seconds; why
    (30, None, 60, True, 30, "the setting"),
    (30, None, 20, True, 10, "half of what is left is kept for the others"),
    (30, 40.0, 200, True, 80, "a region that usually takes long is waited for longer"),
    (5, 8.0, 40, True, 16, "as long as half is left for the others"),
    (5, 8.0, 20, True, 16, "and more than half, when it needs that itself"),
    (30, None, 60, False, 60, "without others, all there is"),
]


@pytest.mark.parametrize(("setting", "p99", "left", "others", "seconds", "why"), PATIENCE, ids=[r[5] for r in PATIENCE])
def test_how_long_a_silent_region_is_waited_for(
    setting: float, p99: float | None, left: float, others: bool, seconds: float, why: str
) -> None:
    assert patience_s(setting, p99_s=p99, left_s=left, others=others) == seconds


def test_the_policy_can_be_another() -> None:
    eager = RoutingPolicy(min_samples=1, better_by=1.0)
    assert names([region("a", 1, 1.0, samples=1), region("b", 2, 0.99, samples=1)], policy=eager) == ["b", "a"]
