"""One small real call to a region, to see whether it works: paid for by a tenant, like any other call."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import ModelRequestParameters

from apps.audit import trail
from apps.costs import reserving
from apps.costs.prices import ModelPrice, UnknownModel, price_of
from apps.execution.errors import BudgetExhausted, Busy
from apps.execution.failover import verdict
from apps.execution.gate import CallContext, Gate
from apps.execution.governed import GovernedModel
from apps.execution.results import Spending
from apps.providers.clients import ModelClients
from apps.providers.directory import Endpoint
from apps.providers.errors import ProviderUnavailable
from apps.providers.models import Region
from apps.tenants.models import Tenant
from portal.batching import DatabaseThread
from portal.ids import uuid7
from portal.redaction import redacted

MAX_OUTPUT_TOKENS = 16
WITHIN_S = 30.0
PROMPT = "Answer with the word yes."
AGENT = "try-it"
"""What the ledger names as the agent."""


class CannotTry(Exception):
    """No call was made; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of the call. ``cost`` in nano-dollars: the whole reservation where nobody knows what it cost."""

    ok: bool
    text: str
    seconds: float
    input_tokens: int
    output_tokens: int
    cost: int


def try_region(region: Region, *, model: str, tenant: Tenant, by: trail.Actor, now: dt.datetime | None = None) -> Found:
    """Calls ``model`` (its name at the provider) in this region and no other, whatever its breaker says.

    The tenant's budgets decide and pay, and the call is audited. Raises CannotTry when it is not made.
    """
    name = f"{region.provider.name}:{model}"
    try:
        price = price_of(name, tenant_id=tenant.pk, at=now or timezone.now())
    except UnknownModel as unknown:
        raise CannotTry(str(unknown)) from unknown
    provider = region.provider
    endpoint = Endpoint(provider.name, provider.kind, region.name, region.base_url, provider.secret_name)
    try:
        found = asyncio.run(_call(endpoint, model, tenant, price))
    except (BudgetExhausted, Busy, ProviderUnavailable) as refusal:
        raise CannotTry(str(refusal)) from refusal
    with transaction.atomic():
        details = {
            "model": name,
            "ms": round(found.seconds * 1000),
            "input_tokens": found.input_tokens,
            "output_tokens": found.output_tokens,
            "cost_nano_usd": found.cost,
        }
        trail.record(
            by, "region:try", region, tenant_id=tenant.pk, success=found.ok, reason=found.text, details=details
        )
    return found


async def _call(endpoint: Endpoint, model: str, tenant: Tenant, price: ModelPrice) -> Found:
    thread, clients = DatabaseThread("try"), ModelClients(connections=1)
    written: list[asyncio.Future[object]] = []

    def later(work: object) -> asyncio.Future[object]:
        written.append(asyncio.ensure_future(thread.run(work)))  # type: ignore[arg-type]
        return written[-1]

    gate = Gate(
        lambda request: asyncio.ensure_future(thread.run(lambda: reserving.reserve([request], now=timezone.now())[0])),
        lambda settlement: later(lambda: reserving.settle([settlement], now=timezone.now())),
        lambda id: later(lambda: reserving.release([id])),
        patience_s=2.0,
    )
    spending = Spending()
    context = CallContext(
        tenant_id=tenant.pk,
        subject_id=None,
        swarm_id=None,
        task_id=None,
        attempt_id=uuid7(),
        agent=AGENT,
        model=price.model,
        price=price,
        expires_at=timezone.now() + dt.timedelta(seconds=2 * WITHIN_S),
        spending=spending,
    )
    ok, text, began = True, "", time.monotonic()
    try:
        governed = GovernedModel(clients.model(endpoint, model), gate, context, max_output_tokens=MAX_OUTPUT_TOKENS)
        began = time.monotonic()
        async with asyncio.timeout(WITHIN_S):
            answer = await governed.request([ModelRequest([UserPromptPart(PROMPT)])], None, ModelRequestParameters())
        text = _text_of(answer)
    except (BudgetExhausted, Busy, ProviderUnavailable):
        raise
    except Exception as error:
        ok, text = False, redacted(f"It {verdict(error)[1]}: {error}")[:500]
    finally:
        seconds = time.monotonic() - began
        if written:
            await asyncio.gather(*written)
        await clients.aclose()
        await thread.aclose()
    return Found(ok, text, seconds, spending.input_tokens, spending.output_tokens, spending.cost)


def _text_of(answer: ModelResponse) -> str:
    return " ".join(part.content for part in answer.parts if isinstance(part, TextPart))[:500]
