"""The task graph of a swarm, laid out in layers from left to right."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from apps.swarms.models import Step, TaskStatus

WIDTH, HEIGHT = 208, 106
GAP_X, GAP_Y = 56, 16
MARGIN = 4


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
class Graph:
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    width: int = 0
    height: int = 0


def lay_out(steps: Sequence[Step], counts: Mapping[uuid.UUID, Mapping[str, int]]) -> Graph:
    """Places each step one layer right of the last step it needs; ``counts`` are tasks by status, by step id."""
    by_name: dict[str, Node] = {}
    waiting = list(steps)
    while waiting:
        placeable = [step for step in waiting if all(need in by_name for need in step.needs)]
        for step in placeable or waiting:  # needs that are unknown or go round cannot hold a page up
            layer = 1 + max((by_name[need].layer for need in step.needs if need in by_name), default=-1)
            by_name[step.name] = Node(step, layer, counts.get(step.pk, {}))
        waiting = [step for step in waiting if step.name not in by_name]
    layers: dict[int, list[Node]] = {}
    for node in by_name.values():
        layers.setdefault(node.layer, []).append(node)
    tallest = max((len(nodes) for nodes in layers.values()), default=0)
    height = 2 * MARGIN + tallest * HEIGHT + max(tallest - 1, 0) * GAP_Y
    for layer in sorted(layers):
        nodes = layers[layer]
        nodes.sort(key=lambda node: (_middle(node, by_name), node.step.position))
        column = len(nodes) * HEIGHT + (len(nodes) - 1) * GAP_Y
        for place, node in enumerate(nodes):
            node.x = MARGIN + layer * (WIDTH + GAP_X)
            node.y = (height - column) // 2 + place * (HEIGHT + GAP_Y)
    edges = [
        Edge(_curve(by_name[need], node), by_name[need].succeeded >= by_name[need].total)
        for node in by_name.values()
        for need in node.step.needs
        if need in by_name
    ]
    width = 2 * MARGIN + len(layers) * WIDTH + max(len(layers) - 1, 0) * GAP_X
    return Graph(sorted(by_name.values(), key=lambda n: (n.layer, n.y)), edges, width, height)


def _middle(node: Node, by_name: Mapping[str, Node]) -> float:
    """The mean height of what it needs, so that lines cross little."""
    heights = [by_name[need].y for need in node.step.needs if need in by_name]
    return sum(heights) / len(heights) if heights else 0.0


def _curve(start: Node, end: Node) -> str:
    x1, y1 = start.x + WIDTH, start.y + HEIGHT // 2
    x2, y2 = end.x, end.y + HEIGHT // 2
    bend = GAP_X // 2
    return f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
