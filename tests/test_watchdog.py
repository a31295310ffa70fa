"""The watchdog: a healthy system has nothing to tell, and every fault that is planted is found."""

from __future__ import annotations

import datetime as dt
import io
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.models import F

from apps.costs import reserving, rollups
from apps.costs.models import Budget, BudgetPeriod, DayTotal, LedgerEntry, Reservation, Statement
from apps.costs.reserving import CallRequest, Settlement
from apps.events.models import Event
from apps.execution import leases, orchestrator, results
from apps.execution.models import Attempt, LooseObject, Runner, Tick
from apps.observability import housekeeping, schedules, tasks, watchdog, wholeness
from apps.observability.models import WatchdogRun
from apps.observability.wholeness import CHECKS
from apps.swarms import admission, progress
from apps.swarms.models import Agent, Holding, ResourcePool, Swarm, TaskStatus
from apps.tenants.models import Tenant
from portal.ids import uuid7
from tests.queueing import NOW, queued

LATER = NOW + dt.timedelta(minutes=10)
RUNNER = uuid.UUID(int=7)


def call(leased: leases.Leased, cost: int, *, now: dt.datetime = NOW) -> results.Finished:
    """One model call of an attempt that succeeds, reserved and settled; the attempt, to be written."""
    held = uuid7()
    (verdict,) = reserving.reserve(
        [
            CallRequest(
                id=held,
                tenant_id=leased.tenant_id,
                subject_id=None,
                swarm_id=leased.swarm_id,
                task_id=leased.task_id,
                attempt_id=leased.token,
                agent="worker",
                model="simulated:small",
                amount=2 * cost,
                expires_at=now + dt.timedelta(seconds=30),
            )
        ],
        now=now,
    )
    assert verdict.granted, verdict.reason
    reserving.settle([Settlement(held, cost, 10, 5)], now=now)
    return results.Finished(
        leased,
        RUNNER,
        progress.TaskOutcome(leased.task_id, leased.token, TaskStatus.SUCCEEDED, result="done"),
        now,
        {},
        results.Spending(requests=1, input_tokens=10, output_tokens=5, estimated=2 * cost, cost=cost),
    )


@pytest.fixture
def working(acme: Tenant, rival: Tenant) -> Swarm:
    """A system at work: swarms that run, wait and are over, calls that were paid for, and one lease in force."""
    Budget.objects.create(tenant=acme, name="Monthly", period="monthly", limit=10_000)
    ResourcePool.objects.update(agents_total=6)
    over, swarm = queued(acme, agents=2, tasks=2, waited_s=90), queued(acme, agents=2, tasks=4)
    queued(rival, agents=6)
    admission.admit(now=NOW)
    leased = leases.lease(RUNNER, 4, now=NOW, expires_at=LATER + dt.timedelta(seconds=30))
    assert len(leased) == 4
    of_over = [each for each in leased if each.swarm_id == over.pk]
    results.write([call(each, 100) for each in of_over], now=NOW)
    first, retried = (each for each in leased if each.swarm_id == swarm.pk)
    results.write([call(first, 50)], now=NOW)
    waits = progress.TaskOutcome(
        retried.task_id, retried.token, TaskStatus.WAITING, retry_at=LATER + dt.timedelta(seconds=5)
    )
    results.write([results.Finished(retried, RUNNER, waits, NOW, {})], now=NOW)
    leases.lease(RUNNER, 1, now=NOW, expires_at=LATER + dt.timedelta(seconds=30))
    assert rollups.roll(now=NOW, upto=LedgerEntry.objects.latest("id").pk) == 3
    assert Swarm.objects.get(pk=over.pk).is_over
    return Swarm.objects.get(pk=swarm.pk)


def sql(statement: str, *params: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)


def found() -> dict[str, list[str]]:
    return {name: finding["faults"] for name, finding in watchdog.run(now=LATER).findings.items()}


@pytest.mark.django_db
def test_a_healthy_system_has_nothing_to_tell(working: Swarm) -> None:  # I9
    assert found() == {}
    run = WatchdogRun.objects.get()
    assert (run.ok, run.at) == (True, LATER)
    assert not Event.objects.filter(kind__startswith="watchdog").exists()


def _end_lease(swarm: Swarm) -> None:
    swarm.tasks.filter(status="running").update(lease_expires_at=LATER - dt.timedelta(seconds=61))


def _overdue_retry(swarm: Swarm) -> None:
    swarm.tasks.filter(status="waiting").update(ready_at=LATER - dt.timedelta(seconds=61))


def _stuck(swarm: Swarm) -> None:
    swarm.tasks.exclude(status="succeeded").update(
        status="pending", lease_token=None, lease_expires_at=None, runner_id=None
    )
    swarm.agents.update(slots_free=2)


def _never_stopping(swarm: Swarm) -> None:
    _stuck(swarm)
    Swarm.objects.filter(pk=swarm.pk).update(status="stopping")


def _slot_given_twice(swarm: Swarm) -> None:
    swarm.agents.update(slots_free=1)


def _pool_leak(swarm: Swarm) -> None:
    ResourcePool.objects.update(agents_used=3)


def _holding_lost(swarm: Swarm) -> None:
    Holding.objects.filter(swarm=swarm).update(until=NOW)


def _not_archived(swarm: Swarm) -> None:
    ended = LATER - dt.timedelta(minutes=15, seconds=1)
    Swarm.objects.create(tenant=swarm.tenant, name="over", spec={}, status="terminated", finished_at=ended)


def _charge_of_no_task(swarm: Swarm) -> None:
    LedgerEntry.objects.create(tenant_id=swarm.tenant_id, swarm_id=swarm.pk, kind="llm", amount=0, at=NOW)


def _call_not_charged(swarm: Swarm) -> None:
    task = swarm.tasks.filter(status="succeeded")[0]
    Attempt.objects.create(
        id=uuid.uuid4(), task=task, number=2, started_at=NOW, finished_at=NOW, outcome="failed", requests=1, cost=5
    )


def _period_forgot(swarm: Swarm) -> None:
    BudgetPeriod.objects.update(spent=249)


def _reserved_for_nobody(swarm: Swarm) -> None:
    BudgetPeriod.objects.update(reserved=1)


def _reservation_left_over(swarm: Swarm) -> None:
    Reservation.objects.create(
        tenant_id=swarm.tenant_id, model="m", amount=0, period_ids=[], expires_at=LATER - dt.timedelta(seconds=61)
    )


def _rolled_up_twice(swarm: Swarm) -> None:
    DayTotal.objects.update(entries=F("entries") * 2)


def _month(swarm: Swarm, month: int = 10, **fields: Any) -> Statement:
    """A month of this year that is closing since now."""
    usual = {
        "period": f"2026-{month:02}",
        "starts_at": NOW.replace(month=month, day=1),
        "ends_at": NOW.replace(month=month + 1, day=1),
        "time_zone": "UTC",
        "tenant_slug": swarm.tenant.slug,
        "closing_since": LATER,
    }
    return Statement.objects.create(tenant=swarm.tenant, **{**usual, **fields})


def _line(statement: Statement, amount: int) -> None:
    statement.lines.create(kind="storage", entries=1, input_tokens=0, output_tokens=0, amount=amount)


def _month_hangs(swarm: Swarm) -> None:
    _month(swarm, closing_since=LATER - dt.timedelta(minutes=15, seconds=1))


def _lines_changed(swarm: Swarm) -> None:
    statement = _month(swarm)
    _line(statement, 5)
    statement.finish(total=0, entries=0, at=LATER)


def _file_left_behind(swarm: Swarm) -> None:
    current = swarm.tasks.filter(status="running")[0].lease_token
    assert current is not None
    for attempt_id, hours in ((uuid.uuid4(), 25), (uuid.uuid4(), 23), (current, 25)):
        key = LooseObject.new_key(swarm.tenant_id, swarm.pk)
        LooseObject.objects.create(key=key, attempt_id=attempt_id, since=LATER - dt.timedelta(hours=hours))


NOVEMBER = {"starts_at": NOW.replace(day=10), "ends_at": NOW.replace(day=20)}
"""Most of a month that has a partition."""


def _entry_smuggled_in(swarm: Swarm) -> None:
    statement = _month(swarm, 11, **NOVEMBER)
    _line(statement, 5)
    statement.finish(total=5, entries=1, at=LATER)
    sql("SET LOCAL session_replication_role = replica")  # the triggers sleep
    for amount in (5, 2):
        LedgerEntry.objects.create(tenant_id=swarm.tenant_id, kind="storage", amount=amount, at=NOW.replace(day=11))
    sql("SET LOCAL session_replication_role = origin")


def _months_overlap(swarm: Swarm) -> None:
    _month(swarm, 9, ends_at=NOW.replace(month=10, day=2)).finish(total=0, entries=0, at=LATER)
    _month(swarm).finish(total=0, entries=0, at=LATER)


def _entry_in_no_month(swarm: Swarm) -> None:
    LedgerEntry.objects.create(tenant_id=swarm.tenant_id, kind="storage", amount=1, at=NOW.replace(day=9))
    _month(swarm, 7).finish(total=0, entries=0, at=LATER)
    _month(swarm, 11, **NOVEMBER).finish(total=0, entries=0, at=LATER)


def _month_without_partition(swarm: Swarm) -> None:
    Event.objects.create(kind="swarm.dreamt", at=NOW.replace(year=2099))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fault", "check", "text"),
    [
        (_end_lease, "leases", "its lease ended at 2026-11-21 12:08:59 UTC."),
        (_overdue_retry, "retries", "its retry was due at 2026-11-21 12:08:59 UTC."),
        (_stuck, "stuck_swarms", "is running with no task under way."),
        (_never_stopping, "stuck_swarms", "is stopping with no task under way."),
        (_not_archived, "archives", "no job of the ops cluster (manage.py work --cluster ops) has come to it."),
        (_file_left_behind, "files", "an hourly job of the ops cluster should have removed it."),
        (_slot_given_twice, "slots", "counts 1 replicas as free; 0 are."),
        (_pool_leak, "pool", "The pool counts 3 agents in use, and swarms hold 2."),
        (_holding_lost, "holdings", "holds resources that no holding counts."),
        (_charge_of_no_task, "charges", "names no task."),
        (_call_not_charged, "calls", "made 1 calls, none is charged."),
        (_period_forgot, "spending", "249 nano-dollars are spent, and the rows say 250."),
        (_reserved_for_nobody, "reserved", "1 nano-dollars are reserved, and the rows say 0."),
        (_reservation_left_over, "reservations", "ended at 2026-11-21 12:08:59 UTC."),
        (_rolled_up_twice, "rollups", "entries: the roll-ups say 6, the ledger 3."),
        (_month_hangs, "statements", "has been closing since 2026-11-21 11:54:59 UTC, and nobody finishes it."),
        (_lines_changed, "statements", "with 0 nano-dollars in 0 entries; its lines add up to 5 in 1."),
        (_entry_smuggled_in, "statements", "with 5 nano-dollars in 1 entries; the ledger has 7 in 2."),
        (_months_overlap, "statements", "overlaps the month before it, which goes on until 2026-10-02 12:00:00 UTC."),
        (
            _entry_in_no_month,
            "statements",
            "at 2026-11-09 12:00:00 UTC is before 2026-11, which is closed, and in no month.",
        ),
        (_month_without_partition, "partitions", "events_event has rows of 2099-11 in its default partition."),
    ],
)
def test_a_planted_fault_is_found(working: Swarm, fault: Callable[[Swarm], None], check: str, text: str) -> None:  # I9
    fault(working)
    faults = found()
    assert list(faults) == [check]
    assert len(faults[check]) == 1
    assert faults[check][0].endswith(text)


def test_every_check_has_a_planted_fault() -> None:
    marks = test_a_planted_fault_is_found.pytestmark  # type: ignore[attr-defined]
    (cases,) = (mark.args[1] for mark in marks if mark.name == "parametrize")
    assert {case[1] for case in cases} == {check.name for check in CHECKS}


@pytest.mark.django_db
def test_a_task_whose_lease_just_ended_is_the_orchestrators_business(working: Swarm) -> None:
    working.tasks.filter(status="running").update(lease_expires_at=LATER - dt.timedelta(seconds=30))
    assert found() == {}


@pytest.mark.django_db
def test_each_check_is_one_bounded_query(working: Swarm, django_assert_num_queries: Callable[[int], Any]) -> None:
    agent = Agent.objects.filter(swarm=working).get()
    Agent.objects.bulk_create(
        Agent(swarm=working, name=f"a{number}", replicas=agent.replicas) for number in range(wholeness.MOST + 5)
    )
    for check in CHECKS:
        with django_assert_num_queries(1):
            assert len(check.find(LATER)) == (wholeness.MOST if check.name == "slots" else 0)


# -- what it tells -----------------------------------------------------------------------------------------------------


def told() -> list[tuple[str, Any]]:
    events = Event.objects.filter(kind__startswith="watchdog").order_by("id")
    return [(event.kind, event.data) for event in events]


@pytest.mark.django_db
def test_it_speaks_up_when_something_changes_and_only_then(working: Swarm) -> None:
    _pool_leak(working)
    found()
    found()
    failed = ("watchdog.failed", {"checks": {"pool": 1}, "new": ["pool"]})
    assert told() == [failed]
    _slot_given_twice(working)
    found()
    assert told() == [failed, ("watchdog.failed", {"checks": {"pool": 1, "slots": 1}, "new": ["slots"]})]
    ResourcePool.objects.update(agents_used=2)
    found()
    assert len(told()) == 2  # one is still there
    working.agents.update(slots_free=0)
    found()
    found()
    assert told()[2:] == [("watchdog.recovered", {"checks": ["slots"]})]


@pytest.mark.django_db
def test_a_check_that_cannot_be_made_is_a_finding_and_the_others_are_made(
    working: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(now: dt.datetime) -> list[str]:
        sql("SELECT pg_sleep(5)")
        return []

    broken = wholeness.Check("slow", "It is slow.", slow)
    monkeypatch.setattr(watchdog, "CHECKS", [broken, *CHECKS])
    monkeypatch.setattr(watchdog, "LONGEST_S", 0.1)
    _pool_leak(working)
    faults = found()
    assert list(faults) == ["slow", "pool"]
    assert faults["slow"][0].startswith("The check could not be made within 0.1 s: canceling statement")


@pytest.mark.django_db
def test_the_command_tells_all_is_well(working: Swarm) -> None:
    out = io.StringIO()
    call_command("watchdog", stdout=out, now=LATER)
    assert out.getvalue().startswith(f"All is well: {len(CHECKS)} checks in ")


@pytest.mark.django_db
def test_the_command_prints_what_is_wrong_and_exits_with_1(working: Swarm) -> None:
    _pool_leak(working)
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("watchdog", stdout=out, now=LATER)
    assert ended.value.code == 1
    assert "  The pool counts 3 agents in use, and swarms hold 2.\n" in out.getvalue()


@pytest.mark.django_db
def test_the_orchestrator_makes_a_run_every_minute(working: Swarm) -> None:
    (duty,) = (duty for duty in orchestrator.registered_duties() if duty.name == "watchdog")
    assert duty.every_s == 60
    _pool_leak(working)
    assert duty.work(now=LATER) == 1


# -- upkeep ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_partitions_are_made_ahead_once() -> None:
    far = NOW.replace(year=2098)
    made = housekeeping.partitions_ahead(now=far)
    assert [name for name in made if name.startswith("events_")] == [
        "events_event_2098_11",
        "events_event_2098_12",
        "events_event_2099_01",
        "events_event_2099_02",
    ]
    assert len(made) == 12
    assert housekeeping.partitions_ahead(now=far) == []


@pytest.mark.django_db
def test_rows_in_a_default_partition_do_not_keep_the_other_tables_from_theirs(working: Swarm) -> None:
    _month_without_partition(working)
    with pytest.raises(DatabaseError):
        housekeeping.partitions_ahead(now=NOW.replace(year=2099))
    sql("SELECT 'costs_ledgerentry_2099_12'::regclass")


@pytest.mark.django_db
def test_old_rows_are_removed_and_what_is_recent_or_alive_stays() -> None:
    for age in (dt.timedelta(hours=23), dt.timedelta(hours=25), dt.timedelta(days=8)):
        at = NOW - age
        Tick.objects.create(at=at, leader="it")
        WatchdogRun.objects.create(at=at, ok=True)
        Runner.objects.create(node="n", pid=1, concurrency=1, started_at=at, finished_at=at)
    Runner.objects.create(node="n", pid=2, concurrency=1, started_at=NOW - dt.timedelta(days=30))
    assert housekeeping.prune(now=NOW) == {
        "ticks": 2,
        "runners": 1,
        "tries": 0,
        "watchdog_runs": 1,
        "region_minutes": 0,
        "sessions": 0,
    }
    assert Runner.objects.filter(pid=2).exists()


@pytest.mark.django_db
def test_the_doors_of_the_jobs_do_the_upkeep() -> None:
    assert isinstance(tasks.make_partitions_ahead(), list)
    assert tasks.prune_old_rows() == {
        "ticks": 0,
        "runners": 0,
        "tries": 0,
        "watchdog_runs": 0,
        "region_minutes": 0,
        "sessions": 0,
    }


@pytest.mark.django_db
def test_schedules_are_there_after_migration_and_an_operators_change_stays() -> None:
    from django.utils.module_loading import import_string
    from django_q.models import Schedule

    doors = [door for door, _ in [*schedules.DAILY.values(), *schedules.HOURLY.values()]]
    assert set(Schedule.objects.values_list("func", flat=True)) >= set(doors)
    for door in doors:
        assert callable(import_string(door))
    Schedule.objects.update(next_run=NOW)
    assert schedules.ensure_schedules() == 0
    assert set(Schedule.objects.values_list("next_run", flat=True)) == {NOW}
    Schedule.objects.all().delete()
    assert schedules.ensure_schedules() == len(doors)
