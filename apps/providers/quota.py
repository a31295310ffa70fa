"""Limits of a region, kept over all processes: requests and tokens a minute, and calls at once.

A :class:`Quota` is what was granted lately and who holds places now. It is kept in one row per region that processes
change in turn, each for all of its calls that wait: no limit is ever exceeded, in any sixty seconds. Where plenty is
left, a process gets leave for its next calls with it (:mod:`apps.providers.stock`).
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
STOCK_S = 1.0
"""How long leave may lie in a process before a call uses it; then it is given back."""
COMES_BACK_S = STOCK_S + 0.6
"""Within what time leave that no call used has been given back, by a process that lives."""
SHARE = 8
"""Leave in advance is at most this part of what is left, and there is none where less than that part is left."""


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no such limit. ``concurrency`` counts calls at once."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None

    def __bool__(self) -> bool:
        return (self.requests_per_minute, self.tokens_per_minute, self.concurrency) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Spare:
    """Leave for calls that are still to come: requests and tokens of this minute, and places for calls at once."""

    requests: int = 0
    tokens: int = 0
    places: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """How many of the calls asked for are granted, the first ones. ``again_in_s``: when to ask for the next.

    ``ample``: so much is left that nobody waits for what one process may give back.
    """

    granted: int
    second: int
    again_in_s: float = 0.0
    spare: Spare = Spare()
    ample: bool = False


@dataclass(frozen=True, slots=True)
class Returned:
    """What was granted in ``second`` and is not needed after all: tokens, and requests that were never sent."""

    second: int
    tokens: int
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Use:
    """What counts against the limits at one moment: requests and tokens granted lately, and calls under way."""

    requests: int = 0
    tokens: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Quota:
    """``granted``: by second, requests and tokens. ``holders``: by process, its calls at once, and until when it lives.

    Leave that was given in advance may come back until ``stocked_until``. Times are seconds since 1970.
    """

    granted: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    holders: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    stocked_until: float = 0.0

    def take(
        self,
        limits: Limits,
        asks: Sequence[int],
        *,
        holder: str,
        holding: int,
        lease_s: float,
        now: float,
        returned: Sequence[Returned] = (),
        spare: Spare = Spare(),
    ) -> tuple[Quota, Answer]:
        """Grants calls, as many as fit, in the order asked; each of ``asks`` is the most tokens that one can take.

        ``holding`` is how many places the holder has now, whatever was counted before; it keeps them for ``lease_s``.
        A call that could take more tokens than a minute has takes them all. Once all calls are granted the holder gets
        a part of ``spare``, if so much is left that nobody will miss it.
        """
        granted = {second: each for second, each in self.granted.items() if second > now - PERIOD_S}
        for back in returned:
            if back.second in granted:
                requests, tokens = granted[back.second]
                granted[back.second] = (max(requests - back.requests, 0), max(tokens - back.tokens, 0))
        holders = {name: each for name, each in self.holders.items() if each[1] > now}
        holders.pop(holder, None)
        places = holding + sum(calls for calls, _ in holders.values())

        left = _Left(
            limits,
            _left(limits.requests_per_minute, sum(each[0] for each in granted.values())),
            _left(limits.tokens_per_minute, sum(each[1] for each in granted.values())),
            _left(limits.concurrency, places),
        )
        count = taken = 0
        missing: tuple[float, float] | None = None
        for ask in asks:
            tokens = min(ask, limits.tokens_per_minute) if limits.tokens_per_minute is not None else ask
            if left.places < count + 1:
                break
            if left.requests < count + 1 or left.tokens < taken + tokens:
                missing = (count + 1 - left.requests, taken + tokens - left.tokens)
                break
            count += 1
            taken += tokens
        left = left.without(count, taken, count)
        ample = count == len(asks) and left.is_ample()
        extra = left.share(spare) if ample else Spare()

        second = math.floor(now)
        if count + extra.requests or taken + extra.tokens:
            before = granted.get(second, (0, 0))
            granted[second] = (before[0] + count + extra.requests, before[1] + taken + extra.tokens)
        if mine := holding + count + extra.places:
            holders[holder] = (mine, now + lease_s)
        until = now + COMES_BACK_S if extra.requests else self.stocked_until
        again = SOON_S
        if missing is not None:
            again = _free_in(granted, missing, now)
            if until > now:
                again = min(again, max(until - now, SOON_S))
        return Quota(granted, holders, until), Answer(count, second, again, extra, ample)

    def in_use(self, *, now: float) -> Use:
        """What the next call is measured against."""
        granted = [each for second, each in self.granted.items() if second > now - PERIOD_S]
        places = sum(calls for calls, until in self.holders.values() if until > now)
        return Use(sum(requests for requests, _ in granted), sum(tokens for _, tokens in granted), places)

    def as_json(self) -> dict[str, Any]:
        return {
            "granted": [[s, *each] for s, each in self.granted.items()],
            "holders": dict(self.holders),
            "stocked_until": self.stocked_until,
        }

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> Quota:
        return cls(
            {int(s): (int(requests), int(tokens)) for s, requests, tokens in document.get("granted", [])},
            {name: (int(calls), float(until)) for name, (calls, until) in document.get("holders", {}).items()},
            float(document.get("stocked_until", 0.0)),
        )


@dataclass(frozen=True, slots=True)
class _Left:
    """What may still be granted; infinite where there is no limit."""

    limits: Limits
    requests: float
    tokens: float
    places: float

    def without(self, requests: int, tokens: int, places: int) -> _Left:
        return _Left(self.limits, self.requests - requests, self.tokens - tokens, self.places - places)

    def is_ample(self) -> bool:
        limits = (self.limits.requests_per_minute, self.limits.tokens_per_minute, self.limits.concurrency)
        left = (self.requests, self.tokens, self.places)
        return all(limit is None or has >= max(SHARE, limit / SHARE) for limit, has in zip(limits, left, strict=True))

    def share(self, wanted: Spare) -> Spare:
        return Spare(
            int(min(wanted.requests, self.requests / SHARE)),
            int(min(wanted.tokens, self.tokens / SHARE)),
            int(min(wanted.places, self.places / SHARE)),
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
