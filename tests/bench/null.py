"""A runner whose model answers at once: what is left is the product's own work for a task."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any


class NullModel:
    """Passes the gate as a model call does, and makes none."""

    async def run(self, call: Any, gate: Any) -> str:
        from apps.execution.gate import Usage

        async def send() -> tuple[str, Usage]:
            return "nothing", Usage(20, 20)

        answer: str = await gate.call(call.context, call.context.price.highest(200, 100), send)
        return answer


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"
    import django

    django.setup()
    from apps.execution.runner import Runner

    if len(sys.argv) > 1:
        import cProfile

        profile = cProfile.Profile()
        profile.runcall(lambda: asyncio.run(Runner("bench", runtimes={"llm": NullModel()}).run()))
        profile.dump_stats(sys.argv[1])
    else:
        asyncio.run(Runner("bench", runtimes={"llm": NullModel()}).run())


if __name__ == "__main__":
    main()
