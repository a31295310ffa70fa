"""What must hold between the parts of a spec: names that are used exist, nothing needs itself, prompts can be made.

The checks look at the document as it was read, well-formed or not, so that they run whatever else is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from apps.swarms import prompts
from apps.swarms.graphs import Ancestry, cycles
from apps.swarms.spec_errors import Found, Path, Suggestions

MAX_TASKS = 10_000
MAX_ITEM_ERRORS = 20
_KEY_OF_RUNTIME = {"llm": "model", "http": "url", "python": "callable"}
_EXAMPLE = {
    "model": "the model, as provider:model",
    "url": "the address of the service",
    "callable": "the name of a registered callable",
}


@dataclass(slots=True)
class _Task:
    """A task as far as it can be made out."""

    place: int
    raw: Mapping[str, Any]
    name: str | None
    needs: list[tuple[int, str]] = field(default_factory=list)

    def path(self, *rest: str | int) -> Path:
        return ("tasks", self.place, *rest)


def problems_of(data: Mapping[str, Any], suggestions: Suggestions) -> list[Found]:
    """Everything that is wrong between the parts of a spec's document."""
    tasks = _tasks(data)
    agents = data.get("agents")
    found = list(_problems_of_agents(agents)) if isinstance(agents, Mapping) else []
    found += _problems_of_names(tasks, agents, suggestions)
    graph = {task.name: list(dict.fromkeys(need for _, need in task.needs)) for task in tasks if task.name is not None}
    loops = list(_problems_of_cycles(tasks, graph))
    found += loops
    found += _problems_of_prompts(tasks, None if loops else Ancestry(graph), graph, suggestions)
    total = sum(len(items) if isinstance(items := task.raw.get("for_each"), list) else 1 for task in tasks)
    if total > MAX_TASKS:
        message = f"With every item of for_each, there are {total:,} tasks; a swarm can have at most {MAX_TASKS:,}."
        found.append(Found(("tasks",), message, "too_long"))
    return found


def _tasks(data: Mapping[str, Any]) -> list[_Task]:
    """The entries under ``tasks`` that are mappings; the first to use a name has it."""
    listed = data.get("tasks")
    tasks = []
    names: set[str] = set()
    for place, raw in enumerate(listed if isinstance(listed, list) else ()):
        if not isinstance(raw, Mapping):
            continue
        name = raw.get("id")
        needs = raw.get("needs")
        task = _Task(place, raw, name if isinstance(name, str) and name not in names else None)
        if isinstance(needs, list):
            task.needs = [(i, need) for i, need in enumerate(needs) if isinstance(need, str)]
        if task.name is not None:
            names.add(task.name)
        tasks.append(task)
    return tasks


def _problems_of_agents(agents: Mapping[str, Any]) -> Iterator[Found]:
    for name, raw in agents.items():
        if not isinstance(raw, Mapping):
            continue
        runtime = raw.get("runtime", "llm")
        if isinstance(runtime, str) and runtime in _KEY_OF_RUNTIME:
            for owner, key in _KEY_OF_RUNTIME.items():
                path = ("agents", name, key)
                if owner == runtime and raw.get(key) is None:
                    yield Found(path, f"Is missing: agents of runtime {runtime} need {_EXAMPLE[key]}.", "required")
                elif owner != runtime and raw.get(key) is not None:
                    message = f"Is only for agents of runtime {owner}; this one is {runtime}."
                    yield Found(path, message, "not_applicable")
        cache = raw.get("cache")
        if isinstance(cache, Mapping):
            if isinstance(runtime, str) and runtime != "llm":
                message = f"Is only for agents of runtime llm; this one is {runtime}."
                yield Found(("agents", name, "cache"), message, "not_applicable")
            elif not cache.get("answers") and not cache.get("degraded"):
                message = "Allows nothing: set answers or degraded to true, or leave it out."
                yield Found(("agents", name, "cache"), message, "required")
        if raw.get("files") is True:
            if isinstance(runtime, str) and runtime != "llm":
                message = f"Is only for agents of runtime llm; this one is {runtime}."
                if runtime == "python":
                    message += " A callable with a parameter files can always save some."
                yield Found(("agents", name, "files"), message, "not_applicable")
            elif isinstance(cache, Mapping):
                message = "Has no effect with files: what a model does with a tool is never answered from the cache."
                yield Found(("agents", name, "cache"), message, "not_applicable")
        retry = raw.get("retry")
        if isinstance(retry, Mapping):
            base, most = retry.get("base_delay_s", 5), retry.get("max_delay_s", 60)
            if isinstance(base, int | float) and isinstance(most, int | float) and base > most:
                message = f"The first delay ({base:g} s) is longer than the longest (max_delay_s: {most:g})."
                yield Found(("agents", name, "retry", "base_delay_s"), message, "out_of_range")


def _problems_of_names(tasks: list[_Task], agents: Any, suggestions: Suggestions) -> Iterator[Found]:
    places: dict[str, int] = {}
    for task in tasks:
        if task.name is not None:
            places[task.name] = task.place
    for task in tasks:
        name = task.raw.get("id")
        if isinstance(name, str) and task.name is None:
            message = f"The id {name!r} is that of tasks[{places[name]}] already; every task needs its own."
            yield Found(task.path("id"), message, "duplicate_id")
        agent = task.raw.get("agent")
        if isinstance(agent, str) and isinstance(agents, Mapping) and agents and agent not in agents:
            message = suggestions.end(f"There is no agent {agent!r}", agent, agents)
            yield Found(task.path("agent"), message, "unknown_agent")
        seen: set[str] = set()
        for i, need in task.needs:
            if need == name:
                yield Found(task.path("needs", i), "A task cannot need itself.", "cycle")
            elif need not in places:
                message = suggestions.end(f"There is no task {need!r}", need, places, but=name)
                yield Found(task.path("needs", i), message, "unknown_task")
            elif need in seen:
                yield Found(task.path("needs", i), f"It needs {need!r} already.", "duplicate_need")
            seen.add(need)


def _problems_of_cycles(tasks: list[_Task], graph: dict[str, list[str]]) -> Iterator[Found]:
    by_name = {task.name: task for task in tasks if task.name is not None}
    for cycle in cycles(graph):
        if len(cycle) == 1:
            continue  # reported as a task that needs itself
        last = by_name[cycle[-1]]
        place = next(i for i, need in last.needs if need == cycle[0])
        around = [*cycle, cycle[0]]
        shown = around if len(around) <= 12 else [*around[:6], "…", *around[-5:]]
        message = f"These tasks need each other in a cycle, so none of them can start: {' -> '.join(shown)}."
        yield Found(last.path("needs", place), message, "cycle")


def _problems_of_prompts(
    tasks: list[_Task], ancestry: Ancestry | None, graph: dict[str, list[str]], suggestions: Suggestions
) -> Iterator[Found]:
    rehearsal = prompts.Rehearsal()
    for task in tasks:
        template = task.raw.get("prompt")
        if not isinstance(template, str):
            continue
        try:
            used = prompts.uses(template)
        except prompts.PromptError as error:
            yield Found(task.path("prompt"), " ".join(error.problems), "invalid_prompt")
            continue
        problems = []
        if used.item and "for_each" not in task.raw:
            problems.append("It reads item, which is only there with for_each.")
        for name in sorted(used.results):
            if name not in graph:
                missing = f"It reads results.{name}, but there is no such task"
                problems.append(suggestions.end(missing, name, graph, but=task.name))
            elif task.name and ancestry and not ancestry.needs(task.name, name):
                problems.append(f"It reads results.{name}, but does not need that task: add {name} to its needs.")
        if problems:
            yield Found(task.path("prompt"), " ".join(problems), "invalid_prompt")
        elif used.item and not used.results:
            yield from _problems_of_items(task, template, rehearsal)
        elif not template.strip():
            yield Found(task.path("prompt"), "Must not be empty.", "too_short")


def _problems_of_items(task: _Task, template: str, rehearsal: prompts.Rehearsal) -> Iterator[Found]:
    items = task.raw.get("for_each")
    count = 0
    for i, item in enumerate(items if isinstance(items, list) else ()):
        if problem := rehearsal.problem(template, item):
            message = f"The prompt cannot be made for this item. {problem}"
            yield Found(task.path("for_each", i), message, "invalid_prompt")
            count += 1
            if count == MAX_ITEM_ERRORS:
                return
