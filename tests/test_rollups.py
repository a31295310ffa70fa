"""Roll-ups: whatever is written, in whatever order it commits, roll-ups and tail together are the ledger."""

from __future__ import annotations

import datetime as dt
import random
import threading
import uuid
import zoneinfo
from collections import defaultdict
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection
from django_q.models import OrmQ
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from apps.costs import consistency, reports, rollups
from apps.costs.daily import daily
from apps.costs.entries import NewEntry, write
from apps.costs.grouping import By
from apps.costs.lines import spans_of
from apps.costs.models import DayTotal, Kind, LedgerEntry, RolledTenant, RollupPosition
from apps.costs.summing import TABLES
from apps.execution.orchestrator import Orchestrator, registered_duties
from apps.observability import wholeness
from apps.tenants.models import Tenant
from portal.ids import uuid7

NOW = dt.datetime(2026, 11, 21, 3, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
FIRST, LAST = dt.date(2026, 9, 3), dt.date(2026, 12, 17)
ZONES = ["UTC", "America/New_York", "Asia/Tokyo", "Pacific/Kiritimati", "Pacific/Pago_Pago"]
SWARMS, USERS = [uuid.UUID(int=n) for n in (1, 2, 3)], [uuid.UUID(int=n) for n in (11, 12)]


def entry(tenant: Tenant, amount: int = 10, **fields: Any) -> NewEntry:
    return NewEntry(tenant_id=tenant.pk, **{"kind": Kind.LLM, "amount": amount, **fields})


def expected(tenants: list[Tenant]) -> tuple[dict[By, dict[str | None, tuple[int, ...]]], dict[dt.date, Any]]:
    """What the ledger says, added up here: sums by key of each grouping, and days with their sums and swarms."""
    zones = {tenant.pk: Tenant.objects.get(pk=tenant.pk).time_zone for tenant in tenants}
    zones |= dict(RolledTenant.objects.values_list("tenant_id", "time_zone"))
    groups: dict[By, dict[str | None, list[int]]] = {by: defaultdict(lambda: [0, 0, 0, 0]) for by in By}
    days: dict[dt.date, Any] = defaultdict(lambda: [defaultdict(int), set()])
    for row in LedgerEntry.objects.filter(tenant_id__in=zones):
        kind = "llm" if row.kind == "adjustment" and row.reservation_id else row.kind
        keys = {
            By.TENANT: str(row.tenant_id),
            By.USER: str(row.subject_id) if row.subject_id else None,
            By.SWARM: str(row.swarm_id) if row.swarm_id else None,
            By.AGENT: row.agent or None,
            By.MODEL: row.model or None,
            By.KIND: kind,
        }
        for by, key in keys.items():
            for place, value in enumerate((row.amount, 1, row.input_tokens, row.output_tokens)):
                groups[by][key][place] += value
        sums, swarms = days[row.at.astimezone(zoneinfo.ZoneInfo(zones[row.tenant_id])).date()]
        sums[kind] += row.amount
        if row.swarm_id:
            swarms.add((row.tenant_id, row.swarm_id))
    return {by: {key: tuple(sums) for key, sums in found.items()} for by, found in groups.items()}, days


def verify_reports(tenants: list[Tenant]) -> None:
    """Fails unless reports over everything are what the ledger says, by every grouping, and to the nano-dollar."""
    groups, days = expected(tenants)
    for by in By:
        found = reports.grouped(None, FIRST, LAST, by, top=100)
        assert {g.key: (g.amount, g.entries, g.input_tokens, g.output_tokens) for g in found.groups} == groups[by]
        assert found.amount == sum(sums[0] for sums in groups[by].values())
        assert found.rest is None
    start, end = (dt.datetime.combine(day, dt.time(), dt.UTC) for day in (FIRST, LAST))
    assert sum(hour.total for hour in reports.hourly(None, start, end)) == found.amount
    for day in daily(None, FIRST, LAST):
        sums, swarms = days.get(day.day, ({}, set()))
        told = {"llm": day.llm, "infrastructure": day.infrastructure, "storage": day.storage}
        told["adjustment"] = day.adjustment
        assert told == {kind: sums.get(kind, 0) for kind in told}
        assert day.active_swarms == len(swarms)


_INSERT = """
    INSERT INTO costs_ledgerentry (at, tenant_id, kind, amount, swarm_id, subject_id, reservation_id, agent, model,
        input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, unsettled, period_ids, external_id, run,
        note)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 3, 0, 0, false, '{}', '', '', '')
"""
_rows = st.tuples(
    st.integers(0, 100 * 24 * 60).map(lambda minutes: dt.datetime(2026, 9, 5, tzinfo=dt.UTC) + minutes * MINUTE),
    st.integers(0, 1),
    st.sampled_from(["llm", "llm", "infrastructure", "storage", "adjustment"]),
    st.integers(-50, 10**15),
    st.sampled_from([None, *SWARMS]),
    st.sampled_from([None, *USERS]),
    st.sampled_from([None, uuid.UUID(int=99)]),
    st.sampled_from(["", "writer", "coder"]),
    st.sampled_from(["", "simulated:small", "simulated:large"]),
    st.integers(0, 1000),
)


class Writing(RuleBasedStateMachine):
    """Two tenants, two writers whose transactions stay open as long as they like, and a job that rolls up."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE costs_ledgerentry, costs_rolledtenant, tenants_tenant CASCADE")
            for table in TABLES:
                cursor.execute(f"TRUNCATE {table.name}")
        self.tenants = [Tenant.objects.create(slug=f"t{n}", name="T", time_zone=ZONES[n]) for n in (0, 1)]
        self.writers = [psycopg.connect(self.url) for _ in range(2)]

    @rule(writer=st.integers(0, 1), rows=st.lists(_rows, min_size=1, max_size=6))
    def writes(self, writer: int, rows: list[tuple[Any, ...]]) -> None:
        for at, tenant, *rest in rows:
            self.writers[writer].execute(_INSERT, [at, self.tenants[tenant].pk, *rest])

    @rule(writer=st.integers(0, 1))
    def commits(self, writer: int) -> None:
        self.writers[writer].commit()

    @rule(writer=st.integers(0, 1))
    def gives_up(self, writer: int) -> None:
        self.writers[writer].rollback()

    @rule(batch=st.sampled_from([1, 3, 1000]))
    def rolls(self, batch: int) -> None:
        rollups.roll(now=NOW, batch=batch, batches=50)

    @rule(tenant=st.integers(0, 1), zone=st.sampled_from(ZONES))
    def moves(self, tenant: int, zone: str) -> None:
        Tenant.objects.filter(pk=self.tenants[tenant].pk).update(time_zone=zone)

    @rule()
    def rebuilds(self) -> None:
        rollups.rebuild(now=NOW, batch=2)

    @invariant()
    def agrees(self) -> None:
        verify_reports(self.tenants)

    def teardown(self) -> None:
        for writer in self.writers:
            writer.close()
        rollups.roll(now=NOW, batches=100)
        assert consistency.rollups_differ_from_ledger() == []
        verify_reports(self.tenants)


def test_reports_are_the_ledger_at_every_moment(own_database: str) -> None:  # C6
    Writing.url = own_database
    run_state_machine_as_test(
        Writing,
        settings=settings(
            max_examples=10, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_an_entry_that_commits_late_with_a_lower_id_is_rolled_up(own_database: str, acme: Tenant) -> None:
    with psycopg.connect(own_database) as slow:
        slow.execute(_INSERT, [NOW, acme.pk, "llm", 7, *[None] * 3, "", "", 0])
        write([entry(acme, 10)], now=NOW)
        assert rollups.roll(now=NOW) == 0
        assert reports.grouped(None, FIRST, LAST, By.KIND).amount == 10
        slow.commit()
    assert reports.grouped(None, FIRST, LAST, By.KIND).amount == 17
    assert rollups.roll(now=NOW) == 2
    assert reports.grouped(None, FIRST, LAST, By.KIND).amount == 17
    assert rollups.roll(now=NOW) == 0


def test_a_crash_before_the_position_moves_leaves_nothing(
    own_database: str, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    write([entry(acme, 10)], now=NOW)

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("crash")

    with monkeypatch.context() as broken:
        broken.setattr(rollups, "_move", crash)
        with pytest.raises(RuntimeError):
            rollups.roll(now=NOW)
    assert not DayTotal.objects.exists()
    assert rollups.roll(now=NOW) == 1
    assert DayTotal.objects.get().llm == 10


def test_writers_rollers_and_readers_at_once(own_database: str, acme: Tenant, rival: Tenant) -> None:
    """Four writers and two rollers; a reader never sees an entry twice or not at all."""
    write([entry(acme, 1, swarm_id=SWARMS[0])] * 50, now=NOW)
    over, faults, seen = threading.Event(), list[BaseException](), list[int]()

    def work(body: Any) -> None:
        try:
            body()
        except BaseException as fault:
            faults.append(fault)
        finally:
            connection.close()

    def writes() -> None:
        for n in range(40):
            write([entry(acme if n % 2 else rival, 1, swarm_id=SWARMS[n % 3], subject_id=USERS[0])] * 5, now=NOW)

    def rolls() -> None:
        while not over.is_set():
            rollups.roll(now=NOW, batch=7, batches=3)

    rollers = [threading.Thread(target=work, args=[rolls]) for _ in range(2)]
    writers = [threading.Thread(target=work, args=[writes]) for _ in range(4)]
    for thread in (*rollers, *writers):
        thread.start()
    while any(thread.is_alive() for thread in writers):
        report = reports.report(None, FIRST, LAST, by=By.SWARM)
        assert report.total.total == report.grouped.amount == sum(group.amount for group in report.grouped.groups)
        seen.append(report.total.total)
    for thread in writers:
        thread.join()
    over.set()
    for thread in rollers:
        thread.join()
    assert not faults
    assert seen == sorted(seen)
    rollups.roll(now=NOW, batches=1000)
    assert reports.grouped(None, FIRST, LAST, By.TENANT).amount == 850
    assert consistency.rollups_differ_from_ledger() == []


def test_the_leader_rolls_up(own_database: str, acme: Tenant) -> None:
    (duty,) = [duty for duty in registered_duties() if duty.name == "rolled_up"]
    write([entry(acme)], now=NOW)
    Orchestrator(name="test", duties=[duty], clock=lambda: NOW).tick()
    assert rollups.position() == LedgerEntry.objects.get().pk
    assert RollupPosition.objects.get().updated_at == NOW


def test_nobody_waits_for_another_that_rolls_up(own_database: str, acme: Tenant) -> None:
    write([entry(acme)], now=NOW)
    rollups.roll(now=NOW)
    write([entry(acme)], now=NOW)
    Tenant.objects.update(time_zone="Asia/Tokyo")
    with psycopg.connect(own_database) as other:
        other.execute("SELECT FROM costs_rollupposition FOR UPDATE")
        assert rollups.roll(now=NOW) == 0
    assert rollups.roll(now=NOW) == 1


def test_days_follow_the_tenants_time_zone(own_database: str, acme: Tenant) -> None:
    write([entry(acme, at=dt.datetime(2026, 11, 21, 3, tzinfo=dt.UTC))], now=NOW)  # the evening before in New York
    rollups.roll(now=NOW)
    assert [day.day.day for day in daily(None, FIRST, LAST) if day.entries] == [20]
    Tenant.objects.update(time_zone="Asia/Tokyo")
    # Until the job has been there, everything stays as it was; also what comes meanwhile.
    write([entry(acme, at=dt.datetime(2026, 11, 21, 3, tzinfo=dt.UTC))], now=NOW)
    assert [(day.day.day, day.entries) for day in daily(None, FIRST, LAST) if day.entries] == [(20, 2)]
    rollups.roll(now=NOW)
    assert [(day.day.day, day.entries) for day in daily(None, FIRST, LAST) if day.entries] == [(21, 2)]


@pytest.mark.parametrize(
    ("at", "day"),
    [
        ("2026-11-01T04:00", 1),  # midnight before New York's clocks go back
        ("2026-11-02T04:59", 1),  # that day has 25 hours
        ("2026-11-02T05:00", 2),
    ],
)
@pytest.mark.django_db
def test_days_have_the_hours_that_the_clocks_give_them(acme: Tenant, at: str, day: int) -> None:
    write([entry(acme, at=dt.datetime.fromisoformat(at).replace(tzinfo=dt.UTC))], now=NOW)
    behind = [found.day.day for found in daily(None, FIRST, LAST) if found.entries]
    rollups.roll(now=NOW, upto=LedgerEntry.objects.latest("id").pk)
    assert behind == [found.day.day for found in daily(None, FIRST, LAST) if found.entries] == [day]


@pytest.mark.django_db
def test_a_large_tenants_days_are_counted_anew_by_a_job_asked_once(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    write([entry(acme)] * 3, now=NOW)
    upto = LedgerEntry.objects.latest("id").pk
    rollups.roll(now=NOW, upto=upto)
    monkeypatch.setattr(rollups, "REBUILT_AT_ONCE", 2)
    Tenant.objects.update(time_zone="Asia/Tokyo")
    for _ in range(3):
        rollups.roll(now=NOW, upto=upto)
    (queued,) = OrmQ.objects.all()
    task: Any = queued.task
    assert (task["func"], task["kwargs"]["tenant_id"]) == ("apps.costs.tasks.rebuild_rollups", str(acme.pk))
    rollups.roll(now=NOW + rollups.ASKED_AGAIN_AFTER * 2, upto=upto)  # the job was lost
    assert OrmQ.objects.count() == 2
    from apps.costs.tasks import rebuild_rollups

    assert rebuild_rollups(str(acme.pk)) == 3
    assert DayTotal.objects.get().day == dt.date(2026, 11, 21)
    rollups.roll(now=NOW, upto=upto)
    assert OrmQ.objects.count() == 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.django_db
def test_the_dearest_swarms_are_those_that_cost_the_most(acme: Tenant, rival: Tenant, seed: int) -> None:
    """Most swarms have one day, some have several, in any order of days; some lie in part behind the position."""
    chance = random.Random(seed)
    owed: dict[uuid.UUID, dict[dt.date, int]] = defaultdict(lambda: defaultdict(int))
    rows = []
    for n in range(60):
        swarm, days = uuid.UUID(int=n + 1), chance.choice([1, 1, 1, 2, 4])
        for _ in range(days * chance.randint(1, 2)):
            day, amount = dt.date(2026, 11, chance.randint(1, 20)), chance.randint(-5, 30)
            at = dt.datetime.combine(day, dt.time(12), acme.zone)
            rows.append(entry(chance.choice([acme, acme, rival]), amount, swarm_id=swarm, at=at))
    chance.shuffle(rows)
    ids = write(rows, now=NOW)
    for place in (20, 50, len(rows) - 15):
        rollups.roll(now=NOW, upto=ids[place])
    for tenants in (None, {acme.pk}):
        for first, last in ((1, 20), (5, 9), (7, 7)):
            owed.clear()
            for row in rows:
                zone = acme.zone if row.tenant_id == acme.pk else rival.zone
                assert row.at
                assert row.swarm_id
                day = row.at.astimezone(zone).date()
                if first <= day.day <= last and (tenants is None or row.tenant_id in tenants):
                    owed[row.swarm_id][day] += row.amount
            sums = {str(swarm): sum(days.values()) for swarm, days in owed.items()}
            dearest = sorted(sums, key=lambda swarm: (-sums[swarm], swarm))
            span = (dt.date(2026, 11, first), dt.date(2026, 11, last))
            for top in (1, 3, 10, 100):
                found = reports.grouped(tenants, *span, By.SWARM, top=top)
                assert [(g.key, g.amount) for g in found.groups] == [(key, sums[key]) for key in dearest[:top]]
                assert found.others == max(len(sums) - top, 0)
                assert found.amount == sum(sums.values())
                assert (found.rest.amount if found.rest else 0) == sum(sums[key] for key in dearest[top:])
    assert consistency.rollups_differ_from_ledger() == []


@given(st.dates(dt.date(2024, 1, 1), dt.date(2027, 12, 31)), st.integers(0, 800))
def test_spans_are_the_days_once_each(first: dt.date, length: int) -> None:
    last = first + dt.timedelta(days=length)
    days: list[dt.date] = []
    for grain, start, end in spans_of(first, last):
        assert grain == "day" or (start.day == 1 and (end + dt.timedelta(days=1)).day == 1)
        days += [start + dt.timedelta(days=n) for n in range((end - start).days + 1)]
    assert sorted(days) == [first + dt.timedelta(days=n) for n in range(length + 1)]


# -- the check that proves them equal ---------------------------------------------------------------------------------


@pytest.fixture
def rolled(acme: Tenant, rival: Tenant) -> None:
    write(
        [
            entry(acme, 10, swarm_id=SWARMS[0], subject_id=USERS[0], agent="writer", model="simulated:small"),
            entry(acme, 3, kind=Kind.STORAGE),
            entry(rival, -1, kind=Kind.ADJUSTMENT, reservation_id=uuid7()),
        ],
        now=NOW,
    )
    rollups.roll(now=NOW, upto=LedgerEntry.objects.latest("id").pk)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE costs_daytotal SET llm = llm + 1, storage = storage - 1", {"model calls", "storage"}),
        ("UPDATE costs_daytotal SET active_swarms = 0", {"active swarms"}),
        ("UPDATE costs_daytotal SET entries = entries + 1", {"entries"}),
        ("UPDATE costs_usagetotal SET amount = amount + 1 WHERE model <> ''", {"usage"}),
        ("DELETE FROM costs_swarmtotal", {"swarms"}),
        ("DELETE FROM costs_subjecttotal", {"users"}),
        ("DELETE FROM costs_daytotal", {"model calls", "storage", "entries", "active swarms"}),
    ],
)
@pytest.mark.django_db
def test_roll_ups_that_differ_are_found(rolled: None, change: str, what: set[str]) -> None:  # I9
    assert consistency.days_differ_from_ledger() == []
    assert consistency.rollups_differ_from_ledger() == []
    with connection.cursor() as cursor:
        cursor.execute(change)
    assert {gap.what for gap in consistency.days_differ_from_ledger()} == what
    assert consistency.rollups_differ_from_ledger()
    (check,) = [check for check in wholeness.CHECKS if check.name == "rollups"]
    assert check.find(NOW)


@pytest.mark.django_db
def test_an_entry_counted_in_a_wrong_hour_is_found_by_the_complete_check(rolled: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE costs_hourtotal SET hour = hour + interval '1 hour' WHERE kind = 'storage'")
    assert {gap.table for gap in consistency.rollups_differ_from_ledger()} == {"costs_hourtotal"}


@pytest.mark.django_db
def test_a_swarm_with_two_first_days_is_found_by_the_complete_check(acme: Tenant) -> None:
    write([entry(acme, swarm_id=SWARMS[0], at=NOW - n * dt.timedelta(days=1)) for n in range(3)], now=NOW)
    rollups.roll(now=NOW, upto=LedgerEntry.objects.latest("id").pk)
    assert consistency.rollups_differ_from_ledger() == []
    with connection.cursor() as cursor:
        cursor.execute("UPDATE costs_swarmtotal SET further = false")
    assert {gap.table for gap in consistency.rollups_differ_from_ledger()} == {"costs_swarmtotal"}


def test_the_command_tells_what_differs_and_rebuilds(
    own_database: str, acme: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    write([entry(acme, 10, swarm_id=SWARMS[0])], now=NOW)
    rollups.roll(now=NOW)
    call_command("verify_rollups")
    assert "equal the ledger" in capsys.readouterr().out
    DayTotal.objects.update(llm=11)
    with pytest.raises(SystemExit, match="1"):
        call_command("verify_rollups")
    assert "costs_daytotal" in capsys.readouterr().out
    call_command("verify_rollups", rebuild=True)
    assert DayTotal.objects.get().llm == 10
    assert RollupPosition.objects.get().entry_id == LedgerEntry.objects.latest("id").pk
