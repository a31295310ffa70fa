"""Leave that processes have in hand: with it, too, no limit of a region is exceeded, and none of it is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.providers.quota import GRACE_S, PERIOD_S, STOCK_S, Limits, Quota, Use
from apps.providers.stock import AHEAD_S, Order, Stock

LEASE_S = 20
WIDE = Limits(requests_per_minute=10_000, tokens_per_minute=10_000_000, concurrency=500)


@dataclass
class Call:
    at: float
    second: int
    asked: int
    used: int | None = None


@dataclass
class Process:
    """A process with its stock; its orders are written and answered at once, unless the connection is lost."""

    region: Row
    name: str
    stock: Stock = field(default_factory=Stock)
    running: list[Call] = field(default_factory=list)
    told_at: float = -math.inf

    def call(self, tokens: int, *, now: float, after: float = 0.0) -> Call | None:
        """A call, sent so many seconds after it has leave; None when it gets none."""
        second = self.stock.take(tokens, now=now)
        if second is None:
            answer = self.tell([tokens], refill=True, now=now)
            if not answer.granted:
                return None
            self.stock.start()
            second = answer.second
        elif self.stock.is_low(now=now):
            self.tell([], refill=True, now=now)
        sent_at = now + after
        if sent_at >= second + GRACE_S - 0.5:  # stale, as a permit says of itself
            self.stock.end(second, unused_tokens=tokens, sent=False)
            return None
        call = Call(sent_at, second, tokens)
        self.running.append(call)
        return call

    def end(self, used_share: float) -> None:
        if self.running:
            call = self.running.pop()
            call.used = int(call.asked * used_share)
            self.stock.end(call.second, unused_tokens=call.asked - call.used)

    def tell(self, asks: Sequence[int] = (), *, refill: bool = False, now: float) -> Any:
        answer = self.region.take(self.stock.order(asks, refill=refill, now=now), self.name, now)
        self.stock.granted(answer, at=now)
        self.told_at = now
        return answer

    def lose(self, asks: Sequence[int], *, written: bool, now: float) -> None:
        """The connection is lost before or after the order was written."""
        order = self.stock.order(asks, refill=True, now=now)
        if written:
            self.region.take(order, self.name, now)


@dataclass
class Row:
    limits: Limits
    quota: Quota = field(default_factory=Quota)

    def take(self, order: Order, name: str, now: float) -> Any:
        self.quota, answer = self.quota.take(
            self.limits,
            order.asks,
            holder=name,
            holding=order.holding,
            lease_s=LEASE_S,
            now=now,
            returned=order.returned,
            spare=order.spare,
        )
        return answer


def busy(row: Row, *, calls: int, now: float) -> Process:
    """A process that has made so many calls, all of them over."""
    process = Process(row, "a")
    for _ in range(calls):
        process.call(100, now=now)
        process.end(1.0)
    return process


def test_the_first_call_asks_and_a_busy_process_has_leave_in_hand() -> None:
    process = Process(Row(WIDE), "a")
    assert process.stock.take(100, now=1000) is None
    process = busy(Row(WIDE), calls=20, now=1000.2)
    assert process.stock.take(100, now=1000.3) == 1000
    assert process.region.quota.in_use(now=1000.3).requests <= 20 + math.ceil(20 * AHEAD_S)


def test_what_no_call_uses_is_given_back_and_not_used_later() -> None:
    row = Row(WIDE)
    process = busy(row, calls=20, now=1000.2)
    process.tell(now=1000.3)
    late = 1000.2 + STOCK_S
    assert row.quota.in_use(now=late).requests > 20
    assert process.stock.take(100, now=late) is None
    assert process.stock.is_overdue(now=late)
    process.tell(now=1003)
    assert row.quota.in_use(now=1003) == Use(20, 2000, 0)
    assert process.stock.is_empty


def test_a_call_that_is_never_sent_gives_its_request_back() -> None:
    row = Row(WIDE)
    process = Process(row, "a")
    assert process.call(100, now=1000, after=GRACE_S) is None
    process.tell(now=1006)
    assert row.quota.in_use(now=1006) == Use()


def test_a_call_that_takes_more_than_is_in_hand_asks() -> None:
    process = busy(Row(WIDE), calls=20, now=1000.2)
    assert process.stock.take(1_000_000, now=1000.3) is None


def test_with_little_left_places_are_told_of_at_once() -> None:
    row = Row(Limits(concurrency=4))
    process = busy(row, calls=20, now=1000.2)
    assert not process.stock.ample
    process.tell(now=1000.2)
    assert row.quota.in_use(now=1000.2).calls == 0


def test_closing_gives_all_back() -> None:
    row = Row(WIDE)
    process = busy(row, calls=20, now=1000.2)
    row.take(process.stock.close(), "a", 1000.3)
    assert row.quota.in_use(now=1000.3) == Use(20, 2000, 0)
    assert process.stock.is_empty


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.01, 0.1, 0.7, 3.0, 14.0]),  # seconds since the step before
        st.integers(0, 2),  # the process
        st.one_of(
            st.tuples(
                st.just("calls"), st.integers(1, 12), st.sampled_from([10, 100, 900]), st.sampled_from([0.0, 2.0, 5.0])
            ),
            st.tuples(st.just("end"), st.integers(1, 12), st.floats(0, 1)),
            st.tuples(st.just("sweep")),
            st.tuples(st.just("lose"), st.booleans()),
            st.tuples(st.just("die")),
        ),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(
    STEPS,
    st.sampled_from(
        [Limits(60, 20_000, 30), Limits(requests_per_minute=25), Limits(tokens_per_minute=9000), Limits(concurrency=12)]
    ),
)
def test_no_limit_is_ever_exceeded_and_nothing_stays_reserved(steps: list[Any], limits: Limits) -> None:
    row, now, named = Row(limits), 1000.0, 3
    processes = [Process(row, str(number)) for number in range(3)]
    sent: list[Call] = []
    is_exact = True
    for passed, number, (act, *of) in steps:
        now += passed
        for each in processes:
            if each.stock.calls and now - each.told_at > 5:
                each.tell(now=now)  # it renews its lease, as it lives
        process = processes[number]
        if act == "calls":
            count, tokens, after = of
            sent += filter(None, (process.call(tokens, now=now, after=after) for _ in range(count)))
        elif act == "end":
            for _ in range(of[0]):
                process.end(of[1])
        elif act == "sweep" and process.stock.is_overdue(now=now):
            process.tell(now=now)
        elif act == "lose":
            process.lose([100], written=of[0], now=now)
            is_exact = False
        elif act == "die":
            processes[number] = Process(row, str(named))
            named += 1
            is_exact = False
        at_once = sum(len(each.running) for each in processes)
        assert limits.concurrency is None or at_once <= limits.concurrency
        for each in processes:
            counted, _ = row.quota.holders.get(each.name, (0, 0.0))
            assert len(each.running) == each.stock.calls
            # Silent for a whole lease, its places are for others; without a lot it uses none of them.
            assert each.stock.calls + each.stock.places <= counted or now >= each.told_at + LEASE_S
    for call in sent:
        within = [each for each in sent if call.at <= each.at < call.at + 60]
        tokens = sum(each.asked if each.used is None else each.used for each in within)
        assert limits.requests_per_minute is None or len(within) <= limits.requests_per_minute
        assert limits.tokens_per_minute is None or tokens <= limits.tokens_per_minute
    # All calls end: nothing but what was sent still counts, and after a lease nothing of the dead.
    now += 3
    for process in processes:
        while process.running:
            process.end(0.5)
        process.tell(now=now)
        assert process.stock.calls == 0
        assert process.stock.is_empty
    if is_exact:
        # Leave counts from the whole second in which it was given.
        use, since = row.quota.in_use(now=now), now - PERIOD_S
        assert use.calls == 0
        assert use.requests == sum(call.second > since for call in sent)
        assert use.tokens == sum(call.asked if call.used is None else call.used for call in sent if call.second > since)
    assert row.quota.in_use(now=now + LEASE_S).calls == 0


@pytest.mark.parametrize("calls_a_second", [1, 4, 100])
def test_a_steady_process_asks_a_few_times_a_second(calls_a_second: int) -> None:
    row = Row(WIDE)
    process = Process(row, "a")
    orders = 0
    inner = row.take

    def counted(order: Order, name: str, now: float) -> Any:
        nonlocal orders
        orders += 1
        return inner(order, name, now)

    row.take = counted  # type: ignore[method-assign]
    for number in range(5 * calls_a_second):
        assert process.call(100, now=1000 + number / calls_a_second) is not None
        if len(process.running) > calls_a_second / 2:
            process.end(0.5)
    assert orders <= 5 * min(calls_a_second, 6) + 5
