"""Which region a call goes to, and which ones after that: facts in, route out. Nothing here knows a database.

Draining regions and those with an open breaker get nothing. Among the others the one with the lowest p99 of its last
hundred calls leads, once it has enough samples to be judged by; without them, the order of preference decides.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from apps.providers.breaker import State


@dataclass(frozen=True, slots=True)
class RegionFacts:
    """A region as it stands. ``p99_s`` in seconds, of ``samples`` calls; ``held_up``: slowed down, or at its limits."""

    id: uuid.UUID
    order: int
    name: str
    state: State = State.CLOSED
    draining: bool = False
    p99_s: float | None = None
    samples: int = 0
    held_up: bool = False


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """A region needs ``min_samples`` to be judged by its p99, and takes the lead from another only when its p99 is at
    most ``better_by`` of the leader's, so that traffic does not flap between equals. ``explore`` is the share of calls
    that goes to a region with too few samples, for as long as it has too few.
    """

    min_samples: int = 20
    better_by: float = 0.8
    explore: float = 0.01


DEFAULT = RoutingPolicy()


@dataclass(frozen=True, slots=True)
class Route:
    """Regions in the order in which a call tries them, at most once each.

    ``peers`` are those at the front that share the calls among them; ``unknown`` those that lack samples and get some
    calls for that reason. ``last_resort``: no region is live, and the primary is tried all the same. An empty route has
    a ``problem``, in words for a person.
    """

    order: tuple[uuid.UUID, ...] = ()
    peers: int = 1
    unknown: tuple[uuid.UUID, ...] = ()
    last_resort: bool = False
    problem: str = ""

    def turned(self, turn: int, *, explore: bool = False) -> tuple[uuid.UUID, ...]:
        """The order for one call: peers take turns, and an exploring call begins with a region that lacks samples."""
        order = self.order
        if explore and self.unknown:
            first = self.unknown[turn % len(self.unknown)]
        elif self.peers > 1:
            first = order[turn % self.peers]
        else:
            return order
        return (first, *(id for id in order if id != first))


def find_route(
    regions: Sequence[RegionFacts],
    *,
    allowed: Collection[str] | None = None,
    leader: uuid.UUID | None = None,
    policy: RoutingPolicy = DEFAULT,
) -> Route:
    """The route among a provider's enabled regions. ``allowed`` are the names that data residency leaves, if any.

    ``leader`` is the region that led before.
    """
    mine = [region for region in regions if allowed is None or region.name in allowed]
    if not mine:
        return Route(problem=_problem_of(regions, allowed))
    taking = sorted((region for region in mine if not region.draining), key=lambda r: (r.order, r.name))
    if not taking:
        return Route(problem=f"{_names(mine)} {'is' if len(mine) == 1 else 'are'} being drained: end that, or wait.")
    live = [region for region in taking if region.state is State.CLOSED]
    if not live:
        return Route(order=(taking[0].id,), last_resort=True)
    free = [region for region in live if not region.held_up]
    ranked, peers = _ranked(free, leader, policy)
    later = [region.id for region in live if region.held_up]
    unknown = tuple(region.id for region in free if region.samples < policy.min_samples and region.id != ranked[0].id)
    return Route(order=(*(region.id for region in ranked), *later), peers=peers, unknown=unknown)


def _ranked(
    regions: list[RegionFacts], leader: uuid.UUID | None, policy: RoutingPolicy
) -> tuple[list[RegionFacts], int]:
    """The free regions, best first, and how many of them share the lead."""
    if not regions:
        return [], 1
    known = {r.id: r.p99_s for r in regions if r.samples >= policy.min_samples and r.p99_s is not None}
    first = _leading(regions, known, leader, policy)
    best = known.get(first.id)

    def is_peer(region: RegionFacts) -> bool:
        if region.order != first.order:
            return False
        p99 = known.get(region.id)
        return p99 is None or best is None or p99 * policy.better_by <= best

    rest = sorted(
        (region for region in regions if region.id != first.id),
        key=lambda r: (not is_peer(r), r.id not in known, known.get(r.id, 0.0), r.order, r.name),
    )
    return [first, *rest], 1 + sum(is_peer(region) for region in rest)


def _leading(
    regions: list[RegionFacts],
    known: dict[uuid.UUID, float],
    leader: uuid.UUID | None,
    policy: RoutingPolicy,
) -> RegionFacts:
    preferred = regions[0]
    # The preferred region leads until it is known to be worse: it gets its samples by leading.
    if preferred.id not in known:
        return preferred
    best = min((r for r in regions if r.id in known), key=lambda r: (known[r.id], r.order, r.name))
    holder = next((r for r in regions if r.id == leader and r.id in known), preferred)
    return best if known[best.id] <= policy.better_by * known[holder.id] else holder


def patience_s(setting_s: float, *, p99_s: float | None, left_s: float, others: bool) -> float:
    """How long a region may stay silent before the next is tried, in seconds.

    The setting, or twice the region's p99 where that is more. With other regions to try, half of what is left of the
    task's time is kept for them, unless the region is known to need more than that. Without any, all that is left.
    """
    if not others:
        return left_s
    usual = 2 * (p99_s or 0.0)
    wanted = max(setting_s, usual)
    half = left_s / 2
    return min(wanted, half if usual <= half else left_s)


def _names(regions: Sequence[RegionFacts]) -> str:
    return ", ".join(sorted(region.name for region in regions))


def _problem_of(regions: Sequence[RegionFacts], allowed: Collection[str] | None) -> str:
    if allowed is None or not regions:
        return "It has no enabled region: add or enable one."
    if not allowed:
        return "Data residency allows this tenant none of its regions: change the rule."
    return f"Data residency keeps this tenant's calls in {', '.join(sorted(allowed))}, and none of that is enabled."
