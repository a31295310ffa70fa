"""The body of a plain django-q2 task: one agent call, as a project without the product would write it."""

from __future__ import annotations

from tests.bench.agents import call_once


def agent_call(port: int, number: int) -> str:
    """One call of the benchmark's agent."""
    return call_once(port, number)
