"""The ``python`` runtime: a callable of this installation, registered by name."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from apps.execution.errors import RuntimeMisconfigured
from apps.execution.gate import Gate
from apps.execution.runtimes.base import AgentCall
from apps.swarms.runtimes import callables


class PythonRuntime:
    """Calls ``callable(prompt, item)``: coroutine functions in the event loop, plain ones in a thread.

    One that has a parameter ``files`` is given what it saves files with: ``files.save(name, data, media_type=None)``,
    which coroutine functions await.
    """

    async def run(self, call: AgentCall, gate: Gate) -> Any:
        """What the callable returned. Raises RuntimeMisconfigured when this worker does not know the name."""
        name = str(call.agent.options.get("callable", ""))
        function = callables.get(name)
        if function is None:
            raise RuntimeMisconfigured(f"This worker has no callable {name!r}: register it in an installed app.")
        saves = call.files is not None and takes_files(function)
        if inspect.iscoroutinefunction(function):
            return await function(call.prompt, call.item, **({"files": call.files} if saves else {}))
        given = {"files": call.files.for_threads()} if saves and call.files else {}
        return await asyncio.to_thread(function, call.prompt, call.item, **given)


@lru_cache(maxsize=1024)
def takes_files(function: Callable[..., Any]) -> bool:
    """Whether a callable has a parameter ``files``."""
    try:
        parameter = inspect.signature(function).parameters.get("files")
    except (TypeError, ValueError):
        return False  # one of C, whose parameters nobody knows
    return parameter is not None and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
