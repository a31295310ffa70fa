"""Specs: what is read, and that everything that is wrong is told at once, with its path."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from apps.swarms.graphs import Ancestry, cycles
from apps.swarms.models import Priority
from apps.swarms.specs import SpecError, SpecInvalid, parse
from tests.specs import BRIEF, spec, task


def errors(source: str | dict[str, Any]) -> list[SpecError]:
    with pytest.raises(SpecInvalid) as caught:
        parse(source)
    return caught.value.errors


def told(source: str | dict[str, Any]) -> dict[str, str]:
    """{path: message}."""
    return {error.path: error.message for error in errors(source)}


def the_only_error(source: str | dict[str, Any]) -> SpecError:
    (error,) = errors(source)
    return error


def agent(**changes: Any) -> dict[str, Any]:
    """A spec whose agent has these keys."""
    return spec(agents={"worker": {"model": "simulated:small", **changes}})


LONG = "Must have at most 50,000 characters; it has 50,001."
NAME = "A name has letters, digits, - and _, and starts with a letter or digit."
URL = "Must be an address that starts with http:// or https://."
PYTHON_FILES = (
    "Is only for agents of runtime llm; this one is python. A callable with a parameter files can always save some."
)
FILES_AND_CACHE = "Has no effect with files: what a model does with a tool is never answered from the cache."
DELAY = "The first delay (90 s) is longer than the longest (max_delay_s: 60)."
MISSING = "Is missing: agents of runtime"

# -- what is read


def test_a_spec_is_read_from_yaml_json_and_data_alike() -> None:
    as_data = yaml.safe_load(BRIEF)
    assert parse(BRIEF) == parse(json.dumps(as_data)) == parse(json.dumps(as_data, indent="\t")) == parse(as_data)


def test_every_key_arrives() -> None:
    read = parse(BRIEF)
    assert (read.swarm, read.priority_value, read.budget) == ("market-brief", Priority.HIGH, 2_500_000_000)
    assert (read.end_user, read.estimated_duration_s) == ("user-8842", 120)
    researcher = read.agents["researcher"]
    assert (researcher.replicas, researcher.memory_gb, researcher.cpu) == (4, Decimal(2), Decimal("0.5"))
    assert (researcher.max_output_tokens, researcher.timeout_s) == (300, 60)
    assert read.tasks[0].items == ["pricing", "rivals", "demand"]
    assert (read.tasks[1].needs, read.tasks[1].items) == (["gather"], [None])


def test_what_is_left_out_has_the_documented_defaults() -> None:
    read = parse(spec())
    worker = read.agents["worker"]
    assert (read.priority, read.budget, read.end_user, read.estimated_duration_s) == ("normal", None, None, None)
    assert (worker.runtime, worker.replicas, worker.memory_gb, worker.cpu) == ("llm", 1, Decimal(2), Decimal("0.5"))
    assert (worker.max_output_tokens, worker.timeout_s, worker.retry) == (1024, 120, None)


def test_yaml_is_read_without_surprises() -> None:
    items = (
        parse(
            BRIEF.replace(
                "[pricing, rivals, demand]",
                "[no, on, 2026-11-21, 1:30, 010, 1_000, 0x1F, 'true', true, null, ~, 1.5, 1e3, {a: b}, [c]]",
            )
        )
        .tasks[0]
        .items
    )
    assert items == [
        "no", "on", "2026-11-21", "1:30", 10, "1_000", "0x1F", "true", True, None, None, 1.5, 1000.0, {"a": "b"}, ["c"],
    ]  # fmt: skip


def test_anchors_aliases_and_merge_keys_work() -> None:
    read = parse(
        """
        swarm: shared
        agents:
          first: &base {model: "simulated:small", replicas: 2, cpu: 1}
          second: {<<: *base, replicas: 3}
        tasks:
          - {id: a, agent: first, prompt: &ask "What now?"}
          - {id: b, agent: second, prompt: *ask}
        """
    )
    assert (read.agents["second"].replicas, read.agents["second"].cpu) == (3, Decimal(1))
    assert read.tasks[1].prompt == "What now?"


@pytest.mark.parametrize("amount", [2.5, "2.50", 1, 0.000000001, "0.1", 1_000_000_000])
def test_budgets_are_exact(amount: Any) -> None:
    assert parse(spec(budget_usd=amount)).budget_usd == Decimal(str(amount))


# -- everything at once, each with its path


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_the_document() -> None:  # O1
    source = """\
swarm: ""
priority: urgent
colour: red
agents:
  researcher: {model: gpt, replicas: 0, instrutions: x}
  writer: {runtime: http, model: "a:b"}
tasks:
  - {id: a, agent: reseacher, needs: [b, c], prompt: "{{ topic }}"}
  - {id: b, agent: writer, needs: [a], prompt: "{{ item"}
  - {id: a, agent: writer, prompt: ""}
"""
    assert [(e.path, e.code, e.line) for e in errors(source)] == [
        ("swarm", "too_short", 1),
        ("priority", "not_one_of", 2),
        ("colour", "unknown_key", 3),
        ("agents.researcher.model", "invalid_value", 5),
        ("agents.researcher.replicas", "out_of_range", 5),
        ("agents.researcher.instrutions", "unknown_key", 5),
        ("agents.writer.model", "not_applicable", 6),
        ("agents.writer.url", "required", 6),
        ("tasks[0].agent", "unknown_agent", 8),
        ("tasks[0].needs[1]", "unknown_task", 8),
        ("tasks[0].prompt", "invalid_prompt", 8),
        ("tasks[1].needs[0]", "cycle", 9),
        ("tasks[1].prompt", "invalid_prompt", 9),
        ("tasks[2].id", "duplicate_id", 10),
        ("tasks[2].prompt", "too_short", 10),
    ]


def test_the_exception_reads_as_path_and_message_on_lines() -> None:
    with pytest.raises(SpecInvalid) as caught:
        parse(spec(swarm=None, priority="urgent"))
    assert str(caught.value).splitlines() == [
        "priority: Must be low, normal, high or critical, not 'urgent'.",
        "swarm: Is missing.",
    ]


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"swarm": 7}, "swarm", "Must be text, not the number 7; write it in quotes: '7'."),
        ({"swarm": "x" * 101}, "swarm", "Must have at most 100 characters; it has 101."),
        ({"swarm": "two\nlines"}, "swarm", "Must be one line of text without blanks at its ends."),
        ({"budget_usd": 0}, "budget_usd", "Must be above 0; leave it out for a run without a budget of its own."),
        ({"budget_usd": -1}, "budget_usd", "Must be above 0; leave it out for a run without a budget of its own."),
        ({"budget_usd": "0.0000000001"}, "budget_usd", "Can have at most nine decimals (a nano-dollar)."),
        ({"budget_usd": "much"}, "budget_usd", "Must be a number."),
        ({"budget_usd": True}, "budget_usd", "Must be a number."),
        ({"budget_usd": 10**10}, "budget_usd", "Must be at most 1,000,000,000."),
        ({"end_user": 8842}, "end_user", "Must be text, not the number 8842; write it in quotes: '8842'."),
        ({"end_user": ""}, "end_user", "Must not be empty."),
        ({"estimated_duration_s": 1.5}, "estimated_duration_s", "Must be a whole number, not the number 1.5."),
        ({"agents": {}}, "agents", "Must not be empty."),
        ({"agents": ["worker"]}, "agents", "Must be a mapping (key: value), not a list."),
        ({"tasks": {}}, "tasks", "Must be a list, not a mapping."),
        ({"tasks": ["do"]}, "tasks[0]", "Must be a mapping (key: value), not the text 'do'."),
        ({"tasks": []}, "tasks", "Must not be empty."),
        ({"tasks": [task("do", needs="it")]}, "tasks[0].needs", "Must be a list, not the text 'it'."),
        ({"tasks": [task("do", for_each=[])]}, "tasks[0].for_each", "Must not be empty."),
        ({"tasks": [task("do", for_each="gather")]}, "tasks[0].for_each", "Must be a list, not the text 'gather'."),
        ({"tasks": [task("do", prompt=" \n")]}, "tasks[0].prompt", "Must not be empty."),
        ({"tasks": [task("do", prompt="x" * 50_001)]}, "tasks[0].prompt", LONG),
        ({"tasks": [task("a b")]}, "tasks[0].id", NAME),
        ({"tasks": [task("do", agnt="x")]}, "tasks[0].agnt", "There is no such key here; did you mean 'agent'?"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_in_plain_words(changes: dict[str, Any], path: str, message: str) -> None:
    assert told(spec(**changes)) == {path: message}


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"runtime": "grpc"}, "runtime", "Must be llm, http or python, not 'grpc'."),
        ({"model": None}, "model", "Is missing: agents of runtime llm need the model, as provider:model."),
        ({"model": "gpt"}, "model", "Must be provider:model, such as simulated:small."),
        ({"model": "open ai:gpt"}, "model", "Must be provider:model, such as simulated:small."),
        ({"url": "http://x.test"}, "url", "Is only for agents of runtime http; this one is llm."),
        ({"runtime": "http", "model": None}, "url", f"{MISSING} http need the address of the service."),
        ({"runtime": "http", "model": None, "url": "ftp://x"}, "url", URL),
        ({"runtime": "python", "model": None}, "callable", f"{MISSING} python need the name of a registered callable."),
        ({"replicas": True}, "replicas", "Must be a whole number, not true or false."),
        ({"replicas": "4"}, "replicas", "Must be a whole number, not the text '4'."),
        ({"memory_gb": 0.0001}, "memory_gb", "Can have at most three decimals."),
        ({"cpu": -1}, "cpu", "Must be between 0 and 100,000."),
        ({"max_output_tokens": 0}, "max_output_tokens", "Must be at least 1."),
        ({"timeout_s": "soon"}, "timeout_s", "Must be a number, not the text 'soon'."),
        ({"retry": {"max_retries": 21}}, "retry.max_retries", "Must be at most 20."),
        ({"retry": {"factor": 0.5}}, "retry.factor", "Must be at least 1."),
        ({"retry": {"base_delay_s": 90}}, "retry.base_delay_s", DELAY),
        ({"retry": {"retries": 1}}, "retry.retries", "There is no such key here; did you mean 'max_retries'?"),
        ({"files": "yes"}, "files", "Must be true or false, not the text 'yes'."),
        ({"files": True, "runtime": "python", "model": None, "callable": "x"}, "files", PYTHON_FILES),
        ({"files": True, "cache": {"answers": True}}, "cache", FILES_AND_CACHE),
        ({"retry": 3}, "retry", "Must be a mapping (key: value), not the number 3."),
    ],
)  # fmt: skip
def test_a_wrong_agent_is_told_in_plain_words(changes: dict[str, Any], path: str, message: str) -> None:
    assert told(agent(**changes)) == {f"agents.worker.{path}": message}


# -- the graph


def test_a_cycle_is_named() -> None:  # O7
    tasks = [task("a", needs=["c"]), task("b", needs=["a"]), task("c", needs=["b"]), task("d", needs=["a"])]
    error = the_only_error(spec(tasks=tasks))
    assert (error.path, error.code) == ("tasks[1].needs[0]", "cycle")
    assert error.message.endswith("a -> c -> b -> a.")


def test_a_task_cannot_need_itself() -> None:
    assert told(spec(tasks=[task("a", needs=["a"])])) == {"tasks[0].needs[0]": "A task cannot need itself."}


def test_unknown_names_are_told_with_what_was_meant() -> None:  # O7
    tasks = [task("gather"), task("write", needs=["gathr"], agent="wroker", prompt="{{ results.gathr }}")]
    assert told(spec(tasks=tasks)) == {
        "tasks[1].agent": "There is no agent 'wroker'; did you mean 'worker'?",
        "tasks[1].needs[0]": "There is no task 'gathr'; did you mean 'gather'?",
        "tasks[1].prompt": "It reads results.gathr, but there is no such task; did you mean 'gather'?",
    }


def test_a_need_named_twice_is_an_error() -> None:
    tasks = [task("a"), task("b", needs=["a", "a"])]
    assert told(spec(tasks=tasks)) == {"tasks[1].needs[1]": "It needs 'a' already."}


def test_results_can_be_used_of_tasks_that_are_needed_through_others() -> None:
    tasks = [task("a"), task("b", needs=["a"]), task("c", needs=["b"], prompt="{{ results.a }} {{ results.b }}")]
    assert parse(spec(tasks=tasks))


def test_results_of_tasks_that_are_not_needed_cannot_be_used() -> None:
    tasks = [task("a"), task("b", prompt="{{ results.a }}")]
    assert told(spec(tasks=tasks)) == {
        "tasks[1].prompt": "It reads results.a, but does not need that task: add a to its needs."
    }


def test_the_item_is_only_there_with_for_each() -> None:
    error = the_only_error(spec(tasks=[task("a", prompt="{{ item }}")]))
    assert error.message == "It reads item, which is only there with for_each."


def test_every_item_is_tried_before_anything_runs() -> None:
    items = [{"name": "a"}, {"nme": "b"}, "c"]
    assert told(spec(tasks=[task("a", for_each=items, prompt="About {{ item.name }}.")])) == {
        "tasks[0].for_each[1]": "The prompt cannot be made for this item. The prompt reads 'name' of a mapping that "
        "has 'nme'.",
        "tasks[0].for_each[2]": "The prompt cannot be made for this item. The prompt reads 'name' of a text.",
    }


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"), unique=True)))
def test_cycles_are_found_exactly_where_there_are_some(graph: dict[str, list[str]]) -> None:
    known = {name: [need for need in needs if need in graph] for name, needs in graph.items()}
    open_ones, free = dict(known), [name for name, needs in known.items() if not needs]
    while free:
        done = free.pop()
        del open_ones[done]
        free += [n for n, needs in open_ones.items() if n not in free and not set(needs) & open_ones.keys()]
    found = cycles(graph)
    assert bool(found) == bool(open_ones)
    for cycle in found:
        assert all(need in graph[name] for name, need in zip(cycle, [*cycle[1:], cycle[0]], strict=True))


@given(st.dictionaries(st.integers(0, 9), st.lists(st.integers(0, 9), unique=True)))
def test_ancestry_knows_everything_that_is_needed(edges: dict[int, list[int]]) -> None:
    graph = {str(n): [str(need) for need in edges.get(n, ()) if need < n] for n in range(10)}
    ancestry = Ancestry(graph)

    def reached(name: str) -> set[str]:
        return {other for need in graph[name] for other in (need, *reached(need))}

    for name in graph:
        assert {other for other in graph if ancestry.needs(name, other)} == reached(name)


# -- documents that strangers wrote


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("", "empty", "The document is empty."),
        ("# only a comment", "empty", "The document is empty."),
        ("just text", "wrong_type", "A spec is a mapping with the keys swarm, agents and tasks."),
        ("- a\n- list", "wrong_type", "A spec is a mapping with the keys swarm, agents and tasks."),
        ("swarm: [", "syntax", "in line 2, column 1"),
        ("swarm: x\n\tagents: {}", "syntax", "in line 2, column 1"),
        ("swarm: a: b", "syntax", "line 1, column 9: mapping values are not allowed in this context (put text"),
        ("swarm: x\n---\nswarm: y", "syntax", "more than one document"),
        ("swarm: !!python/object/apply:os.system [x]", "syntax", "Tags such as"),
        ("swarm: *nothing", "syntax", "*nothing stands for nothing that was written before it. (line 1, column 8)"),
        ("a: &a [*a]", "syntax", "*a stands for nothing"),
        ("? [a, b]\n: c", "syntax", "A key must be a plain text. (line 1, column 3)"),
        ('{"swarm": "x",}}', "syntax", "in line 1"),
        ("[" * 100_000, "too_large", "nested more than 20 levels deep"),
        ('{"a":' * 100_000, "too_large", "nested too deeply"),
        ("x" * 2_000_001, "too_large", "larger than 2 MB"),
        ("a: [" + "x," * 200_000 + "]", "too_large", "more than 200,000 values"),
        ("swarm: \x07", "syntax", "not valid YAML"),
        ("swarm: \ud800", "syntax", "surrogate"),
    ],
    ids=range(19),
)
def test_what_cannot_be_read_is_one_clear_error(source: str, code: str, message: str) -> None:
    error = the_only_error(source)
    assert (error.path, error.code) == ("", code) or (error.code == code and error.path)
    assert message in error.message


def test_a_key_that_is_there_twice_is_an_error_among_others() -> None:
    source = "swarm: x\nswarm: y\nagents:\n  a: {model: 'm:n', model: 'o:p'}\ntasks: []\n"
    assert told(source) == {
        "swarm": "The key 'swarm' is there twice. (line 2, column 1)",
        "agents.a.model": "The key 'model' is there twice. (line 4, column 21)",
        "tasks": "Must not be empty.",
    }
    as_json = '{"swarm": "x", "swarm": "y", "agents": {}, "tasks": []}'
    assert [e.code for e in errors(as_json)] == ["duplicate_key", "too_short", "too_short"]


def test_small_texts_that_stand_for_huge_documents_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    long = f"text: &t {'x' * 100_000}\nmany: [{', '.join(['*t'] * 1000)}]"
    started = time.monotonic()
    assert the_only_error("\n".join(lines)).code == "too_large"
    assert the_only_error(long).message == "With its aliases written out, the document is larger than 2 MB."
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("\0", "Holds a NUL character, which cannot be kept."),
        ("\ud800", "Holds half of a surrogate pair, which is no character."),
        (float("nan"), "Must be a finite number."),
        (float("inf"), "Must be a finite number."),
        (2**64, "Is a number beyond 64 bits; write it in quotes."),
        ({1: 2}, "Has a key that is not a plain text: 1."),
        ({"a\0": 2}, "Has a key that is not a plain text: 'a\\x00'."),
        (object, "Is not JSON."),
        (Decimal(1), "Is not JSON."),
    ],
    ids=range(9),
)
def test_what_the_database_cannot_keep_is_refused(item: object, message: str) -> None:
    assert told(spec(tasks=[task("do", for_each=["fine", item])])) == {"tasks[0].for_each[1]": message}


def test_a_swarm_has_at_most_ten_thousand_tasks() -> None:
    tasks = [task("a", for_each=[0] * 6_000), task("b", for_each=[0] * 4_000)]
    assert parse(spec(tasks=tasks))
    error = the_only_error(spec(tasks=[*tasks, task("c")]))
    assert error.path == "tasks"
    assert "10,001 tasks" in error.message


def test_keys_that_are_no_plain_words_stand_in_quotes_in_a_path() -> None:
    assert told(spec(agents={"a.b c": {"model": "m:n"}, "worker": {"model": "m:n"}})).keys() == {"agents['a.b c']"}


@pytest.mark.parametrize(
    "tasks",
    [
        [task("t0"), *(task(f"t{n}", needs=[f"t{n - 1}"], prompt="{{ results.t0 }}") for n in range(1, 10_000))],
        [task(f"t{n}", needs=[f"t{(n + 1) % 10_000}"]) for n in range(10_000)],
        [task(f"t{n}", needs=[f"x{n}"], agent="nobody", prompt="{{ y }}", zzz=1) for n in range(10_000)],
        [task("t", for_each=list(range(10_000)), prompt="{% for a in [1,2,3] %}{{ item }}{% endfor %}" * 100)],
    ],
    ids=["chain", "circle", "all wrong", "heavy prompts"],
)
def test_the_largest_specs_are_checked_in_seconds(tasks: list[dict[str, Any]]) -> None:
    started = time.monotonic()
    found: list[SpecError] = []
    try:
        parse(spec(tasks=tasks))
    except SpecInvalid as invalid:
        found = invalid.errors
    assert len(found) <= 1_001
    assert time.monotonic() - started < 10


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_whatever_comes_ends_in_a_spec_or_in_errors(anything: Any) -> None:
    for source in (spec(agents=anything), spec(tasks=anything), spec(tasks=[anything, task("x", needs=anything)])):
        with suppress(SpecInvalid):
            assert parse(source)


@given(st.text())
def test_whatever_text_comes_ends_in_errors(text: str) -> None:
    assert errors(text)
    assert errors("swarm: x\nagents: " + text)
