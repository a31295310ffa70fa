"""Infrastructure and storage accrue by the hour, at rates with dates, each hour once."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from decimal import Decimal
from importlib import import_module
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.costs import accrual, tasks
from apps.costs.accrual import Held, RateBook, accrue, infrastructure, storage
from apps.costs.booking import Booking
from apps.costs.models import AccruedHour, Accruing, BudgetPeriod, Kind, LedgerEntry, Rate
from apps.swarms import metering
from apps.swarms.actions import lifecycle
from apps.swarms.models import Holding, ResourcePool, Swarm
from apps.swarms.status import swarm_status
from apps.tenants.access import principal_of
from apps.tenants.models import Tenant, User
from portal.money import NANO
from tests.costs import budget
from tests.swarms import StepOf, make_swarm

H = dt.timedelta(hours=1)
M = dt.timedelta(minutes=1)
DAY = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
NOON = DAY + 12 * H
CENT = 10_000_000
US, EU = UUID(int=1), UUID(int=2)
SWARM = UUID(int=9)


def rate(price: int, since: dt.datetime = DAY, kind: str = Accruing.INFRASTRUCTURE, **fields: Any) -> Rate:
    return Rate.objects.create(kind=kind, price=price, effective_from=since, **fields)


def held(minutes_from: float, minutes_to: float, agents: int = 1) -> Held:
    return Held(US, SWARM, agents, NOON + minutes_from * M, NOON + minutes_to * M)


def book(*rates: tuple[float, int], own: tuple[tuple[float, int], ...] = ()) -> RateBook:
    """Rates as (minutes after noon, price): everybody's, and the tenant's own."""
    return RateBook(
        {None: [(NOON + at * M, price) for at, price in rates], US: [(NOON + at * M, price) for at, price in own]}
    )


# -- intervals and hours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holdings", "rates", "entries"),
    [
        ([held(0, 60)], book((-60, 100)), [(0, "1", 100)]),  # a whole hour
        ([held(0, 60, agents=7)], book((-60, 100)), [(0, "7", 700)]),
        ([held(-90, 90)], book((-60, 100)), [(0, "1", 100)]),  # only what is inside the hour
        ([held(15, 30)], book((-60, 100)), [(0, "0.25", 25)]),
        ([held(0, 1 / 60)], book((-60, 100)), [(0, "0.000277778", 1)]),  # a second is rounded up
        ([held(0, 1 / 60, agents=36)], book((-60, 100)), [(0, "0.01", 1)]),
        ([held(0, 20), held(40, 60)], book((-60, 99)), [(0, "0.666666667", 66)]),  # given back and taken again
        ([held(-30, 0)], book((-60, 100)), []),  # ended as the hour began
        ([held(60, 90)], book((-60, 100)), []),
        ([held(10, 10)], book((-60, 100)), []),  # held for no time at all
        ([held(0, 60)], book(), []),  # no rate: nothing accrues
        ([held(0, 60)], book((60, 100)), []),  # not in force yet
        ([held(0, 60)], book((-60, 0)), [(0, "1", 0)]),  # free, and said so
        ([held(0, 60)], book((45, 100)), [(45, "0.25", 25)]),  # the first rate begins inside the hour
        ([held(0, 60, 2)], book((-60, 100), (30, 300)), [(0, "1", 100), (30, "1", 300)]),  # it changes inside
        ([held(50, 60)], book((-60, 100), (30, 300)), [(30, "0.166666667", 50)]),
        ([held(0, 60)], book((-60, 100), own=((15, 7),)), [(0, "0.25", 25), (15, "0.75", 6)]),  # the tenant's own
        ([held(0, 60)], book((-60, 100), (30, 900), own=((-60, 8),)), [(0, "0.5", 4), (30, "0.5", 4)]),
    ],
)
def test_what_an_hour_of_holdings_costs(
    holdings: list[Held], rates: RateBook, entries: list[tuple[float, str, int]]
) -> None:  # C11
    found = infrastructure(holdings, rates, {}, NOON)
    assert [(entry.at, entry.quantity, entry.amount) for entry in found] == [
        (NOON + at * M, Decimal(quantity), amount) for at, quantity, amount in entries
    ]
    assert {(entry.tenant_id, entry.swarm_id, entry.kind) for entry in found} <= {(US, SWARM, Kind.INFRASTRUCTURE)}


def test_an_hour_is_cut_at_the_tenants_midnight_so_that_each_part_is_on_its_day() -> None:
    # Midnight of Kolkata (UTC+5:30) is 18:30 UTC.
    evening = DAY + 18 * H
    holding = [Held(US, SWARM, 1, evening, evening + H)]
    rates = RateBook({None: [(DAY, 100)]})
    found = infrastructure(holding, rates, {US: zoneinfo.ZoneInfo("Asia/Kolkata")}, evening)
    assert [(entry.at, entry.amount) for entry in found] == [(evening, 50), (evening + 30 * M, 50)]
    assert len(infrastructure(holding, rates, {US: zoneinfo.ZoneInfo("Europe/Berlin")}, evening)) == 1


@pytest.mark.parametrize(("zone", "day", "hours"), [("Europe/Berlin", 25, 25), ("Europe/Berlin", 24, 24)])
def test_hours_are_those_of_utc_whatever_the_clocks_do(zone: str, day: int, hours: int) -> None:
    """Each hour of the longest local day costs the same, and all of them are on that day."""
    tz = zoneinfo.ZoneInfo(zone)
    start = dt.datetime(2026, 10, day, tzinfo=tz).astimezone(dt.UTC)
    rates = RateBook({None: [(start, 100)]})
    entries = [
        entry
        for n in range(hours)
        for entry in infrastructure([Held(US, SWARM, 1, start - H, start + 99 * H)], rates, {US: tz}, start + n * H)
    ]
    assert [entry.amount for entry in entries] == [100] * hours
    assert {entry.at.astimezone(tz).day for entry in entries if entry.at} == {day}


def test_storage_is_charged_by_the_hours_of_its_month() -> None:
    november, december = NOON, dt.datetime(2026, 12, 31, 23, tzinfo=dt.UTC)
    rates = RateBook({None: [(DAY, 720_000), (december, 744_000)]})
    kept = {(US, "Task results"): 3 * accrual.GB, (EU, "Archives"): 1}
    first, smallest = storage(kept, rates, {}, november)
    assert (first.amount, first.quantity, first.unit_price) == (3_000, Decimal("0.004166667"), 720_000)
    assert (first.tenant_id, first.swarm_id, first.kind, first.note) == (US, None, Kind.STORAGE, "Task results")
    assert (smallest.tenant_id, smallest.amount, smallest.quantity) == (EU, 1, Decimal("0.000000001"))
    assert storage(kept, rates, {}, december)[0].amount == 3_000
    halves = storage(kept, RateBook({None: [(NOON, 720_000), (NOON + 30 * M, 1_440_000)]}), {}, NOON)
    assert [entry.amount for entry in halves if entry.tenant_id == US] == [1_500, 3_000]


_minutes = st.integers(0, 6 * 3600 * 1_000_000)


@settings(max_examples=60, deadline=None)
@given(
    spans=st.lists(st.tuples(_minutes, _minutes, st.integers(1, 500)), max_size=6),
    changes=st.lists(st.tuples(_minutes, st.integers(0, 2 * NANO)), max_size=4),
)
def test_hours_add_up_to_agents_times_time_times_rate(
    spans: list[tuple[int, int, int]], changes: list[tuple[int, int]]
) -> None:  # C11
    def at(us: int) -> dt.datetime:
        return NOON + dt.timedelta(microseconds=us)

    holdings = [Held(US, SWARM, agents, at(min(a, b)), at(max(a, b))) for a, b, agents in spans]
    prices = {0: 100, **dict(changes)}
    rates = RateBook({None: [(at(us), price) for us, price in sorted(prices.items())]})
    entries = [entry for n in range(7) for entry in infrastructure(holdings, rates, {}, NOON + n * H)]
    edges = [*sorted(prices), 7 * 3600 * 1_000_000]
    exact = sum(
        agents * max(min(max(a, b), end) - max(min(a, b), start), 0) * prices[start]
        for a, b, agents in spans
        for start, end in pairwise(edges)
    )
    charged = sum(entry.amount for entry in entries) * 3_600_000_000
    assert exact <= charged < exact + (len(entries) + 1) * 3_600_000_000
    for entry in entries:
        assert entry.quantity is not None
        assert entry.unit_price is not None
        # What the entry says explains its amount, to the last digit that a quantity has.
        assert abs(entry.quantity * entry.unit_price - entry.amount) <= 1 + Decimal(entry.unit_price).scaleb(-9)


# -- holdings ----------------------------------------------------------------------------------------------------------


def spans(swarm: Swarm) -> list[tuple[dt.datetime, dt.datetime | None]]:
    return list(Holding.objects.filter(swarm=swarm).order_by("id").values_list("since", "until"))


@pytest.mark.django_db
def test_a_holding_lasts_through_a_pause_and_begins_anew_with_a_retry(acme: Tenant, operator: User) -> None:  # C11
    by = principal_of(operator)
    swarm = make_swarm(acme, [StepOf("one", items=3)], now=NOON)
    lifecycle.pause(swarm, by=by, now=NOON + 10 * M)
    assert spans(swarm) == [(NOON, None)]
    lifecycle.resume(swarm, by=by, now=NOON + 20 * M)
    lifecycle.terminate(swarm, by=by, reason="enough", now=NOON + 30 * M)
    assert spans(swarm) == [(NOON, NOON + 30 * M)]
    with transaction.atomic():
        Swarm.objects.filter(pk=swarm.pk).update(status="running")
        ResourcePool.objects.locked().take([swarm], now=NOON + 40 * M)
    assert spans(swarm) == [(NOON, NOON + 30 * M), (NOON + 40 * M, None)]
    (one, two) = metering.held(NOON, NOON + H)
    assert (one.agents, one.start, one.end, two.end) == (10, NOON, NOON + 30 * M, NOON + H)


@pytest.mark.django_db
def test_the_database_knows_one_open_holding_of_a_swarm_and_none_that_ends_before_it_begins(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("one")], now=NOON)
    row = {"swarm": swarm, "tenant": acme, "agents": 1, "memory_gb": 1, "cpu": 1}
    with pytest.raises(IntegrityError, match="one_open_holding"), transaction.atomic():
        Holding.objects.create(**row, since=NOON)
    with pytest.raises(IntegrityError, match="holding_does_not_end"), transaction.atomic():
        Holding.objects.create(**row, since=NOON, until=NOON - M)
    # A clock that is behind that of whoever took it does not make a holding end before it began.
    with transaction.atomic():
        Swarm.objects.filter(pk=swarm.pk).update(status="paused")
        assert ResourcePool.objects.give_back([swarm], now=NOON - M) == 1
    assert spans(swarm) == [(NOON, NOON)]


@pytest.mark.django_db
def test_what_swarms_held_before_there_were_holdings_is_held_from_the_migration_on(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("one")], now=NOON)
    make_swarm(acme, [StepOf("one")], running=False)
    Holding.objects.all().delete()
    migration = import_module("apps.swarms.migrations.0004_holdings").Migration
    with connection.cursor() as cursor:
        cursor.execute(migration.operations[-1].sql)
    (holding,) = Holding.objects.all()
    assert (holding.swarm, holding.tenant, holding.agents, holding.until) == (swarm, acme, 10, None)


# -- the job -----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_each_full_hour_is_charged_once_and_shown_on_the_swarm(acme: Tenant, rival: Tenant) -> None:  # C11
    swarm = make_swarm(acme, [StepOf("one", items=3)], now=NOON - 30 * M)  # ten agents
    other = make_swarm(rival, [StepOf("one")], now=NOON)
    month = budget(acme, 5)
    rate(CENT, since=DAY)
    rate(2 * CENT, since=DAY, tenant=rival)
    assert [each.hours for each in accrue(now=NOON + 4 * M)] == [0, 0]  # 11 to 12 may not be written in full yet
    infra, _ = accrue(now=NOON + 5 * M)
    assert (infra.kind, infra.hours, infra.entries, infra.amount) == (Accruing.INFRASTRUCTURE, 1, 1, 5 * CENT)
    infra, _ = accrue(now=NOON + H + 5 * M)
    assert (infra.hours, infra.entries, infra.amount) == (1, 2, 10 * CENT + 20 * CENT)
    assert [each.hours for each in accrue(now=NOON + H + 59 * M)] == [0, 0]

    assert swarm_status(swarm)["cost"]["infrastructure"] == 15 * CENT
    assert swarm_status(other)["cost"]["total"] == 20 * CENT
    entry = LedgerEntry.objects.filter(swarm_id=swarm.pk).latest("id")
    assert (entry.tenant_id, entry.at, entry.quantity, entry.unit_price) == (acme.pk, NOON, Decimal(10), CENT)
    # They cannot be refused, so no budget counts them.
    assert entry.period_ids == []
    assert not BudgetPeriod.objects.filter(budget=month).exists()
    last = AccruedHour.objects.filter(kind=Accruing.INFRASTRUCTURE).first()
    assert last
    assert (last.hour, last.entries, last.amount) == (NOON, 2, 30 * CENT)


@pytest.mark.django_db
def test_a_missed_day_is_made_up_for_in_bounded_runs(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("one")], now=DAY)
    rate(CENT, since=DAY - 100 * 24 * H)
    told: list[tuple[str, dt.datetime, int]] = []
    infra, _ = accrue(now=DAY + 24 * H + 6 * M, most=10, progress=lambda *each: told.append(each))
    assert (infra.hours, infra.behind) == (10, 14)
    assert told[0] == (Accruing.INFRASTRUCTURE, DAY, 23)
    assert accrue(now=DAY + 24 * H + 6 * M)[0].behind == 0
    assert AccruedHour.objects.filter(kind=Accruing.INFRASTRUCTURE).count() == 24
    assert LedgerEntry.objects.of_swarms([swarm.pk])[swarm.pk].infrastructure == 24 * 10 * CENT


@pytest.mark.django_db
def test_an_hour_that_can_no_longer_be_booked_is_booked_later_and_says_so(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:  # C7
    def closed(costs: list[tuple[UUID, dt.datetime]], *, now: dt.datetime) -> list[Booking]:
        return [Booking(now, f"For {at:%Y-%m-%d}.") for _, at in costs]

    monkeypatch.setattr(accrual, "bookings", closed)
    make_swarm(acme, [StepOf("one", items=1)], now=NOON)
    rate(CENT)
    now = NOON + 30 * H
    accrue(now=now, most=1)
    (entry,) = LedgerEntry.objects.all()
    assert (entry.at, entry.note, entry.amount) == (now, "For 2026-11-21.", 10 * CENT)
    assert AccruedHour.objects.get().hour == NOON


@pytest.mark.django_db
def test_without_a_rate_nothing_accrues_and_a_later_one_does_not_reach_back(acme: Tenant) -> None:
    make_swarm(acme, [StepOf("one")], now=DAY)
    assert [each.hours for each in accrue(now=NOON)] == [0, 0]
    rate(CENT, since=NOON)
    assert accrue(now=NOON + 2 * H + 5 * M)[0].entries == 2
    assert not LedgerEntry.objects.filter(at__lt=NOON).exists()
    late = Rate(kind=Accruing.INFRASTRUCTURE, price=1, effective_from=NOON + H)
    with pytest.raises(ValidationError, match="2026-11-21 14:00 UTC are accrued already"):
        late.full_clean()
    Rate(kind=Accruing.INFRASTRUCTURE, price=1, effective_from=NOON + 2 * H).full_clean()
    Rate(kind=Accruing.STORAGE, price=1, effective_from=NOON).full_clean()


@pytest.mark.django_db
def test_storage_counts_what_results_take_from_its_first_full_hour_on(acme: Tenant, rival: Tenant) -> None:  # C11
    swarm = make_swarm(acme, [StepOf("one", items=2)], now=DAY)
    make_swarm(rival, [StepOf("one")], now=DAY)
    swarm.tasks.update(result="".join(chr(33 + n % 90) for n in range(1000)))
    (size,) = metering.result_bytes().values()
    assert 2000 < size < 2200
    rate(720 * NANO, since=DAY - 24 * H, kind=Accruing.STORAGE)
    _, stored = accrue(now=NOON + 5 * M)
    assert (stored.hours, stored.entries, stored.amount) == (1, 1, size)
    (entry,) = LedgerEntry.objects.all()
    assert (entry.tenant_id, entry.swarm_id, entry.at, entry.note) == (acme.pk, None, NOON - H, "Task results")
    # Two hours were missed: each is charged, at what is kept when they are made up for.
    swarm.tasks.update(result=None)
    swarm.tasks.filter(index=0).update(result="x")
    _, stored = accrue(now=NOON + 3 * H)
    assert (stored.hours, stored.entries) == (2, 2)


@pytest.mark.django_db
def test_the_scheduled_door_and_the_command_do_the_same(acme: Tenant, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("accrue_costs")
    assert "Nothing accrues: there is no rate." in capsys.readouterr().out
    assert tasks.accrue_costs() == {"infrastructure": 0, "storage": 0}
    now = accrual.floor_hour(dt.datetime.now(dt.UTC))
    make_swarm(acme, [StepOf("one")], now=now - 60 * H)
    rate(CENT, since=now - 60 * H)
    call_command("accrue_costs")
    told = capsys.readouterr()
    assert " hour(s), " in told.out
    assert "24 hours to go." in told.err
    assert tasks.accrue_costs()["infrastructure"] <= 1
    assert AccruedHour.objects.count() in (59, 60)
