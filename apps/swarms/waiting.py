"""Why a task does not run yet, in words for a person."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence

from apps.providers.models import Provider
from apps.swarms.models import Step, Swarm, SwarmStatus, Task, TaskStatus

_NOT_YET = frozenset({TaskStatus.PENDING, TaskStatus.READY, TaskStatus.WAITING})


def waiting_reason(task: Task) -> str:
    """Why it does not run yet; empty when it runs or is over. At most two queries, with what it names loaded."""
    return waiting_reasons([task])[task.pk]


def waiting_reasons(tasks: Iterable[Task]) -> dict[uuid.UUID, str]:
    """The reason of each task, by id. At most two queries when they were read with ``TaskQuerySet.named()``."""
    rows = list(tasks)
    needing = [t for t in rows if t.status == TaskStatus.PENDING and t.step.open_needs and not _of_swarm(t.swarm)]
    open_steps: dict[tuple[uuid.UUID, str], Step] = {}
    if needing:
        for step in Step.objects.filter(swarm__in={task.swarm_id for task in needing}, tasks_open__gt=0):
            open_steps[step.swarm_id, step.name] = step
    ready = {_provider(t) for t in rows if t.status == TaskStatus.READY and not _of_swarm(t.swarm)}
    classes = Provider.objects.served_by_few(ready) if ready else {}
    return {task.pk: _reason(task, open_steps, classes) if task.status in _NOT_YET else "" for task in rows}


def _provider(task: Task) -> str:
    return task.agent.model.partition(":")[0]


def _reason(task: Task, open_steps: Mapping[tuple[uuid.UUID, str], Step], classes: Mapping[str, Sequence[str]]) -> str:
    if reason := _of_swarm(task.swarm):
        return reason
    if task.status == TaskStatus.READY:
        if few := classes.get(_provider(task)):
            return f"It waits for a runner of the class {' or '.join(few)}, which alone may call {_provider(task)}."
        return "It waits for a runner to take it."
    if task.status == TaskStatus.WAITING:
        due = f" at {task.ready_at:%H:%M:%S} UTC" if task.ready_at else ""
        return f"Attempt {task.attempts_counted} failed; the next one is due{due}."
    needs = [open_steps[key] for name in task.step.needs if (key := (task.swarm_id, name)) in open_steps]
    if needs:
        parts = [
            f"{step.name} ({step.tasks_total - step.tasks_open} of {step.tasks_total} done)"
            if step.tasks_total > 1
            else step.name
            for step in needs[:5]
        ]
        more = f" and {len(needs) - 5} more" if len(needs) > 5 else ""
        return f"It needs {', '.join(parts)}{more}."
    agent = task.agent
    if agent.slots_free:
        return "It is about to be made ready."
    return f"It waits for a free replica of {agent.name} ({agent.replicas} of {agent.replicas} busy)."


def _of_swarm(swarm: Swarm) -> str:
    """What keeps every task of the swarm from starting; empty while it runs."""
    why = swarm.queue_reason if swarm.status == SwarmStatus.QUEUED else swarm.status_reason
    match swarm.status:
        case SwarmStatus.RUNNING:
            return ""
        case SwarmStatus.QUEUED:
            text = "Its swarm is queued"
        case SwarmStatus.PAUSED:
            text = "Its swarm is paused"
        case SwarmStatus.STOPPING:
            text = "Its swarm is being stopped" if swarm.stop_code else "Its swarm is being terminated"
        case _:
            return f"Its swarm is over: {swarm.status}."
    return f"{text}: {why}" if why else f"{text}."
