"""Graphs of names: which step needs which. No recursion, so a chain of ten thousand steps is fine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Graph = Mapping[str, Sequence[str]]
"""{name: the names it needs}. Needs that are not names of the graph are passed over."""

MAX_CYCLES = 20


def cycles(graph: Graph) -> list[list[str]]:
    """Cycles in the order of need (a needs b needs a: [a, b]), at most ``MAX_CYCLES``; none when it has no cycle.

    Not every cycle there is, but removing one edge of each found, and looking again, ends.
    """
    found: list[list[str]] = []
    done: set[str] = set()
    for start in graph:
        if start in done:
            continue
        trail = [start]
        places = {start: 0}
        branches = [iter(graph[start])]
        while branches:
            need = next(branches[-1], None)
            if need is None:
                branches.pop()
                name = trail.pop()
                del places[name]
                done.add(name)
            elif need in places:
                found.append(trail[places[need] :])
                if len(found) == MAX_CYCLES:
                    return found
            elif need in graph and need not in done:
                places[need] = len(trail)
                trail.append(need)
                branches.append(iter(graph[need]))
    return found


class Ancestry:
    """Answers whether a step needs another, directly or through others. One bit for each pair."""

    def __init__(self, graph: Graph) -> None:
        """Raises nothing for a graph with cycles: the answers then may miss ancestors that only a cycle leads to."""
        self._bits = {name: 1 << place for place, name in enumerate(graph)}
        self._ancestors: dict[str, int] = {}
        for start in graph:
            waiting = [start]
            entered: set[str] = set()
            while waiting:
                name = waiting[-1]
                if name in self._ancestors:
                    waiting.pop()
                    continue
                needs = [need for need in graph[name] if need in graph]
                missing = [need for need in needs if need not in self._ancestors and need not in entered]
                if missing and name not in entered:
                    entered.add(name)
                    waiting.extend(missing)
                    continue
                bits = 0
                for need in needs:
                    bits |= self._bits[need] | self._ancestors.get(need, 0)
                self._ancestors[name] = bits
                waiting.pop()

    def needs(self, name: str, other: str) -> bool:
        """Whether ``name`` needs ``other``."""
        return bool(self._ancestors.get(name, 0) & self._bits.get(other, 0))
