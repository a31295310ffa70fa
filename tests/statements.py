"""What the tests of exports share: a month of every kind of ledger entry."""

from __future__ import annotations

import csv
import datetime as dt
import io
import uuid
from decimal import Decimal
from typing import Any

from apps.costs.entries import NewEntry, write
from apps.costs.exports.extract import Extract
from apps.costs.models import Kind, LedgerEntry
from apps.costs.prices import MTOK, Rates
from apps.tenants.models import Tenant

SEPTEMBER = dt.datetime(2026, 9, 3, 10, tzinfo=dt.UTC)
OCTOBER = dt.datetime(2026, 10, 9, 8, 7, 6, 543_210, tzinfo=dt.UTC)
RATES = Rates(2_500_000_000, 10_000_000_000, 1_250_000_000, 3_125_000_001)
FREE = Rates(0, 0, 0, 0)
MODEL = "openai:gpt-4o"
SWARM = uuid.UUID(int=0x5A)
PERSON = uuid.UUID(int=0x8842)


def entry(tenant: Tenant, **fields: Any) -> NewEntry:
    """A new entry of October, of the agent writer in a swarm, for a person."""
    usual = {"kind": Kind.LLM, "amount": 0, "at": OCTOBER, "agent": "writer", "swarm_id": SWARM, "subject_id": PERSON}
    return NewEntry(tenant_id=tenant.pk, **{**usual, **fields})


def call(tenant: Tenant, tokens: tuple[int, int, int, int], rates: Rates = RATES, **fields: Any) -> NewEntry:
    """A settled model call of so many input, output, cache read and cache write tokens; input includes the cache."""
    fresh = tokens[0] - tokens[2] - tokens[3]
    parts = zip((fresh, *tokens[1:]), rates, strict=True)
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    amount = -(-sum(count * rate for count, rate in parts) // MTOK)
    return entry(tenant, amount=amount, rates=rates, model=MODEL, **dict(zip(names, tokens, strict=True)), **fields)


def one_of_each(tenant: Tenant) -> list[int]:
    """Writes a month with every kind of entry, and one of the month before that is corrected in it; October's ids."""
    (wrong,) = write([call(tenant, (800, 80, 0, 0), at=SEPTEMBER)], now=OCTOBER)
    ids = write(
        [
            call(tenant, (1_001, 13, 0, 0), task_id=uuid.UUID(int=0x7A)),
            call(tenant, (1_001, 13, 7, 3)),
            call(tenant, (10, 5, 0, 0), FREE, agent="=cmd|'calc'!A0", swarm_id=None, run="night 7", external_id="e"),
            entry(tenant, amount=5_000, unsettled=True, model=MODEL),
            entry(tenant, amount=7_001, input_tokens=3, output_tokens=4, model="own:model", swarm_id=None, agent=""),
            entry(
                tenant,
                kind=Kind.INFRASTRUCTURE,
                amount=12_500,
                quantity=Decimal("0.125"),
                unit_price=100_000,
                agent="",
            ),
            entry(
                tenant, kind=Kind.STORAGE, amount=1, quantity=Decimal("0.000000001"), unit_price=23_000_000, agent=""
            ),
            entry(tenant, kind=Kind.ADJUSTMENT, amount=-50, corrects=wrong, note="Wrong price", model=MODEL),
            entry(tenant, kind=Kind.ADJUSTMENT, amount=500, note='Goodwill, "as agreed"\nby phone', swarm_id=None),
        ],
        now=OCTOBER,
    )
    late = entry(tenant, kind=Kind.ADJUSTMENT, amount=-4_000, corrects=ids[3], note="Settled late", model=MODEL)
    return [*ids, *write([late], now=OCTOBER)]


def october_of(tenant: Tenant, **changes: object) -> Extract:
    """A tenant's October, closed, as exports are given it."""
    start = dt.datetime(2026, 10, 1, tzinfo=tenant.zone)
    usual = {
        "tenant_id": tenant.pk,
        "tenant_slug": tenant.slug,
        "tenant_name": tenant.name,
        "time_zone": tenant.time_zone,
        "period": "2026-10",
        "starts_at": start.astimezone(dt.UTC),
        "ends_at": start.replace(month=11).astimezone(dt.UTC),
        "is_closed": True,
        "statement_id": str(uuid.UUID(int=1)),
    }
    return Extract(**{**usual, **changes})  # type: ignore[arg-type]


def owed(tenant: Tenant, start: dt.datetime, end: dt.datetime) -> Decimal:
    """The sum of the ledger in USD."""
    nano = LedgerEntry.objects.filter(tenant_id=tenant.pk).spent_between(start, end)
    return Decimal(nano).scaleb(-9)


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    return list(csv.DictReader(io.StringIO(text, newline="")))
