"""A made-up history of spending, for benchmarks and for trying reports out: tenants of unequal size, seasons, growth.

Written by COPY, past :mod:`apps.costs.entries`: these entries belong to no budget and to no swarm that ran.
"""

from __future__ import annotations

import bisect
import datetime as dt
import itertools
import math
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from django.db import IntegrityError, connection, transaction
from psycopg.copy import QueuedLibpqWriter

from apps.costs import rollups
from apps.costs.models import LedgerEntry, run_id
from apps.costs.prices import ModelPrice
from apps.costs.summing import TABLES
from apps.privacy.models import DataSubject
from apps.tenants.models import Tenant
from portal.money import NANO
from portal.partitions import make_partitions

SLUG = "seeded-{:04}"
COPIED_AT_ONCE = 200_000
MODELS = {
    "openai:gpt-4o-mini": (0.15, 0.60, 0.075),
    "openai:gpt-4.1-mini": (0.40, 1.60, 0.10),
    "openai:gpt-4.1": (2.00, 8.00, 0.50),
    "anthropic:claude-haiku-4-5": (1.00, 5.00, 0.10),
    "anthropic:claude-sonnet-4-5": (3.00, 15.00, 0.30),
    "simulated:small": (0.15, 0.60, 0.15),
    "simulated:large": (2.50, 10.00, 2.50),
}
"""USD for a million input tokens, output tokens, and tokens read from the provider's cache."""
AGENTS = ["researcher", "writer", "reviewer", "planner", "coder", "triage", "summariser", "translator", "extractor"]
ZONES = {
    "America/New_York": -5,
    "Europe/Berlin": 1,
    "UTC": 0,
    "Asia/Tokyo": 9,
    "America/Los_Angeles": -8,
    "Asia/Kolkata": 5,
}
"""Time zones, with about the hours that they are ahead of UTC."""
HOURS = [1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 20, 19, 15, 17, 20, 19, 17, 13, 9, 7, 5, 4, 3, 2]
"""How busy each hour of a working person's day is."""
WEEKDAYS = [1.0, 1.08, 1.1, 1.05, 0.95, 0.4, 0.35]
AGENT_HOUR, GB_MONTH = NANO // 50, NANO // 40
UNSETTLED_EACH = 400
"""One call in so many was charged as reserved; two in five of these were corrected later."""

_COLUMNS = (
    "at, tenant_id, swarm_id, subject_id, task_id, attempt_id, reservation_id, agent, kind, model, input_tokens, "
    "output_tokens, cache_read_tokens, cache_write_tokens, input_per_mtok, output_per_mtok, cache_read_per_mtok, "
    "cache_write_per_mtok, quantity, unit_price, amount, unsettled, period_ids, external_id, run, note"
)
_NO_TOKENS = "\t0\t0\t0\t0\t\\N\t\\N\t\\N\t\\N"
"""Of a row: its model, tokens and rates, where it has none."""


class CannotSeed(Exception):
    """The ledger cannot take this history; the text says why."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Whose history: tenants that exist, by their slugs, the one that spends most first.

    What was spent for their ``people`` went to ``agents`` elsewhere, in runs that are called by ``jobs`` and the day.
    """

    slugs: Sequence[str]
    agents: Sequence[str]
    people: Sequence[str]
    jobs: Sequence[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much history: ``rows`` entries over the ``days`` that end with ``last``.

    It is that of a ``cast``, or of so many ``tenants`` that are made for it, with swarms that were here once.
    """

    rows: int
    tenants: int
    days: int
    last: dt.date
    seed: int = 1
    cast: Cast | None = None

    @property
    def first(self) -> dt.date:
        return self.last - dt.timedelta(days=self.days - 1)


@dataclass(frozen=True, slots=True)
class _Seeded:
    """A tenant with what its swarms are made of."""

    id: str
    ahead: int
    users: list[str]
    calls: list[list[str]]  # for each of its agents, calls as they stand in a row
    jobs: Sequence[str] = ()


def seed(plan: Plan, *, progress: Callable[[str, int, int], None], now: dt.datetime) -> None:
    """Makes tenants, partitions, entries and their roll-ups. ``progress(what, done, of)`` is told how it goes.

    What is interrupted leaves whole entries, which are rolled up with the next ones. Raises CannotSeed.
    """
    rng = random.Random(plan.seed)
    months = (plan.last.year - plan.first.year) * 12 + plan.last.month - plan.first.month
    try:
        with transaction.atomic():
            make_partitions(LedgerEntry, today=plan.first, ahead=months)
    except IntegrityError as error:
        raise CannotSeed(
            f"The ledger's default partition holds entries of {plan.first:%Y-%m} or later: no partition can be made."
        ) from error
    tenants = _make_tenants(plan, rng)
    corrections = plan.rows // 1000
    done = 0
    for lines in _packed(_rows(plan, plan.rows - corrections, tenants, rng)):
        _copy(lines)
        done += len(lines)
        progress("entries written", done, plan.rows)
    _correct(corrections, [tenant.id for tenant in tenants], plan)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE costs_ledgerentry")
    rolled = 0
    while more := rollups.roll(now=now, batch=COPIED_AT_ONCE, batches=1):
        rolled += more
        progress("entries rolled up", min(rolled, plan.rows), plan.rows)
    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"ANALYZE {table.name}")


def _make_tenants(plan: Plan, rng: random.Random) -> list[_Seeded]:
    """The tenants, the largest first, each with end users in proportion to its size. Those that are there are kept."""
    slugs = plan.cast.slugs if plan.cast else [SLUG.format(number) for number in range(1, plan.tenants + 1)]
    if not plan.cast:
        zones = list(ZONES)
        Tenant.objects.bulk_create(
            [
                Tenant(slug=slug, name=f"Seeded {number:04}", time_zone=zones[number % len(zones)])
                for number, slug in enumerate(slugs, start=1)
            ],
            ignore_conflicts=True,
        )
    rows = {tenant.slug: tenant for tenant in Tenant.objects.filter(slug__in=slugs)}
    calls = {model: _calls(model, rng) for model in MODELS}
    names = plan.cast.agents if plan.cast else AGENTS
    made = []
    for place, slug in enumerate(slugs):
        tenant = rows[slug]
        agents = rng.sample(names, rng.randint(3, min(8, len(names))))
        models = rng.sample(list(MODELS), rng.randint(2, 5))
        made.append(
            _Seeded(
                id=str(tenant.pk),
                ahead=ZONES.get(tenant.time_zone, 0),
                users=_make_users(tenant, plan, place),
                calls=[[f"{agent}\t{call}" for call in calls[rng.choice(models)]] for agent in agents],
                jobs=plan.cast.jobs if plan.cast else (),
            )
        )
    return made


def _make_users(tenant: Tenant, plan: Plan, place: int) -> list[str]:
    """Ids of the end users that a tenant has then."""
    if plan.cast:
        people = plan.cast.people[: max(3, len(plan.cast.people) // (place + 1))]
    else:
        people = [f"user-{n:05}" for n in range(max(3, min(2000, plan.rows // 2000) // (place + 1)))]
    DataSubject.objects.bulk_create(
        [DataSubject(tenant_id=tenant.pk, reference=name) for name in people], ignore_conflicts=True
    )
    users = DataSubject.objects.filter(tenant_id=tenant.pk).order_by("reference").values_list("pk", flat=True)
    return [str(user) for user in users]


def _calls(model: str, rng: random.Random) -> list[str]:
    """Calls of a model as they stand in a row, from the kind on: mostly short ones, a few very long."""
    price_in, price_out, read = (round(usd * NANO) for usd in MODELS[model])
    price = ModelPrice(model, price_in, price_out, read)
    calls = []
    for _ in range(500):
        tokens_in = min(int(rng.lognormvariate(7.3, 0.9)), 120_000) + 20
        tokens_out = min(int(rng.lognormvariate(5.6, 0.8)), 8_000) + 1
        cached = tokens_in // 2 if rng.random() < 0.2 else 0
        amount = price.cost(tokens_in, tokens_out, cache_read_tokens=cached)
        calls.append(
            f"llm\t{model}\t{tokens_in}\t{tokens_out}\t{cached}\t0\t{price_in}\t{price_out}\t{read}\t{price_in}"
            f"\t\\N\t\\N\t{amount}"
        )
    return calls


def _rows(plan: Plan, count: int, tenants: Sequence[_Seeded], rng: random.Random) -> Iterator[str]:
    """Exactly ``count`` rows for COPY, in the order of their days, and within a day of their time."""
    sizes = list(itertools.accumulate(1 / (place + 1) ** 0.9 for place in range(len(tenants))))
    hours = list(itertools.accumulate(HOURS))
    weights = list(
        itertools.accumulate(
            WEEKDAYS[(plan.first + dt.timedelta(days=n)).weekday()]
            * (1 + 1.2 * n / plan.days)
            * (1 + 0.15 * math.sin(n / 365 * math.tau))
            * rng.uniform(0.9, 1.1)
            for n in range(plan.days)
        )
    )
    written = 0
    for n, weight in enumerate(weights):
        due = round(count * weight / weights[-1]) - written
        day = dt.datetime.combine(plan.first + dt.timedelta(days=n), dt.time(), dt.UTC)
        rows = _storage(tenants[: due // 20], day, rng)
        while len(rows) < due:
            tenant = tenants[bisect.bisect(sizes, rng.random() * sizes[-1])]
            hour = (bisect.bisect(hours, rng.random() * hours[-1]) - tenant.ahead) % 24
            rows += _swarm(tenant, day, hour * 3600 + rng.random() * 3600, rng)
        del rows[due:]
        written += due
        rows.sort()
        for _, row in rows:
            yield row


def _storage(tenants: Sequence[_Seeded], day: dt.datetime, rng: random.Random) -> list[tuple[float, str]]:
    rows = []
    for place, tenant in enumerate(tenants):
        months = rng.uniform(20, 60) / (place + 1) / 30
        rows.append(
            (
                0.0,
                f"{day:%Y-%m-%d %H:%M:%S}+00\t{tenant.id}\t\\N\t\\N\t\\N\t\\N\t\\N\t\tstorage\t{_NO_TOKENS}"
                f"\t{months:.9f}\t{GB_MONTH}\t{math.ceil(months * GB_MONTH)}\tf\t{{}}\t\t\tartifacts\n",
            )
        )
    return rows


def _swarm(tenant: _Seeded, day: dt.datetime, start: float, rng: random.Random) -> list[tuple[float, str]]:
    """The calls of one swarm and the agent-hours that it held, each with its second of the day."""
    random_bits, choice = rng.getrandbits, rng.choice
    stamp = f"{int(day.timestamp() * 1000 + start * 1000):012x}7"
    user = choice(tenant.users) if random_bits(2) else "\\N"
    swarm_id, run = f"{stamp}{random_bits(76):019x}", ""
    if tenant.jobs:
        run = f"{choice(tenant.jobs)} {day:%Y-%m-%d}"
        swarm_id = str(run_id(uuid.UUID(tenant.id), run))
    ids = f"{tenant.id}\t{swarm_id}"
    agents = rng.sample(tenant.calls, min(len(tenant.calls), rng.randint(1, 4)))
    rows, date, at = [], f"{day:%Y-%m-%d}", start
    for _ in range(rng.randint(12, 60)):
        at += rng.random() * 40
        if at >= 86_399:
            break
        whole = int(at)
        clock = f"{date} {whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{int((at - whole) * 1e6):06}+00"
        task, attempt, call = random_bits(76), random_bits(76), random_bits(76)
        unsettled = "t" if call % UNSETTLED_EACH == 0 else "f"
        work = "\\N\t\\N" if run else f"{stamp}{task:019x}\t{stamp}{attempt:019x}"
        rows.append(
            (
                at,
                f"{clock}\t{ids}\t{user}\t{work}\t{stamp}{call:019x}"
                f"\t{choice(choice(agents))}\t{unsettled}\t{{}}\t\t{run}\t\n",
            )
        )
    held = round(len(agents) * (at - start) / 3600, 9)
    clock = f"{date} {int(start) // 3600:02}:{int(start) // 60 % 60:02}:{int(start) % 60:02}+00"
    rows.append(
        (
            start,
            f"{clock}\t{ids}\t\\N\t\\N\t\\N\t\\N\t\tinfrastructure\t{_NO_TOKENS}"
            f"\t{held:.9f}\t{AGENT_HOUR}\t{math.ceil(held * AGENT_HOUR)}\tf\t{{}}\t\t{run}\t\n",
        )
    )
    return rows


def _packed(rows: Iterator[str]) -> Iterator[list[str]]:
    while pack := list(itertools.islice(rows, COPIED_AT_ONCE)):
        yield pack


def _copy(lines: Sequence[str]) -> None:
    """Writes rows in a transaction of their own; a thread sends them while the next ones are put together."""
    connection.ensure_connection()
    with connection.cursor() as cursor:
        writer = QueuedLibpqWriter(cursor.cursor)
        with cursor.copy(f"COPY costs_ledgerentry ({_COLUMNS}) FROM STDIN", writer=writer) as copy:
            for start in range(0, len(lines), 500):
                copy.write("".join(lines[start : start + 500]))


def _correct(count: int, tenant_ids: Sequence[str], plan: Plan) -> None:
    """Corrects ``count`` unsettled charges, as a late settlement does: the call cost less than was reserved."""
    columns = "tenant_id, swarm_id, subject_id, task_id, attempt_id, reservation_id, agent, model, run"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO costs_ledgerentry (at, {columns}, kind, amount, corrects, input_tokens, output_tokens,
                cache_read_tokens, cache_write_tokens, unsettled, period_ids, external_id, note)
            SELECT at + interval '90 seconds', {columns}, 'adjustment', -(amount * 3 / 5), id, 0, 0, 0, 0, false,
                '{{}}', '', 'Settled after its lease had ended.'
            FROM costs_ledgerentry e
            WHERE unsettled AND at >= %(first)s AND at < %(after)s AND tenant_id = ANY(%(tenants)s::uuid[])
            AND NOT EXISTS (SELECT FROM costs_ledgerentry c WHERE c.corrects = e.id)
            ORDER BY at, id LIMIT %(count)s
            """,
            {
                "first": dt.datetime.combine(plan.first, dt.time(), dt.UTC),
                "after": dt.datetime.combine(plan.last + dt.timedelta(days=1), dt.time(), dt.UTC),
                "tenants": [uuid.UUID(id) for id in tenant_ids],
                "count": count,
            },
        )
