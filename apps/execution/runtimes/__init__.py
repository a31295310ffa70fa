"""How agents run: one small class for each runtime of a spec."""

from __future__ import annotations

from apps.execution.runtimes.base import AgentCall, AgentRuntime, AgentSettings
from apps.execution.runtimes.llm import LlmRuntime
from apps.execution.runtimes.python import PythonRuntime

__all__ = ["AgentCall", "AgentRuntime", "AgentSettings", "LlmRuntime", "PythonRuntime"]
