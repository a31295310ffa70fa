"""The list of swarms, the page of one, and what can be done to it."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count, QuerySet, Sum
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse

from apps.console import board, files, graph
from apps.console.sentences import sentence
from apps.console.views.base import ConsoleView, Page, typed
from apps.console.visible import may_see
from apps.costs.models import LedgerEntry, Reservation
from apps.events.models import Event
from apps.execution.models import Artifact
from apps.swarms.actions import lifecycle
from apps.swarms.models import Agent, Priority, Step, Swarm, SwarmStatus, Task, TaskStatus
from apps.swarms.models.swarm import CannotAct
from apps.tenants.roles import Permission

PAGE_SIZE = 25
TASKS_PAGE_SIZE = 25
EVENTS = 60
CAUSES = 3


class SwarmList(Page):
    """``/swarms/``: every swarm that may be read, filtered and searched, a page at a time."""

    template_name: ClassVar[str] = "console/swarms.html"
    section = "swarms"
    title = "Swarms"

    @property
    def parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        return {"swarms": self.swarms}

    def context(self) -> dict[str, Any]:
        return {
            "statuses": SwarmStatus.choices,
            "priorities": Priority.choices,
            "status": self.request.GET.get("status", ""),
            "priority": self.request.GET.get("priority", ""),
            "search": typed(self.request.GET.get("q")),
        }

    def swarms(self) -> dict[str, Any]:
        asked = self.request.GET
        found = Swarm.objects.visible_to(self.principal).select_related("tenant")
        if self.tenant:
            found = found.filter(tenant=self.tenant)
        if asked.get("status") in SwarmStatus.values:
            found = found.filter(status=asked["status"])
        if asked.get("priority") in {str(value) for value in Priority.values}:
            found = found.filter(priority=int(asked["priority"]))
        if search := typed(asked.get("q")):
            found = found.search(search)
        shown = Paginator(found, PAGE_SIZE).get_page(asked.get("page"))
        return {
            "shown": shown,
            "pages": shown.paginator.get_elided_page_range(shown.number, on_each_side=1, on_ends=1),
            "rows": board.rows(shown.object_list, self.principal),
            "filtered": any(asked.get(key) for key in ("status", "priority", "q", "tenant")),
            "can_submit": any(self.principal.can(Permission.SWARM_CREATE, t.pk) for t in self.tenants),
        }


class SwarmPage(Page):
    """``/swarms/ID/``"""

    template_name: ClassVar[str] = "console/swarm.html"
    section = "swarms"

    @cached_property
    def swarm(self) -> Swarm:
        visible = Swarm.objects.visible_to(self.principal).select_related("tenant", "submitted_by")
        swarm: Swarm = get_object_or_404(visible, pk=self.kwargs["pk"])
        return swarm

    @property
    def title(self) -> str:  # type: ignore[override]
        return self.swarm.name

    @property
    def parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        self.swarm  # noqa: B018 (what may not be seen is not found, whichever part was asked for)
        return {
            "head": self.head,
            "graph": self.graph,
            "agents": self.agents,
            "files": self.files,
            "tasks": self.tasks,
            "events": self.events,
        }

    def may(self, permission: Permission) -> bool:
        """Whether the person has the permission on this swarm."""
        return self.principal.can(permission, self.swarm.tenant_id, swarm_id=self.swarm.pk)

    @cached_property
    def counts(self) -> dict[uuid.UUID, Counter[str]]:
        """Tasks by status, by step id."""
        counts: dict[uuid.UUID, Counter[str]] = defaultdict(Counter)
        rows = Task.objects.filter(swarm=self.swarm).order_by().values_list("step_id", "status").annotate(n=Count("id"))
        for step_id, status, n in rows:
            counts[step_id][status] = n
        return counts

    @cached_property
    def steps(self) -> list[Step]:
        return list(
            Step.objects.filter(swarm=self.swarm).select_related("agent").defer("prompt", "agent__instructions")
        )

    def context(self) -> dict[str, Any]:
        # Whatever its state: the button may come with a part that loads later.
        return {
            "swarm": self.swarm,
            "may_terminate": self.may(Permission.SWARM_TERMINATE),
        }

    def head(self) -> dict[str, Any]:
        swarm, principal = self.swarm, self.principal
        (row,) = board.rows([swarm], principal)
        may = {p: self.may(p) for p in (Permission.SWARM_UPDATE, Permission.SWARM_TERMINATE)}
        reserved = Reservation.objects.of_swarms([swarm.pk]).get(swarm.pk, 0) if row.cost is not None else None
        totals: Counter[str] = sum(self.counts.values(), Counter())
        return {
            "swarm": swarm,
            "row": row,
            "reserved": reserved,
            "totals": [(status, totals[status]) for status in TaskStatus if totals[status]],
            "causes": self.causes(),
            "acts": {
                "terminate": may[Permission.SWARM_TERMINATE] and swarm.can_terminate(),
                "pause": may[Permission.SWARM_UPDATE] and swarm.can_pause(),
                "resume": may[Permission.SWARM_UPDATE] and swarm.can_resume(),
                "retry": may[Permission.SWARM_UPDATE] and swarm.can_retry(),
            },
        }

    def causes(self) -> list[Mapping[str, Any]]:
        """What failed tasks failed of, the most frequent first: failure_code, error, n."""
        if not self.swarm.tasks_failed:
            return []
        failed = Task.objects.filter(swarm=self.swarm, status=TaskStatus.FAILED).order_by()
        return list(failed.values("failure_code", "error").annotate(n=Count("id")).order_by("-n")[:CAUSES])

    def graph(self) -> dict[str, Any]:
        return {"graph": graph.lay_out(self.steps, self.counts), "swarm": self.swarm}

    def agents(self) -> dict[str, Any]:
        swarm = self.swarm
        spent: dict[str, Mapping[str, Any]] = {}
        if self.may(Permission.COST_READ):
            sums = (
                LedgerEntry.objects.filter(swarm_id=swarm.pk)
                .order_by()
                .values("agent")
                .annotate(cost=Sum("amount"), tokens_in=Sum("input_tokens"), tokens_out=Sum("output_tokens"))
            )
            spent = {row["agent"]: row for row in sums}
        by_agent: dict[uuid.UUID, Counter[str]] = defaultdict(Counter)
        for step in self.steps:
            by_agent[step.agent_id].update(self.counts.get(step.pk, {}))
        return {
            "agents": [
                {"agent": agent, "counts": by_agent[agent.pk], "spent": spent.get(agent.name)}
                for agent in Agent.objects.filter(swarm=swarm).order_by("name")
            ],
            "money": self.may(Permission.COST_READ),
            "swarm": swarm,
        }

    def files(self) -> dict[str, Any]:
        return files.page_of(Artifact.objects.visible_to(self.principal).filter(swarm=self.swarm), self.request)

    def tasks(self) -> dict[str, Any]:
        asked = self.request.GET
        status = asked.get("status") if asked.get("status") in TaskStatus.values else ""
        step = asked.get("step") if asked.get("step") in {step.name for step in self.steps} else ""
        found: QuerySet[Task] = (
            Task.objects.filter(swarm=self.swarm).named().defer("result", "step__prompt", "swarm__spec")
        )
        if status:
            found = found.filter(status=status)
        if step:
            found = found.filter(step__name=step)
        # Counted by step and status already: one count less to ask for.
        names = {s.pk: s.name for s in self.steps}
        paginator = Paginator(found, TASKS_PAGE_SIZE)
        paginator.__dict__["count"] = sum(
            n
            for step_id, counts in self.counts.items()
            for state, n in counts.items()
            if (not status or state == status) and (not step or names.get(step_id) == step)
        )
        shown = paginator.get_page(asked.get("page"))
        totals: Counter[str] = sum(self.counts.values(), Counter())
        return {
            "swarm": self.swarm,
            "shown": shown,
            "pages": paginator.get_elided_page_range(shown.number, on_each_side=1, on_ends=1),
            "status": status,
            "step": step,
            "all_count": sum(totals.values()),
            "choices": [(s.value, s.label, totals[s]) for s in TaskStatus if totals[s] or s == status],
            "open_needs": {s.name for s in self.steps if s.tasks_open},
        }

    def events(self) -> dict[str, Any]:
        recent = Event.objects.filter(swarm_id=self.swarm.pk).order_by("-id")[:EVENTS]
        seen = [event for event in recent if may_see(self.principal, event)]
        tasks = Task.objects.filter(pk__in={e.task_id for e in seen if e.task_id}).select_related("step")
        keys = {task.pk: task.key for task in tasks.only("index", "step__name", "step__is_fan_out")}
        said = [
            (event, sentence(event.kind, event.data, keys.get(event.task_id, "") if event.task_id else self.swarm.name))
            for event in seen
        ]
        return {"events": said, "limit": EVENTS, "swarm": self.swarm}


ACTS: dict[str, tuple[Permission, str]] = {
    "terminate": (
        Permission.SWARM_TERMINATE,
        "is being terminated: nothing new starts, calls in flight are cancelled.",
    ),
    "pause": (Permission.SWARM_UPDATE, "is paused: nothing new starts until it is resumed."),
    "resume": (Permission.SWARM_UPDATE, "goes on."),
    "retry": (Permission.SWARM_UPDATE, "runs its failed tasks again."),
}


class SwarmAct(ConsoleView):
    """``POST /swarms/ID/terminate|pause|resume|retry/``: does it, and says what came of it on the swarm's page."""

    http_method_names = ["post"]

    def post(self, request: HttpRequest, pk: uuid.UUID, act: str) -> HttpResponse:
        if act not in ACTS:
            raise Http404
        permission, done = ACTS[act]
        swarm = get_object_or_404(Swarm.objects.visible_to(self.principal), pk=pk)
        self.principal.verify(permission, swarm.tenant_id, swarm_id=swarm.pk)
        reason = typed(request.POST.get("reason"))
        try:
            if act == "terminate":
                lifecycle.terminate(swarm, by=self.principal, reason=reason)
            elif act == "pause":
                lifecycle.pause(swarm, by=self.principal, reason=reason)
            elif act == "resume":
                lifecycle.resume(swarm, by=self.principal)
            else:
                lifecycle.retry_failed(swarm, by=self.principal)
        except CannotAct as refused:
            messages.error(request, f"{act.capitalize()} was refused. {refused}")
        else:
            messages.success(request, f"{swarm.name} {done}")
        return HttpResponseRedirect(reverse("console:swarm", args=[swarm.pk]))
