"""Many at once: hours are charged once though processes race and are killed, and advice is acted on once."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess

import pytest
from django.db import connection, transaction

from apps.costs.accrual import accrue
from apps.costs.advising import CannotDecide, act_on
from apps.costs.models import AccruedHour, Accruing, Advice, AdviceKind, LedgerEntry, Rate
from apps.providers.models import Provider
from apps.swarms.models import AgentOverride, Holding
from apps.tenants.access import principal_of
from apps.tenants.models import Tenant, User
from tests.forks import Forked
from tests.swarms import StepOf, make_swarm
from tests.test_reserving_races import Aside
from tests.test_whatif import SMALL, prices

__all__ = ["prices"]

START = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
HOURS = 96
NOW = START + dt.timedelta(hours=HOURS, minutes=5)
SWARMS = 40


@pytest.mark.processes
def test_many_at_once_and_kills_charge_each_hour_once(own_database: str, acme: Tenant, rival: Tenant) -> None:  # C11
    first = make_swarm(acme, [StepOf("one")], now=START)
    for n in range(1, SWARMS):
        other = make_swarm(rival if n % 2 else acme, [StepOf("one")], running=False, now=START)
        Holding.objects.create(
            swarm=other, tenant=other.tenant, agents=n, memory_gb=1, cpu=1, since=START + dt.timedelta(minutes=n)
        )
    Rate.objects.create(kind=Accruing.INFRASTRUCTURE, price=3_600, effective_from=START)
    with Forked(
        "-m",
        "tests.accruing",
        NOW.isoformat(),
        env={**os.environ, "DATABASE_URL": own_database, "DJANGO_SETTINGS_MODULE": "portal.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as racers:
        assert racers.stdin
        assert racers.stdout
        assert racers.stderr
        alive: list[int] = []
        beats = killed = 0
        for line in racers.stdout:
            if line.strip().isdigit():
                alive.append(int(line))
            beats += line == ".\n"
            # One after another until two are left, each at another moment of somebody's transaction.
            if beats >= 12 * (killed + 1) and len(alive) > 2:
                os.kill(alive.pop(0), signal.SIGKILL)
                killed += 1
        racers.stdin.close()
        errors = racers.stderr.read()
    assert (racers.returncode, errors) == (0, "")
    assert killed >= 4

    hours = AccruedHour.objects.filter(kind=Accruing.INFRASTRUCTURE)
    assert list(hours.order_by("hour").values_list("hour", flat=True)) == [
        START + dt.timedelta(hours=n) for n in range(HOURS)
    ]
    assert accrue(now=NOW)[0].hours == 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT swarm_id, at FROM costs_ledgerentry GROUP BY 1, 2 HAVING count(*) > 1")
        assert cursor.fetchall() == []
    assert sum(hours.values_list("amount", flat=True)) == sum(LedgerEntry.objects.values_list("amount", flat=True))
    # A rate of one nano-dollar a second: what each swarm owes is its agents times the seconds it held them.
    owed = LedgerEntry.objects.of_swarms([first.pk, other.pk])
    assert owed[first.pk].infrastructure == 10 * HOURS * 3600
    assert owed[other.pk].infrastructure == n * (HOURS * 3600 - n * 60)


def test_two_people_act_on_advice_and_one_of_them_is_told(
    own_database: str, acme: Tenant, finance: User, platform_admin: User, prices: None
) -> None:  # C8
    Provider.objects.create(name="simulated")
    advice = Advice.objects.create(
        tenant=acme,
        kind=AdviceKind.DEAR_MODEL,
        key="writer",
        text="It costs less.",
        saving=1,
        facts={"agent": "writer", "new_model": SMALL},
        window_start=START,
        window_end=NOW,
    )

    def refusal() -> str:
        with pytest.raises(CannotDecide) as refused:
            act_on(advice, by=principal_of(platform_admin), now=NOW)
        return str(refused.value)

    with transaction.atomic():
        act_on(advice, by=principal_of(finance), now=NOW)
        second = Aside(refusal).until_it_waits()
    assert "it was acted" in second.outcome()
    assert AgentOverride.objects.get().model == SMALL
