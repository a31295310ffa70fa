"""The past that the demo begins with: something to look at, charged to no budget, and written once."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import random
from collections import Counter
from unittest.mock import Mock

import pytest
from django.core.management import call_command
from django.utils import timezone

from apps.costs import consistency, reports, seeding
from apps.costs.entries import NewEntry, write
from apps.costs.grouping import By
from apps.costs.models import BudgetPeriod, Kind, LedgerEntry
from apps.demo import history, swarms
from apps.observability import watchdog
from apps.privacy.models import DataSubject
from apps.tenants.models import Tenant


def seed() -> str:
    out = io.StringIO()
    call_command("seed_demo", password="correct horse", stdout=out)
    return out.getvalue()


def test_a_fresh_desk_has_a_past_to_look_at_and_is_whole(own_database: str) -> None:
    assert f"a made-up history of {history.ENTRIES:,} ledger entries" in seed()
    now = timezone.now()
    entries = list(LedgerEntry.objects.all())
    assert len(entries) == history.ENTRIES
    slugs = dict(Tenant.objects.values_list("pk", "slug"))
    spread = Counter(slugs[entry.tenant_id] for entry in entries)
    assert spread["acme"] > spread["widget"] > spread["trial"] > 500
    assert {entry.kind for entry in entries} == set(Kind.values)
    assert len({entry.model for entry in entries} - {""}) > 4
    people = dict(DataSubject.objects.values_list("pk", "reference"))
    assert len({people[entry.subject_id] for entry in entries if entry.subject_id}) > 10
    days = {entry.at.date() for entry in entries}
    assert (min(days), max(days)) == (now.date() - dt.timedelta(days=80), now.date() - dt.timedelta(days=1))
    assert max(entry.at for entry in entries) < now

    # No act of advice on one of these agents is in the way of the demo's swarms.
    agents = {entry.agent for entry in entries} - {""}
    specs = list(itertools.islice(swarms.draws(random.Random(1)), 50))
    assert len(agents) > 4
    assert not agents & {name for spec in specs for name in spec["agents"]}

    # Budgets begin with the demo: nothing of its past is charged to them.
    assert not any(entry.period_ids for entry in entries)
    assert not BudgetPeriod.objects.exists()
    assert watchdog.run(now=now).findings == {}
    assert consistency.rollups_differ_from_ledger() == []

    # The report has all of it, and names what it shows. A tenant's days begin up to a day before those of UTC.
    day = dt.timedelta(days=1)
    runs = reports.grouped(list(slugs), min(days) - day, max(days) + day, By.SWARM, top=10)
    assert runs.amount == sum(entry.amount for entry in entries)
    assert all(group.label.endswith(" (elsewhere)") for group in runs.groups if group.key)

    assert "Nothing to do" in seed()
    assert LedgerEntry.objects.count() == history.ENTRIES


def test_a_past_is_whole_or_not_there_and_a_ledger_in_use_gets_none(
    own_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_command("seed_demo", history=False, verbosity=0)
    with monkeypatch.context() as patch:
        patch.setattr(seeding, "_correct", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            history.write_history(timezone.now())
    assert not LedgerEntry.objects.exists()
    assert not DataSubject.objects.exists()

    write([NewEntry(tenant_id=Tenant.objects.get(slug="acme").pk, kind=Kind.LLM, amount=10)], now=timezone.now())
    assert history.write_history(timezone.now()) == 0
    assert LedgerEntry.objects.count() == 1
