"""What this installation can run: the runtimes of its workers, and the callables that ``python`` agents may name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

available: set[str] = set()
"""Runtimes that workers here know; the execution layer fills it at start. Specs that ask for others are refused."""

callables: dict[str, Callable[..., Any]] = {}
"""Functions by the name that a spec gives as ``callable``."""


def register_callable(name: str) -> Callable[[Function], Function]:
    """Decorator: makes a function ``f(prompt, item)``, plain or async, usable as ``callable: name`` in specs.

    What it returns is the task's result and must be JSON. With a third parameter ``files`` it can save files:
    ``files.save(name, data, media_type=None)``, to be awaited in an async function. Put the module that registers it
    where every process imports it: the ``ready()`` of an installed app. Raises ValueError when another function has
    the name.
    """

    def register(function: Function) -> Function:
        known = callables.setdefault(name, function)
        if (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            owner = f"{known.__module__}.{known.__qualname__}"
            raise ValueError(f"The callable {name!r} is registered already, by {owner}.")
        return function

    return register
