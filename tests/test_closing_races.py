"""Closing while others write, and killed at every line: a closed month is exactly what the ledger has for it."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import pairwise

import pytest
from django.db import connection
from django.db.models import Count, Sum
from django.utils import timezone

from apps.costs import rollups
from apps.costs.entries import write
from apps.costs.models import ExternalEvent, LedgerEntry, Statement
from apps.costs.periods import Month
from apps.costs.statements import finish
from apps.tenants.models import Tenant
from tests.closing_hammer import ADJUSTED
from tests.costs import budget, verify_money_is_whole
from tests.forks import Forked
from tests.statements import SEPTEMBER, entry
from tests.test_never_over import hammer

pytestmark = pytest.mark.processes


def verify_statements(tenant: Tenant) -> list[Statement]:
    """Fails unless closed months meet, and each is the sum of its entries and of its lines; the months in order."""
    months = list(Statement.objects.filter(tenant=tenant).order_by("starts_at"))
    for statement in months:
        entries = LedgerEntry.objects.filter(tenant_id=tenant.pk, at__gte=statement.starts_at, at__lt=statement.ends_at)
        assert statement.is_closed
        sums = entries.aggregate(total=Sum("amount"), entries=Count("pk"))
        assert (statement.total, statement.entries) == (sums["total"] or 0, sums["entries"])
        lines = statement.lines.aggregate(total=Sum("amount"), entries=Sum("entries"))
        assert (lines["total"] or 0, lines["entries"] or 0) == (statement.total, statement.entries)
    if months:
        before_last = LedgerEntry.objects.filter(tenant_id=tenant.pk, at__lt=months[-1].ends_at).count()
        assert before_last == sum(statement.entries for statement in months), "an entry is in no month"
    return months


def test_many_write_and_close_at_once_and_are_killed(own_database: str, acme: Tenant) -> None:  # C7
    Tenant.objects.filter(pk=acme.pk).update(time_zone="Europe/Berlin")
    budget(acme, 10**9, "soft", enforcement="soft")
    hammer(own_database, 1, acme, module="tests.closing_hammer")
    for statement in Statement.objects.exclude(status="closed"):
        finish(statement.pk, now=timezone.now())
    months = verify_statements(acme)
    assert len(months) >= 5
    for before, after in pairwise(months):
        assert after.starts_at >= before.ends_at
        if Month.parse(before.period).next == Month.parse(after.period):
            assert after.starts_at == before.ends_at
    recorded = ExternalEvent.objects.count()
    assert recorded > 1000
    assert LedgerEntry.objects.exclude(external_id="").count() == recorded
    late = LedgerEntry.objects.filter(note__startswith="Of 2026-").count()
    assert late > 50, "nothing came late: months were not closed meanwhile"
    assert LedgerEntry.objects.filter(note=ADJUSTED).exists()
    verify_money_is_whole()
    while rollups.roll(now=timezone.now()):
        pass
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(amount) FROM costs_usagetotal WHERE grain = 'month'")
        (rolled,) = cursor.fetchone() or (0,)
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert cursor.fetchone() == (0,)
    assert rolled == LedgerEntry.objects.aggregate(total=Sum("amount"))["total"]


def test_a_closing_killed_at_any_line_is_begun_or_not_and_can_be_finished(own_database: str) -> None:  # C7
    tenants = [Tenant.objects.create(slug=f"t{n}", name=f"T{n}") for n in range(110)]
    write([entry(tenant, amount=n, at=SEPTEMBER, agent=f"a{n}") for tenant in tenants for n in (1, 2)], now=SEPTEMBER)
    ids = [str(tenant.pk) for tenant in tenants]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "portal.settings"}
    command = ("-m", "tests.closing_killer", *ids)
    killer = Forked(*command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, errors = killer.communicate(150)
    assert killer.returncode == 0, errors[-2000:]
    told = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(told) > 50, "lines"
    left = [each["left"] for each in told]
    assert {each["status"] for each in left} == {"", "closing", "closed"}
    for each in left:  # begun with its job and its audit row, or not begun at all; with its lines, or without
        assert (each["jobs"], each["acts"]) == ((1, 1) if each["status"] else (0, 0))
        assert each["lines"] == (2 if each["status"] == "closed" else 0)
    for tenant in tenants[: len(told)]:
        (statement,) = verify_statements(tenant)
        assert (statement.total, statement.entries) == (3, 2)
