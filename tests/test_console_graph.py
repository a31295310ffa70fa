"""Where the steps of a swarm stand in its graph, and how events read."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from typing import Any

import pytest

from apps.console.graph import GAP_X, HEIGHT, MOST, WIDTH, Graph, lay_out
from apps.console.sentences import sentence
from apps.console.templatetags import console
from apps.swarms.models import Step


def steps(**needs: list[str]) -> list[Step]:
    return [
        Step(id=uuid.uuid4(), name=name, needs=wanted, position=n) for n, (name, wanted) in enumerate(needs.items())
    ]


def layers(graph: Graph) -> dict[str, int]:
    return {node.step.name: node.layer for node in graph.nodes}


def test_each_step_stands_right_of_what_it_needs_in_whatever_order_they_are_written() -> None:
    graph = lay_out(steps(report=["check", "extract"], check=["read"], read=[], extract=[]), {})
    assert layers(graph) == {"read": 0, "extract": 0, "check": 1, "report": 2}
    assert len(graph.edges) == 3


def test_no_two_steps_overlap_and_all_are_inside() -> None:
    wide = {f"s{n}": ["a"] for n in range(6)}
    graph = lay_out(steps(a=[], b=[], **wide, last=["a", "b", *wide]), {})
    boxes = [(node.x, node.y) for node in graph.nodes]
    for x, y in boxes:
        assert 0 <= x <= graph.width - WIDTH
        assert 0 <= y <= graph.height - HEIGHT
        assert not [b for b in boxes if b != (x, y) and b[0] == x and abs(b[1] - y) < HEIGHT]


def test_a_line_that_skips_a_layer_goes_around_the_steps_in_it() -> None:
    graph = lay_out(steps(a=[], b=["a"], c=["a", "b"]), {})
    between = next(node for node in graph.nodes if node.step.name == "b")
    skipping = next(edge.path for edge in graph.edges if f"h{WIDTH}" in edge.path)
    level = int(skipping.split(f" h{WIDTH}")[0].rsplit(" ", 1)[1])
    assert not between.y <= level <= between.y + HEIGHT
    assert between.x - GAP_X > 0


def test_needs_that_are_unknown_or_go_round_hold_nothing_up() -> None:
    assert layers(lay_out(steps(a=["b"], b=["a"], c=["nowhere"]), {})) == {"a": 0, "b": 0, "c": 0}


def test_a_chain_of_ten_thousand_steps_is_drawn_in_part_and_in_time() -> None:
    chain = {f"s{n}": [f"s{n - 1}"] if n else [] for n in range(10_000)}
    many, began = steps(**chain), time.monotonic()
    graph = lay_out(many, {})
    assert time.monotonic() - began < 1
    assert (len(graph.nodes), graph.hidden) == (MOST, 10_000 - MOST)


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({}, "pending"),
        ({"succeeded": 3}, "succeeded"),
        ({"succeeded": 3, "running": 1}, "running"),
        ({"succeeded": 3, "running": 1, "failed": 1}, "failed"),
        ({"pending": 2, "waiting": 1}, "waiting"),
    ],
)
def test_a_step_is_in_the_state_that_says_most_about_it(counts: dict[str, int], state: str) -> None:
    (step,) = steps(a=[])
    (node,) = lay_out([step], {step.pk: counts}).nodes
    assert node.state == state


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("task.succeeded", {}, "read[1] succeeded"),
        ("task.failed", {"code": "budget_exhausted"}, "read[1] failed for good: the budget is exhausted"),
        ("task.cancelled", {"code": "cancelled"}, "read[1] was cancelled"),
        ("task.failed", {"code": "something_new"}, "read[1] failed for good: something new"),
        ("swarm.started", {"waited_s": 2.5}, "Running"),
        (
            "swarm.stopping",
            {"reason": "wrong prompt.", "in_flight": 2},
            "Stopping: wrong prompt; 2 calls in flight cancelled",
        ),
        ("swarm.retried", {"tasks": 1}, "Failed tasks run again: 1 task"),
        ("budget.exhausted", {"budget": "Cap"}, "Budget “Cap” is exhausted: calls that do not fit are refused"),
        ("budget.overage", {"excess": 2_000_000_000}, "A provider billed $2.00 more than was reserved"),
        (
            "budget.overage",
            {"excess": 2_000_000_000, "external_events": 3, "budget": "All"},
            "Agents elsewhere spent $2.00 more than budget “All” had left",
        ),
        (
            "secrets.backend_down",
            {"backend": "vault:https://v/kv", "error": "Vault is sealed."},
            "The secrets backend vault:https://v/kv is down; keys that are held go on: Vault is sealed",
        ),
        ("secrets.backend_recovered", {"backend": "files:/run"}, "The secrets backend files:/run answers again"),
        ("secrets.rotated", {"name": "KEY"}, "The key KEY was replaced: new calls use the new one"),
        ("secrets.key_refused", {"name": "KEY"}, "The provider refuses the key KEY, and there is no other"),
        ("moon.landed", {"name": "Eagle"}, "Moon landed: Eagle"),
        ("strange", {}, "Strange"),
    ],
)
def test_events_read_as_sentences(kind: str, data: dict[str, Any], text: str) -> None:
    assert sentence(kind, data, "read[1]").text == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.42, "420 ms"),
        (12.34, "12.3 s"),
        (245, "4 min 5 s"),
        (300, "5 min"),
        (725, "12 min"),
        (7800, "2 h 10 min"),
        (180_000, "2 d 2 h"),
    ],
)
def test_durations_have_units_and_no_more_digits_than_matter(seconds: float | None, text: str) -> None:
    assert console.seconds(seconds) == text


def test_times_say_how_long_ago_and_exactly_when() -> None:
    at = dt.datetime(2026, 11, 21, 12, 0, 5, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert 'title="2026-11-21 10:00:05 UTC"' in console.when(at)
    assert console.distance(90) == "1 min ago"
    assert console.distance(-90) == "in 1 min"
    assert console.distance(0.3) == "now"
