"""What of a spec may not work although nothing forbids it: models that their provider does not list."""

from __future__ import annotations

from dataclasses import dataclass

from apps.providers import catalogue
from apps.swarms.models import Swarm


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something to look at again; ``path`` is its place in the spec. The swarm was submitted all the same."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def doubts_about(swarm: Swarm) -> list[Doubt]:
    """What whoever submitted the swarm should be told, in the order of the spec's agents. One query at most."""
    overridden = {name: made["model"][1] for name, made in swarm.overrides.items() if "model" in made}
    models = {
        name: overridden.get(name) or agent.get("model")
        for name, agent in swarm.spec.get("agents", {}).items()
        if agent.get("model")
    }
    why = catalogue.unlisted(set(models.values()))
    return [
        Doubt(
            f"agents.{name}.model",
            f"{why[model]} An agent override sets this model." if name in overridden else why[model],
        )
        for name, model in models.items()
        if model in why
    ]
