"""The agents of the benchmark, as plain pydantic-ai: what the product governs, without the product."""

from __future__ import annotations

import asyncio
import uuid

from pydantic_ai import Agent
from pydantic_ai.settings import ModelSettings

from apps.providers.clients import ModelClients
from apps.providers.directory import Endpoint

INSTRUCTIONS = "Find facts. Be brief."
PROMPT = "Collect three facts on item {}."
MAX_OUTPUT_TOKENS = 300


def endpoint(port: int) -> Endpoint:
    """The simulator as a region."""
    return Endpoint("simulated", "openai_compatible", "bench", f"http://127.0.0.1:{port}/v1", "")


async def run_bare(port: int, first: int, count: int, concurrency: int) -> None:
    """Runs ``count`` agents, ``concurrency`` at once: no queue, no budget, no database."""
    clients = ModelClients(connections=concurrency)
    agent = Agent(instructions=INSTRUCTIONS, model_settings=ModelSettings(max_tokens=MAX_OUTPUT_TOKENS))
    model = clients.model(endpoint(port), "small")
    turns = asyncio.Semaphore(concurrency)

    async def one(number: int) -> None:
        async with turns:
            await agent.run(PROMPT.format(number), model=model)

    await asyncio.gather(*(one(number) for number in range(first, first + count)))
    await clients.aclose()


def call_once(port: int, number: int) -> str:
    """One agent call: the body of a plain django-q2 task."""

    async def run() -> str:
        clients = ModelClients(connections=1)
        agent = Agent(instructions=INSTRUCTIONS, model_settings=ModelSettings(max_tokens=MAX_OUTPUT_TOKENS))
        try:
            return (await agent.run(PROMPT.format(number), model=clients.model(endpoint(port), "small"))).output
        finally:
            await clients.aclose()

    return asyncio.run(run())


def spec(tasks: int, replicas: int, name: str = "bench", runtime: str = "llm") -> dict[str, object]:
    """A swarm of that many independent tasks."""
    return {
        "swarm": f"{name}-{uuid.uuid4().hex[:6]}",
        "agents": {
            "researcher": {
                "runtime": runtime,
                "model": "simulated:small",
                "instructions": INSTRUCTIONS,
                "replicas": replicas,
                "memory_gb": 0.1,
                "cpu": 0.01,
                "max_output_tokens": MAX_OUTPUT_TOKENS,
            }
        },
        "tasks": [
            {
                "id": "collect",
                "agent": "researcher",
                "for_each": list(range(tasks)),
                "prompt": "Collect three facts on item {{ item }}.",
            }
        ],
    }
