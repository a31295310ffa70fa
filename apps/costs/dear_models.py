"""Finds simple work on dear models: agents whose calls are short, where a cheaper model of the provider is at hand."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from django.db import connection
from django.db.models import Q

from apps.costs.advising import Finding, Thresholds
from apps.costs.models import AdviceKind, Price
from apps.costs.price_book import PriceBook
from apps.costs.prices import UnknownModel
from apps.costs.whatif import Replacement, Scenario, simulate
from apps.tenants.models import Tenant

AT_MOST = 0.7
"""A model counts as cheaper when the same tokens cost at most this share."""


@dataclass(frozen=True, slots=True)
class Work:
    """The calls of one agent to one model in the window."""

    tenant_id: uuid.UUID
    agent: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    amount: int
    first: dt.datetime
    last: dt.datetime
    is_short: bool
    sample_ids: list[int]


def find_dear_models(now: dt.datetime, thresholds: Thresholds) -> Iterator[Finding]:
    """One pass over the ledger of the window, and a what-if for each tenant that could save enough."""
    start = now - thresholds.window
    works = _works(start, now, thresholds)
    used: dict[uuid.UUID, set[str]] = defaultdict(set)
    for work in works:
        used[work.tenant_id].add(work.model)
    simple: dict[uuid.UUID, list[Work]] = defaultdict(list)
    for work in works:
        if work.is_short and work.calls >= thresholds.least_calls:
            simple[work.tenant_id].append(work)
    for tenant in Tenant.objects.filter(pk__in=simple):
        cheaper = _cheaper(tenant, simple[tenant.pk], used[tenant.pk], now=now)
        yield from _findings(tenant, simple[tenant.pk], cheaper, start, now)


def _works(start: dt.datetime, end: dt.datetime, thresholds: Thresholds) -> list[Work]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT e.tenant_id, e.agent, e.model, count(*), sum(e.input_tokens)::bigint, sum(e.output_tokens)::bigint,
                sum(e.amount)::bigint, min(e.at), max(e.at),
                count(*) FILTER (WHERE e.input_tokens > %(input)s OR e.output_tokens > %(output)s) * 10 < count(*),
                (array_agg(e.id))[1:5]
            FROM tenants_tenant t JOIN costs_ledgerentry e ON e.tenant_id = t.id
            WHERE e.kind = 'llm' AND e.at >= %(start)s AND e.at < %(end)s AND e.agent <> ''
                AND e.input_tokens + e.output_tokens > 0
                -- Whole local days, as the what-if that follows counts.
                AND e.at >= ((%(start)s AT TIME ZONE t.time_zone)::date + 1)::timestamp AT TIME ZONE t.time_zone
            GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            """,
            {"start": start, "end": end, "input": thresholds.short_input, "output": thresholds.short_output},
        )
        return [Work(*row) for row in cursor.fetchall()]


def _cheaper(
    tenant: Tenant, works: Iterable[Work], used: Iterable[str], *, now: dt.datetime
) -> Mapping[tuple[str, str], str]:
    """For (agent, model) the cheapest model of its provider that the tenant uses or that has a price of our own."""
    own = Price.objects.filter(Q(tenant=None) | Q(tenant=tenant), effective_from__lte=now)
    names = {*used, *(str(price) for price in own.only("provider", "model"))}
    book = PriceBook((tenant.pk, name) for name in names)

    def cost(work: Work, model: str) -> int | None:
        try:
            price = book.price_of(model, tenant_id=tenant.pk, at=now)
        except UnknownModel:
            return None
        # Per call, as prices may depend on the size of one.
        return work.calls * price.cost(work.input_tokens // work.calls, work.output_tokens // work.calls)

    found = {}
    for work in works:
        provider = work.model.partition(":")[0]
        mine = cost(work, work.model)
        others = [(cost(work, name), name) for name in names if name.partition(":")[0] == provider]
        known = sorted((amount, name) for amount, name in others if amount is not None and name != work.model)
        # What is free is a model of a test, or a mistake.
        priced = [(amount, name) for amount, name in known if amount > 0]
        if mine and priced and priced[0][0] <= mine * AT_MOST:
            found[work.agent, work.model] = priced[0][1]
    return found


def _findings(
    tenant: Tenant, works: Iterable[Work], cheaper: Mapping[tuple[str, str], str], start: dt.datetime, end: dt.datetime
) -> Iterator[Finding]:
    if not cheaper:
        return
    replacements = tuple(Replacement(model, new, agent) for (agent, model), new in cheaper.items())
    first, last = (moment.astimezone(tenant.zone).date() for moment in (start, end))
    outcome = simulate(Scenario(tenant, first + dt.timedelta(days=1), last, replacements))
    saved: dict[tuple[str, str], int] = defaultdict(int)
    for cell in outcome.cells:
        saved[cell.agent, cell.model] += cell.actual - cell.hypothetical
    for work in works:
        new = cheaper.get((work.agent, work.model))
        if new is None:
            continue
        yield Finding(
            tenant_id=tenant.pk,
            kind=AdviceKind.DEAR_MODEL,
            key=f"{work.agent} {work.model}",
            text=(
                f"{work.agent} made {work.calls:,} short calls to {work.model} "
                f"({work.input_tokens // work.calls:,} tokens in and {work.output_tokens // work.calls:,} out on "
                f"average). {new} costs less for the same tokens."
            ),
            saving=saved[work.agent, work.model],
            first=work.first,
            last=work.last,
            entries=work.calls,
            query={"kind": "llm", "agent": work.agent, "model": work.model},
            facts={"agent": work.agent, "model": work.model, "new_model": new},
            sample_ids=sorted(work.sample_ids),
        )
