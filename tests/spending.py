"""Ledger entries for tests of the pages about spending, and what those pages must then say, counted in Python."""

from __future__ import annotations

import csv
import datetime as dt
import random
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.test import Client

from apps.costs.entries import NewEntry, write
from apps.costs.models import Kind, LedgerEntry
from apps.costs.prices import Rates
from apps.costs.rollups import roll
from apps.privacy.models import DataSubject
from apps.swarms.models import Swarm
from apps.tenants.models import Tenant, User
from portal.money import NANO
from tests.admin_rows import make_swarm

DAY = dt.date(2026, 11, 10)
"""Around this day the entries of :func:`varied` are."""
RATES = Rates(NANO // 2, 2 * NANO, NANO // 20, NANO)
MODELS = ("openai:gpt-4o", "simulated:small")
AGENTS = ("writer", "researcher")


def staff(user: User) -> Client:
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def spend(tenant: Tenant, amount: int = NANO, day: dt.date = DAY, **fields: Any) -> LedgerEntry:
    """One entry at noon of a day of the tenant's calendar."""
    at = dt.datetime.combine(day, dt.time(12), tenant.zone)
    fields = {"kind": Kind.LLM, "at": at, **fields}
    (entry_id,) = write([NewEntry(tenant_id=tenant.pk, amount=amount, **fields)], now=None)
    return LedgerEntry.objects.get(pk=entry_id)


def varied(tenants: Iterable[Tenant], count: int = 200, *, seed: int = 7) -> list[LedgerEntry]:
    """Entries of every kind over six weeks, for two swarms and two people of each tenant; half of them rolled up."""
    chance = random.Random(seed)
    entries: list[NewEntry] = []
    for tenant in tenants:
        swarms = [make_swarm(tenant, f"{tenant.slug}-{name}") for name in ("nightly", "nightly", "brief")]
        people = [DataSubject.objects.pseudonym(tenant.pk, f"{tenant.slug}-user-{n}") for n in (1, 2)]
        entries += [_some(tenant, swarms, people, chance) for _ in range(count)]
    chance.shuffle(entries)
    ids = write(entries[: len(entries) // 2], now=None)
    roll(now=dt.datetime(2026, 11, 24, tzinfo=dt.UTC), upto=ids[-1])
    ids += write(entries[len(entries) // 2 :], now=None)
    return list(LedgerEntry.objects.filter(pk__in=ids))


def _some(tenant: Tenant, swarms: list[Swarm], people: list[uuid.UUID], chance: random.Random) -> NewEntry:
    kind = chance.choice(list(Kind))
    is_call = kind in (Kind.LLM, Kind.ADJUSTMENT)
    return NewEntry(
        tenant_id=tenant.pk,
        kind=kind,
        amount=chance.randrange(1, 5 * NANO) * (-1 if kind == Kind.ADJUSTMENT else 1),
        at=dt.datetime(2026, 10, 20, tzinfo=dt.UTC) + dt.timedelta(seconds=chance.randrange(42 * 24 * 3600)),
        subject_id=chance.choice([None, *people]),
        swarm_id=chance.choice([None, *(swarm.pk for swarm in swarms)]),
        reservation_id=uuid.UUID(int=chance.getrandbits(128), version=4) if is_call else None,
        agent=chance.choice(AGENTS) if is_call else "",
        model=chance.choice(MODELS) if is_call else "",
        input_tokens=chance.randrange(1000) if is_call else 0,
        output_tokens=chance.randrange(1000) if is_call else 0,
        rates=RATES if kind == Kind.LLM else None,
        unsettled=kind == Kind.LLM and chance.random() < 0.2,
    )


def local_day(entry: LedgerEntry, zones: Mapping[uuid.UUID, dt.tzinfo]) -> dt.date:
    """The day of an entry in its tenant's calendar."""
    return entry.at.astimezone(zones[entry.tenant_id]).date()


def expected(entries: Iterable[LedgerEntry], holds: Callable[[LedgerEntry], bool]) -> dict[str, list[int]]:
    """Amount, number, input and output tokens of the entries that a condition holds for, by kind."""
    found: dict[str, list[int]] = {}
    for entry in entries:
        if holds(entry):
            line = found.setdefault(entry.kind, [0, 0, 0, 0])
            for place, value in enumerate((entry.amount, 1, entry.input_tokens, entry.output_tokens)):
                line[place] += value
    return found


def read_csv(response: Any) -> list[dict[str, str]]:
    text = b"".join(response.streaming_content if response.streaming else [response.content]).decode()
    return list(csv.DictReader(text.splitlines()))
