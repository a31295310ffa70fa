"""What every runtime is given, and what it must do."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol

from apps.execution.artifacts.saving import AttemptFiles
from apps.execution.gate import CallContext, Gate


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """An agent as its swarm specified it."""

    id: uuid.UUID
    name: str
    runtime: str
    model: str
    instructions: str
    max_output_tokens: int
    timeout_s: float
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def saves_files(self) -> bool:
        """Whether its model is given the tool to save files."""
        return bool(self.options.get("files"))


@dataclass(slots=True)
class AgentCall:
    """One attempt at a task. A runtime adds to ``notes`` what the attempt ran with (region, settings); it is kept.

    ``files`` is what it may save files with; None where its agent makes none.
    """

    agent: AgentSettings
    prompt: str
    item: Any
    attempt: int
    context: CallContext | None
    notes: dict[str, Any] = field(default_factory=dict)
    files: AttemptFiles | None = None


class AgentRuntime(Protocol):
    """Runs one attempt and answers with its result, which must be JSON. Failures are exceptions (see ``recovery``)."""

    async def run(self, call: AgentCall, gate: Gate) -> Any: ...
