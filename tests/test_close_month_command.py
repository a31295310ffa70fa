"""``manage.py close_month``: dry unless told otherwise, and refusals in one line.  # C7"""

from __future__ import annotations

import datetime as dt
import io

import pytest
from django.core.management import CommandError, call_command

from apps.audit.models import AuditEntry
from apps.costs.entries import write
from apps.costs.management.commands.close_month import Command
from apps.costs.models import Statement
from apps.tenants.models import Tenant
from portal.money import usd_text
from tests.statements import entry, one_of_each, owed

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


def run(period: str, tenant: str = "acme", *, wet_run: bool = False) -> tuple[str, str]:
    """What the command says, on standard output and on standard error."""
    told, warned = io.StringIO(), io.StringIO()
    command = Command(now=lambda: NOW, stdout=told, stderr=warned)
    call_command(command, tenant=tenant, period=period, wet_run=wet_run)
    return told.getvalue(), warned.getvalue()


def refusal(*args: str) -> str:
    with pytest.raises(CommandError) as refused:
        run(*args, wet_run=True)
    assert refused.value.returncode == 2
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_it_tells_what_would_be_closed_and_then_closes_it(acme: Tenant) -> None:
    one_of_each(acme)
    write([entry(acme, amount=70, unsettled=True, at=NOW - dt.timedelta(days=60))], now=None)
    total = owed(acme, NOW - dt.timedelta(days=90), dt.datetime(2026, 10, 1, 4, tzinfo=dt.UTC))
    told, warned = run("2026-09")
    assert told.splitlines() == [
        f"2026-09 of acme: {total.normalize():f} USD in 2 ledger entries.",
        "Not settled: 1 of them, charged as reserved with 0.00000007 USD. They would be corrected in a later month.",
        "It can be closed now.",
    ]
    assert "nothing was changed" in warned
    assert "It cannot be closed now. 2026-09 comes first" in run("2026-10")[0]
    assert not Statement.objects.exists()

    told, warned = run("2026-09", wet_run=True)
    statement = Statement.objects.get()
    assert told == f"2026-09 of acme is closed: {usd_text(statement.total)} USD in 2 ledger entries.\n"
    assert warned == ""
    assert (statement.is_closed, statement.closed_by) == (True, "close_month")
    assert AuditEntry.objects.get(resource_id=str(statement.pk)).actor == "close_month"
    assert "closed already" in run("2026-09")[0]


def test_what_cannot_be_closed_is_refused_in_one_line(acme: Tenant) -> None:
    one_of_each(acme)
    for period, says in (
        ("2026-13", "is not a month"),
        ("2026-10", "2026-09 comes first"),
        ("2026-11", "is not over: it can be closed from"),
        ("2026-12", "has not begun"),
    ):
        assert says in refusal(period)
    assert refusal("2026-09", "nobody") == "No tenant 'nobody'."
    run("2026-09", wet_run=True)
    assert "closed already" in refusal("2026-09")
    assert Statement.objects.count() == 1
