"""The ``python`` runtime: a callable of this installation, registered by name."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from apps.execution.errors import RuntimeMisconfigured
from apps.execution.gate import Gate
from apps.execution.runtimes.base import AgentCall
from apps.swarms.runtimes import callables


class PythonRuntime:
    """Calls ``callable(prompt, item)``: coroutine functions in the event loop, plain ones in a thread."""

    async def run(self, call: AgentCall, gate: Gate) -> Any:
        """What the callable returned. Raises RuntimeMisconfigured when this worker does not know the name."""
        name = str(call.agent.options.get("callable", ""))
        function = callables.get(name)
        if function is None:
            raise RuntimeMisconfigured(f"This worker has no callable {name!r}: register it in an installed app.")
        if inspect.iscoroutinefunction(function):
            return await function(call.prompt, call.item)
        return await asyncio.to_thread(function, call.prompt, call.item)
