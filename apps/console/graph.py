"""The task graph of a swarm, laid out in layers from left to right."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from apps.swarms.models import Step, TaskStatus

WIDTH, HEIGHT = 208, 100
GAP_X, GAP_Y = 56, 16
MARGIN = 4
BEND = 8
MOST = 150
"""Steps that are drawn; more than that nobody can read."""


@dataclass(slots=True)
class Node:
    """A step: where it stands (pixels from the top left), and how many of its tasks are in which status."""

    step: Step
    layer: int
    counts: Mapping[str, int]
    x: int = 0
    y: int = 0

    @property
    def state(self) -> str:
        """The status that says most about it: failed before running before what has not begun."""
        order = (
            TaskStatus.FAILED,
            TaskStatus.RUNNING,
            TaskStatus.WAITING,
            TaskStatus.READY,
            TaskStatus.PENDING,
            TaskStatus.CANCELLED,
            TaskStatus.SUCCEEDED,
        )
        return next((status.value for status in order if self.counts.get(status)), TaskStatus.PENDING.value)

    @property
    def total(self) -> int:
        return sum(self.counts.values()) or self.step.tasks_total

    @property
    def succeeded(self) -> int:
        return self.counts.get(TaskStatus.SUCCEEDED, 0)

    @property
    def shares(self) -> list[tuple[str, int, float]]:
        """(status, tasks, percent of all) for a bar; in the order of a task's life, without zeros."""
        order = ("succeeded", "failed", "cancelled", "running", "waiting", "ready", "pending")
        total = self.total or 1
        return [(s, self.counts[s], round(100 * self.counts[s] / total, 2)) for s in order if self.counts.get(s)]


@dataclass(frozen=True, slots=True)
class Edge:
    """A need: ``path`` is its SVG path, ``done`` whether the needed step is complete."""

    path: str
    done: bool


@dataclass(slots=True)
class Bend:
    """Where a need that skips a layer passes through that layer."""

    y: int = 0


Place: TypeAlias = "Node | Bend"


@dataclass(slots=True)
class Graph:
    """``hidden`` counts the steps that are left out because there are too many to draw."""

    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    width: int = 0
    height: int = 0
    hidden: int = 0


def lay_out(steps: Sequence[Step], counts: Mapping[uuid.UUID, Mapping[str, int]]) -> Graph:
    """Places each step one layer right of the last step it needs; ``counts`` are tasks by status, by step id."""
    drawn = steps[:MOST]
    layer_of = _layers(drawn)
    nodes = {step.name: Node(step, layer_of[step.name], counts.get(step.pk, {})) for step in drawn}
    layers: dict[int, list[tuple[list[Place], Place]]] = {}
    routes: list[tuple[Node, list[Bend], Node]] = []
    for node in nodes.values():
        before: list[Place] = []
        for need in node.step.needs:
            if need not in nodes:
                continue
            route: list[Bend] = []
            last: Place = nodes[need]
            for layer in range(nodes[need].layer + 1, node.layer):
                bend = Bend()
                layers.setdefault(layer, []).append(([last], bend))
                route.append(bend)
                last = bend
            before.append(last)
            routes.append((nodes[need], route, node))
        layers.setdefault(node.layer, []).append((before, node))
    tallest = max((_tall(places) for places in layers.values()), default=0)
    for layer in sorted(layers):
        places = sorted(layers[layer], key=lambda place: _middle(place[0]))  # keeps the spec's order among equals
        y = MARGIN + (tallest - _tall(places)) // 2
        for _, place in places:
            place.y = y
            y += _height(place) + GAP_Y
            if isinstance(place, Node):
                place.x = MARGIN + layer * (WIDTH + GAP_X)
    edges = [Edge(_path(*route), route[0].succeeded >= route[0].total) for route in routes]
    width = 2 * MARGIN + len(layers) * WIDTH + max(len(layers) - 1, 0) * GAP_X
    ordered = sorted(nodes.values(), key=lambda n: (n.layer, n.y))
    return Graph(ordered, edges, width, tallest + 2 * MARGIN, len(steps) - len(drawn))


def _layers(steps: Sequence[Step]) -> dict[str, int]:
    """The layer of each step by name. What needs itself in a circle, which no spec may, is put in the first layer."""
    known = {step.name for step in steps}
    missing = {step.name: len(set(step.needs) & known) for step in steps}
    after: dict[str, list[str]] = {}
    for step in steps:
        for need in set(step.needs) & known:
            after.setdefault(need, []).append(step.name)
    layers = dict.fromkeys(known, 0)
    ready = [name for name, count in missing.items() if not count]
    while ready:
        name = ready.pop()
        for follower in after.get(name, ()):
            layers[follower] = max(layers[follower], layers[name] + 1)
            missing[follower] -= 1
            if not missing[follower]:
                ready.append(follower)
    return {name: 0 if missing[name] else layer for name, layer in layers.items()}


def _height(place: Place) -> int:
    return HEIGHT if isinstance(place, Node) else BEND


def _tall(places: Sequence[tuple[list[Place], Place]]) -> int:
    return sum(_height(place) for _, place in places) + GAP_Y * (len(places) - 1)


def _middle(before: Sequence[Place]) -> float:
    """The mean height of what it comes from, so that lines cross little."""
    return sum(place.y + _height(place) / 2 for place in before) / len(before) if before else 0.0


def _path(start: Node, bends: Sequence[Bend], end: Node) -> str:
    x, y = start.x + WIDTH, start.y + HEIGHT // 2
    path = f"M{x} {y}"
    for bend in bends:
        level = bend.y + BEND // 2
        path += f" C{x + GAP_X // 2} {y} {x + GAP_X // 2} {level} {x + GAP_X} {level} h{WIDTH}"
        x, y = x + GAP_X + WIDTH, level
    half = (end.x - x) // 2
    target = end.y + HEIGHT // 2
    return f"{path} C{x + half} {y} {end.x - half} {target} {end.x} {target}"
