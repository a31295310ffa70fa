"""Specs for tests, and what an installation needs to take them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from apps.costs.models import Price
from apps.providers.models import Provider, Region

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)

BRIEF = """\
swarm: market-brief
priority: high
budget_usd: 2.50
end_user: user-8842
estimated_duration_s: 120
agents:
  researcher:
    runtime: llm
    model: simulated:small
    instructions: Find facts. Be brief.
    replicas: 4
    memory_gb: 2
    cpu: 0.5
    max_output_tokens: 300
    timeout_s: 60
    retry: {max_retries: 3, base_delay_s: 5, factor: 3, max_delay_s: 60}
  writer: {runtime: llm, model: simulated:large, instructions: Write plainly., max_output_tokens: 600}
tasks:
  - id: gather
    agent: researcher
    for_each: [pricing, rivals, demand]
    prompt: "Collect three facts on {{ item }}."
  - id: brief
    agent: writer
    needs: [gather]
    prompt: "Write one page from: {{ results.gather }}"
"""


def spec(**changes: Any) -> dict[str, Any]:
    """A small valid spec: one agent, one task; with top-level keys changed, or taken out where they are None."""
    whole = {
        "swarm": "small",
        "agents": {"worker": {"model": "simulated:small"}},
        "tasks": [{"id": "do", "agent": "worker", "prompt": "Do it."}],
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not None}


def task(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": name, "agent": "worker", "prompt": "Do it.", **changes}


def simulated() -> Provider:
    """The provider ``simulated`` with prices for its models small and large."""
    provider = Provider.objects.create(name="simulated")
    Region.objects.create(provider=provider, name="sim-east", base_url="http://127.0.0.1:9/v1")
    for model, factor in (("small", 1), ("large", 10)):
        Price.objects.create(
            provider="simulated",
            model=model,
            input_per_mtok=150_000_000 * factor,
            output_per_mtok=600_000_000 * factor,
            effective_from=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        )
    return provider
