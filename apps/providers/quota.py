"""Limits of a region, kept over all processes: requests and tokens a minute, and calls at once.

A :class:`Quota` is what was granted lately and who holds places now. It is kept in one row per region that processes
change in turn, each for all of its calls that wait: no limit is ever exceeded, in any sixty seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GRACE_S = 5
"""A granted call must be sent within this time, so grants count for that much longer than a minute."""
PERIOD_S = 60 + GRACE_S
SOON_S = 0.2
"""When to ask again for a place: calls end at any moment."""


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no such limit. ``concurrency`` counts calls at once."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None

    def __bool__(self) -> bool:
        return (self.requests_per_minute, self.tokens_per_minute, self.concurrency) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Answer:
    """How many of the calls asked for are granted, the first ones. ``again_in_s``: when to ask for the next."""

    granted: int
    second: int
    again_in_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Returned:
    """Tokens that a call granted in ``second`` did not need after all."""

    second: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Use:
    """What counts against the limits at one moment: requests and tokens granted lately, and calls under way."""

    requests: int = 0
    tokens: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Quota:
    """``granted``: by second, requests and tokens. ``holders``: by process, its calls at once, and until when it lives.

    Times are seconds since 1970.
    """

    granted: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    holders: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    def take(
        self,
        limits: Limits,
        asks: Sequence[int],
        *,
        holder: str,
        lease_s: float,
        now: float,
        ended: int = 0,
        returned: Sequence[Returned] = (),
    ) -> tuple[Quota, Answer]:
        """Grants calls, as many as fit, in the order asked; each of ``asks`` is the most tokens that one can take.

        ``ended`` of the holder's calls are over. A call that could take more tokens than a minute has takes them all.
        """
        granted = {second: each for second, each in self.granted.items() if second > now - PERIOD_S}
        for back in returned:
            if back.second in granted:
                requests, tokens = granted[back.second]
                granted[back.second] = (requests, max(tokens - back.tokens, 0))
        holders = {name: each for name, each in self.holders.items() if each[1] > now}
        mine = max(holders.pop(holder, (0, 0.0))[0] - ended, 0)
        places = mine + sum(calls for calls, _ in holders.values())

        second = math.floor(now)
        requests_left = _left(limits.requests_per_minute, sum(each[0] for each in granted.values()))
        tokens_left = _left(limits.tokens_per_minute, sum(each[1] for each in granted.values()))
        places_left = _left(limits.concurrency, places)
        count = taken = 0
        missing: tuple[float, float] | None = None
        for ask in asks:
            tokens = min(ask, limits.tokens_per_minute) if limits.tokens_per_minute is not None else ask
            if places_left < count + 1:
                break
            if requests_left < count + 1 or tokens_left < taken + tokens:
                missing = (count + 1 - requests_left, taken + tokens - tokens_left)
                break
            count += 1
            taken += tokens
        if count:
            before = granted.get(second, (0, 0))
            granted[second] = (before[0] + count, before[1] + taken)
        again = SOON_S if missing is None else _free_in(granted, missing, now)
        if mine + count:
            holders[holder] = (mine + count, now + lease_s)
        return Quota(granted, holders), Answer(count, second, again)

    def renewed(self, holder: str, *, lease_s: float, now: float) -> Quota:
        """The holder's calls, kept for another lease."""
        if holder not in self.holders:
            return self
        return Quota(self.granted, {**self.holders, holder: (self.holders[holder][0], now + lease_s)})

    def without(self, holder: str) -> Quota:
        """The holder has no calls any more, whatever was counted."""
        if holder not in self.holders:
            return self
        return Quota(self.granted, {name: each for name, each in self.holders.items() if name != holder})

    def in_use(self, *, now: float) -> Use:
        """What the next call is measured against."""
        granted = [each for second, each in self.granted.items() if second > now - PERIOD_S]
        places = sum(calls for calls, until in self.holders.values() if until > now)
        return Use(sum(requests for requests, _ in granted), sum(tokens for _, tokens in granted), places)

    def as_json(self) -> dict[str, Any]:
        return {"granted": [[s, *each] for s, each in self.granted.items()], "holders": dict(self.holders)}

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> Quota:
        return cls(
            {int(s): (int(requests), int(tokens)) for s, requests, tokens in document.get("granted", [])},
            {name: (int(calls), float(until)) for name, (calls, until) in document.get("holders", {}).items()},
        )


def _left(limit: int | None, used: int) -> float:
    return math.inf if limit is None else limit - used


def _free_in(grants: Mapping[int, tuple[int, int]], missing: tuple[float, float], now: float) -> float:
    """Seconds until so many requests and tokens of the oldest grants no longer count."""
    requests = tokens = 0
    for second in sorted(grants):
        requests += grants[second][0]
        tokens += grants[second][1]
        if requests >= missing[0] and tokens >= missing[1]:
            return max(second + PERIOD_S - now, 0.0)
    return float(PERIOD_S)
