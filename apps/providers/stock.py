"""Leave that one process has in hand for a region, so that most of its calls need not ask for it.

Where a region's limits leave plenty, a process that calls it often takes leave for its next calls along with that for
the calls that wait. Leave that no call uses within ``STOCK_S`` is given back. Nothing here knows a database or a clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from apps.providers.quota import STOCK_S, Answer, Returned, Spare
from portal.rate import Rate

AHEAD_S = 0.5
"""For so many seconds of calls, at the rate of late, leave is taken in advance."""
OFTEN = 2.0
"""Calls a second from which on leave is taken in advance."""
REFILL_S = 0.05
"""Shortest time between two orders for nothing but leave in advance."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a process asks of a region's quota, and tells it: see :meth:`apps.providers.quota.Quota.take`."""

    asks: tuple[int, ...]
    holding: int
    returned: tuple[Returned, ...]
    spare: Spare


@dataclass(slots=True)
class _Lot:
    """Requests and tokens that were granted together, in ``second``; not to be used from ``until`` on."""

    second: int
    until: float
    requests: int
    tokens: int


@dataclass(slots=True)
class Stock:
    """Of one process, for one region. Times are seconds since 1970.

    What the region's quota counts for the process is never less than ``calls`` and ``places`` together, and the
    requests and tokens of its lots: they leave the stock before they are given back.
    """

    calls: int = 0
    places: int = 0
    ample: bool = False
    _lots: list[_Lot] = field(default_factory=list)
    _returned: dict[int, tuple[int, int]] = field(default_factory=dict)
    _rate: Rate = field(default_factory=Rate)
    _usual: float = 0.0
    _refilled_at: float = 0.0

    def take(self, tokens: int, *, now: float) -> int | None:
        """Leave for one call that takes at most so many tokens: the second it was granted in; None: ask for it."""
        self._rate.count(now)
        self._usual += (tokens - self._usual) / 8 if self._usual else tokens
        self._expire(now)
        if not self.places:
            return None
        for lot in self._lots:
            if lot.requests and lot.tokens >= tokens:
                lot.requests -= 1
                lot.tokens -= tokens
                self.places -= 1
                self.calls += 1
                return lot.second
        return None

    def end(self, second: int, *, unused_tokens: int, sent: bool = True) -> None:
        """A call is over that was granted in ``second``. One that was never sent needed no request, either."""
        self.calls -= 1
        self.places += 1
        self._give_back(second, 0 if sent else 1, unused_tokens)

    def is_low(self, *, now: float) -> bool:
        """Whether more should be asked for before the next calls come."""
        if not self.ample or now < self._refilled_at + REFILL_S:
            return False
        return min(self._calls_in_lots(), self.places) < self._target(now) / 2

    @property
    def is_empty(self) -> bool:
        """Nothing is in hand, and nothing is to be told."""
        return not (self._lots or self.places or self._returned)

    def is_overdue(self, *, now: float) -> bool:
        """Whether something is to be given back."""
        self._expire(now)
        return bool(self._returned) or self.places > self._target(now)

    def order(self, asks: Sequence[int], *, refill: bool, now: float) -> Order:
        """What is to be asked and told now, for these calls that wait. With ``refill`` also leave for the next ones."""
        self._expire(now)
        target, in_lots = self._target(now), self._calls_in_lots()
        # Where little is left, a place without a request to go with it is for others.
        self.places = min(self.places, target if self.ample else min(target, in_lots))
        spare = Spare()
        if refill:
            self._refilled_at = now
            calls = max(target - in_lots, 0)
            spare = Spare(calls, math.ceil(calls * self._usual), max(target - self.places, 0))
        returned = tuple(Returned(second, tokens, requests) for second, (requests, tokens) in self._returned.items())
        self._returned.clear()
        return Order(tuple(asks), self.calls + self.places, returned, spare)

    def close(self) -> Order:
        """Gives back all that is in hand."""
        return self.order((), refill=False, now=math.inf)

    def granted(self, answer: Answer, *, at: float) -> None:
        """An order was answered, at that time: what was granted is in hand, that for the calls that waited as well.

        Each of those gets its part with ``start``, or ``forgo``\\ es it.
        """
        self.ample = answer.ample
        self.places += answer.spare.places
        if answer.spare.requests:
            self._lots.append(_Lot(answer.second, at + STOCK_S, answer.spare.requests, answer.spare.tokens))
        elif answer.spare.tokens:
            self._give_back(answer.second, 0, answer.spare.tokens)

    def start(self) -> None:
        """A call that waited was granted, and is made."""
        self.calls += 1

    def forgo(self, second: int, tokens: int) -> None:
        """A call that waited was granted, and will not be made."""
        self.places += 1
        self._give_back(second, 1, tokens)

    def _target(self, now: float) -> int:
        rate = self._rate.per_second(now)
        return math.ceil(rate * AHEAD_S) if rate >= OFTEN else 0

    def _calls_in_lots(self) -> int:
        """For how many calls of the usual size the lots have leave."""
        return sum(min(lot.requests, int(lot.tokens / (self._usual or 1))) for lot in self._lots)

    def _expire(self, now: float) -> None:
        # Lots are in the order in which they were granted.
        while self._lots and (self._lots[0].until <= now or not self._lots[0].requests):
            lot = self._lots.pop(0)
            self._give_back(lot.second, lot.requests, lot.tokens)

    def _give_back(self, second: int, requests: int, tokens: int) -> None:
        if requests or tokens:
            before = self._returned.get(second, (0, 0))
            self._returned[second] = (before[0] + requests, before[1] + tokens)
