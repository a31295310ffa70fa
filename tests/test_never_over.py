"""A hard budget is never passed, and nobody is refused over money that is not owed: 8 processes, 64 calls each, kills.

``NEVER_OVER_SEEDS=20 python -m pytest tests/test_never_over.py`` runs more seeds.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import subprocess

import pytest
from django.db import connection
from django.utils import timezone

from apps.costs import consistency
from apps.costs.models import Budget, BudgetPeriod, LedgerEntry, Reservation
from apps.costs.reserving import CallRequest, charge_expired, reserve
from apps.tenants.models import Tenant
from portal.ids import uuid7
from tests.costs import budget, verify_money_is_whole
from tests.forks import Forked
from tests.hammer import AGENTS, HIGHEST

SECONDS = 15.0  # at most; they end when nothing fits any more
KILLS = 4


def hammer(
    url: str, seed: int | str, tenant: Tenant, *, module: str = "tests.hammer", seconds: float = SECONDS
) -> None:
    """Runs the processes and kills some of them at random moments. Fails on any error of the others."""
    rng = random.Random(seed)
    kill_at = sorted(rng.sample(range(1, min(20, KILLS + round(3 * seconds))), KILLS))
    with Forked(
        "-m",
        module,
        str(seed),
        str(tenant.pk),
        str(seconds),
        env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "portal.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as processes:
        assert processes.stdin
        assert processes.stdout
        assert processes.stderr
        alive: list[int] = []
        beats = 0
        for line in processes.stdout:
            if line.strip().isdigit():
                alive.append(int(line))
                rng.shuffle(alive)
            beats += line == ".\n"
            if kill_at and beats >= kill_at[0]:
                kill_at.pop(0)
                os.kill(alive.pop(), signal.SIGKILL)
        processes.stdin.close()
        errors = processes.stderr.read()
    assert (processes.returncode, errors) == (0, "")
    assert not kill_at, f"only {beats} beats: nothing was killed"


def _highest_ever() -> dict[str, tuple[int, int]]:
    """By budget: the highest share of its limit that any prefix of the ledger has, as (nano-dollars, limit)."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT ON (name) name, reached, "limit" FROM (
                SELECT b.name, p."limit", sum(l.amount) OVER (PARTITION BY p.id ORDER BY l.id) AS reached
                FROM costs_ledgerentry l CROSS JOIN unnest(l.period_ids) AS period_id
                JOIN costs_budgetperiod p ON p.id = period_id JOIN costs_budget b ON b.id = p.budget_id) AS prefixes
            ORDER BY name, reached DESC
            """
        )
        return {name: (int(reached), limit) for name, reached, limit in cursor}


def verify_nothing_passed() -> None:
    verify_money_is_whole()
    for name, (reached, limit) in _highest_ever().items():
        assert name in ("soft", "moving") or reached <= limit, f"{name} reached {reached} of {limit}"
    assert consistency.spent_differs_from_ledger() == []
    assert consistency.reserved_differs_from_reservations() == []


def spend_what_is_left(tenant: Tenant, limit: int) -> None:
    """Reserves, nano-dollar for nano-dollar, what the ledger says is left of the tenant's budget."""
    now = timezone.now()
    left = limit - sum(LedgerEntry.objects.values_list("amount", flat=True))
    assert left == BudgetPeriod.objects.get(budget__name="tenant").remaining

    def ask(amount: int) -> bool:
        request = CallRequest(
            uuid7(), tenant.pk, None, None, None, None, "newcomer", "simulated:small", amount, now + dt.timedelta(1)
        )
        (verdict,) = reserve([request], now=now, fresh=True)
        return verdict.granted

    third = left // 3
    for amount, fits in ((left + 1, False), (third, True), (left - third + 1, False), (left - third, True), (1, False)):
        assert ask(amount) is (fits or amount == 0), f"{amount} of {left}"


@pytest.mark.processes
@pytest.mark.parametrize("seed", range(int(os.environ.get("NEVER_OVER_SEEDS", "3"))))
def test_a_hard_budget_is_never_passed_and_nobody_is_falsely_refused(
    own_database: str, acme: Tenant, seed: int
) -> None:  # C4
    limit = 200 * HIGHEST + seed
    budget(acme, limit, "tenant")
    budget(acme, 100 * HIGHEST, "writer", scope="agent", target="writer", period="daily")
    budget(acme, 35 * HIGHEST, "each user", scope="end_user", period="daily")
    budget(acme, 60 * HIGHEST, "each run", period="run")
    budget(acme, 60 * HIGHEST, "soft", enforcement="soft")
    budget(acme, 400 * HIGHEST, "moving")
    hammer(own_database, seed, acme)
    verify_nothing_passed()
    assert LedgerEntry.objects.filter(agent__in=AGENTS).count() > 400

    later = timezone.now() + dt.timedelta(hours=1)
    while charge_expired(now=later):
        pass
    assert not Reservation.objects.exists()
    assert set(BudgetPeriod.objects.values_list("reserved", flat=True)) == {0}
    verify_nothing_passed()

    Budget.objects.filter(name="moving").update(is_active=False)
    spend_what_is_left(acme, limit)
    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert cursor.fetchone() == (0,)
