"""The swarms that the demo submits: the examples of the docs, varied, and a few that go wrong on purpose."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from django.conf import settings

Spec = dict[str, Any]

PEOPLE = tuple(f"customer-{number}" for number in range(20411, 20436))
PRIORITIES = ("low", "normal", "normal", "normal", "high", "critical")
TOPICS = (
    "electric cargo bikes in Germany",
    "home batteries in Spain",
    "coffee subscriptions in Canada",
    "hearing aids in Japan",
    "rooftop gardens in Brazil",
    "night trains in Europe",
)
QUESTIONS = ("pricing", "rivals", "demand", "rules", "suppliers", "channels")


def draws(chance: random.Random) -> Iterator[Spec]:
    """Specs without end; the same ones for the same seed."""
    while True:
        make = chance.choices((_example, _brief, _flaky, _faulty, _greedy), weights=(10, 6, 2, 1, 1))[0]
        spec = make(chance)
        spec["priority"] = chance.choice(PRIORITIES)
        if chance.random() < 0.6:
            spec["end_user"] = chance.choice(PEOPLE)
        else:
            spec.pop("end_user", None)
        yield spec


def replicas_of(spec: Mapping[str, Any]) -> int:
    """How many agents a spec asks for at once."""
    return sum(int(agent.get("replicas", 1)) for agent in spec["agents"].values())


@cache
def examples() -> tuple[Spec, ...]:
    """The examples of the docs; none where the docs are not installed."""
    folder = Path(settings.BASE_DIR) / "docs" / "examples"
    return tuple(yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml")))


def _example(chance: random.Random) -> Spec:
    """One of the docs' examples; its lists shortened by chance, so that no two runs look alike."""
    if not examples():
        return _brief(chance)
    spec = copy.deepcopy(chance.choice(examples()))
    for task in spec["tasks"]:
        items = task.get("for_each")
        if items and len(items) > 2:
            task["for_each"] = chance.sample(items, chance.randint(2, len(items)))
    return spec


def _agent(model: str, instructions: str, **more: Any) -> Spec:
    return {"runtime": "llm", "model": f"simulated:{model}", "instructions": instructions, **more}


def _brief(chance: random.Random, model: str = "small", name: str = "topic-brief") -> Spec:
    topic = chance.choice(TOPICS)
    return {
        "swarm": name,
        "budget_usd": "0.50",
        "estimated_duration_s": 15,
        "agents": {
            "researcher": _agent(model, "Find facts. Be brief.", replicas=3, max_output_tokens=250),
            "writer": _agent("large", "Write for people who have two minutes.", max_output_tokens=400, files=True),
        },
        "tasks": [
            {
                "id": "gather",
                "agent": "researcher",
                "for_each": chance.sample(QUESTIONS, chance.randint(2, 6)),
                "prompt": f"The market for {topic}: collect three facts on {{{{ item }}}}.",
            },
            {
                "id": "brief",
                "agent": "writer",
                "needs": ["gather"],
                "prompt": f"Write half a page on {topic}. Save it as brief.md. Use: {{{{ results.gather }}}}",
            },
        ],
    }


def _flaky(chance: random.Random) -> Spec:
    """Every first call fails, and not for its region's fault, so its tasks wait and run again."""
    spec = _brief(chance, model="fail-once", name="flaky-brief")
    spec["agents"]["researcher"]["retry"] = {"max_retries": 3, "base_delay_s": 4, "factor": 2, "max_delay_s": 10}
    return spec


def _faulty(chance: random.Random) -> Spec:
    """A model that takes no request: the swarm fails, and the last task is never made."""
    return _brief(chance, model="fail-bad-request", name="broken-import")


def _greedy(chance: random.Random) -> Spec:
    """It asks more than its run's budget has, and is stopped by it."""
    spec = _brief(chance, name="greedy-brief")
    spec["budget_usd"] = "0.0012"
    spec["tasks"][0]["for_each"] = list(QUESTIONS) * 3
    return spec
