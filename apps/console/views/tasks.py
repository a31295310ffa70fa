"""The page of a task: what it was asked, what it answered, and every attempt."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse

from apps.console import files
from apps.console.views.base import ConsoleView, Page
from apps.execution.models import Artifact, Attempt
from apps.swarms.actions import lifecycle
from apps.swarms.models import Step, Task, TaskStatus
from apps.swarms.models.swarm import CannotAct
from apps.tenants.roles import Permission

ATTEMPTS = 20


class TaskPage(Page):
    """``/tasks/ID/``"""

    template_name: ClassVar[str] = "console/task.html"
    section = "swarms"

    @cached_property
    def task(self) -> Task:
        rows = Task.objects.visible_to(self.principal).named().select_related("swarm__tenant").defer("swarm__spec")
        task: Task = get_object_or_404(rows, pk=self.kwargs["pk"])
        return task

    @property
    def title(self) -> str:  # type: ignore[override]
        return self.task.key

    @property
    def parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        self.task  # noqa: B018 (what may not be seen is not found)
        return {"task": self.details}

    def context(self) -> dict[str, Any]:
        return {"task": self.task, "swarm": self.task.swarm}

    def details(self) -> dict[str, Any]:
        task, principal = self.task, self.principal
        tenant_id = task.swarm.tenant_id
        attempts = list(Attempt.objects.filter(task=task).order_by("-started_at")[:ATTEMPTS])
        last = attempts[0] if attempts else None
        context = dict(last.context) if last else {}
        prompt = context.pop("prompt", None)
        return {
            **files.page_of(Artifact.objects.visible_to(principal).filter(task=task), self.request),
            "task": task,
            "swarm": task.swarm,
            "attempts": attempts,
            "attempts_limit": ATTEMPTS if len(attempts) == ATTEMPTS else None,
            "prompt": prompt if isinstance(prompt, str) else (readable(prompt) if prompt else ""),
            "ran_with": [(key.replace("_", " "), readable(value)) for key, value in context.items()],
            "result": readable(task.result) if task.result is not None else "",
            "item": readable(task.item) if task.item is not None else "",
            "unmet": list(
                Step.objects.filter(swarm=task.swarm, name__in=task.step.needs, tasks_open__gt=0).values_list(
                    "name", flat=True
                )
            )
            if task.status == TaskStatus.PENDING and task.step.needs
            else [],
            "money": principal.can(Permission.COST_READ, tenant_id, swarm_id=task.swarm_id),
            "can_retry": (
                task.status == TaskStatus.FAILED
                and principal.can(Permission.SWARM_UPDATE, tenant_id, swarm_id=task.swarm_id)
                and task.swarm.can_retry()
            ),
        }


def readable(value: Any) -> str:
    """A JSON value as text: a string as it is, anything else indented."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


class TaskRetry(ConsoleView):
    """``POST /tasks/ID/retry/``"""

    http_method_names = ["post"]

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        task = get_object_or_404(Task.objects.visible_to(self.principal).named(), pk=pk)
        self.principal.verify(Permission.SWARM_UPDATE, task.swarm.tenant_id, swarm_id=task.swarm_id)
        try:
            lifecycle.retry_task(task, by=self.principal)
        except CannotAct as refused:
            messages.error(request, f"Retry was refused. {refused}")
        else:
            messages.success(request, f"{task.key} runs again.")
        return HttpResponseRedirect(reverse("console:task", args=[task.pk]))
