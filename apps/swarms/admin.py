"""Swarms with their agents, steps and tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action
from unfold.enums import ActionVariant

from apps.costs.models import LedgerEntry
from apps.swarms import admin_acts as acts
from apps.swarms import admin_overrides, admin_pool  # noqa: F401  (they register what they show)
from apps.swarms.models import Agent, Step, Swarm, SwarmStatus, Task, TaskStatus
from apps.swarms.models.swarm import SWARM_TERMINAL
from apps.tenants.admin_grants import grant_page
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.models import SwarmGrant
from apps.tenants.roles import Permission
from portal.admin import Card, ReadOnly, admin_url, list_url
from portal.admin_columns import (
    BAD,
    BUSY,
    CALM,
    GOOD,
    NOTHING,
    WARN,
    Display,
    json_column,
    link_column,
    moment,
    money,
    reference_column,
    share,
    short_column,
    status_column,
    text_column,
    when_column,
    yes_column,
)
from portal.admin_fields import DateRangeFilter

SWARM_TONES = {
    SwarmStatus.RUNNING: BUSY,
    SwarmStatus.PAUSED: WARN,
    SwarmStatus.STOPPING: WARN,
    SwarmStatus.SUCCEEDED: GOOD,
    SwarmStatus.FAILED: BAD,
    SwarmStatus.TERMINATED: BAD,
}
TASK_TONES = {
    TaskStatus.RUNNING: BUSY,
    TaskStatus.WAITING: WARN,
    TaskStatus.SUCCEEDED: GOOD,
    TaskStatus.FAILED: BAD,
    TaskStatus.CANCELLED: CALM,
}
PRIORITY_TONES = {2: WARN, 3: BAD}


@admin.register(Swarm)
class SwarmAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "One run of a spec each. They are submitted by the console, the API or submit_swarm, and change only by what "
        "their tasks do and by the acts here."
    )
    empty_hint = "Submit one: manage.py submit_swarm FILE --tenant SLUG, the console, or POST /api/v1/swarms/."
    read_permission = Permission.SWARM_READ
    swarm_path = "pk"
    references = {"subject_id": "privacy.DataSubject"}
    search_ids = ("subject_id",)
    list_disable_select_all = True
    list_display = ("name", "status_label", "tenant_link", "priority_label", "progress", "cost", "waits", "created")
    list_filter = (
        ("status", ChoicesDropdownFilter),
        ("priority", ChoicesDropdownFilter),
        TenantFilter,
        ("created_at", DateRangeFilter),
    )
    search_fields = ("name",)
    search_help_text = "Name or id"
    list_select_related = ("tenant", "submitted_by")
    ordering = ("-id",)
    actions = ("terminate_chosen", "pause_chosen", "resume_chosen", "retry_chosen")
    actions_detail = ("terminate_one", "pause_one", "resume_one", "retry_one", "grant_one")
    fieldsets = (
        (None, {"fields": ("status_label", "why", "tenant_link", "priority_label", "progress", "cost")}),
        (
            "Inside",
            {
                "fields": (
                    "live_page",
                    "agents_link",
                    "tasks_link",
                    "files_link",
                    "events_link",
                    "ledger_link",
                    "archive_link",
                )
            },
        ),
        ("Asked of the pool", {"fields": ("agents_asked", "memory_gb_asked", "cpu_asked", "holds_resources")}),
        ("Queue", {"fields": ("queue_reason", "queue_position", "starts")}),
        (
            "Who and when",
            {"fields": ("submitter", "subject", "grants_link", "created", "queued", "started", "finished")},
        ),
        ("Spec", {"fields": ("overridden", "spec_text"), "classes": ["collapse"]}),
    )
    status_label = status_column("status", "Status", SWARM_TONES)
    priority_label = status_column("priority", "Priority", PRIORITY_TONES)
    tenant_link = link_column("tenant", "Tenant")
    submitter = link_column("submitted_by", "Submitted by")
    subject = reference_column("subject_id", "For the person")
    why = text_column("status_reason", "Reason")
    created = when_column("created_at", "Submitted")
    queued = when_column("queued_at", "Queued")
    started = when_column("started_at", "Started")
    finished = when_column("finished_at", "Finished")
    starts = when_column("estimated_start", "Estimated start")
    spec_text = json_column("spec", "As submitted")
    overridden = json_column("overrides", "Changed by agent overrides")

    def prepared(self, request: HttpRequest, rows: Iterable[Any]) -> list[Any]:
        prepared = super().prepared(request, rows)
        by = self.principal(request)
        shown = [row for row in prepared if by.can(Permission.COST_READ, row.tenant_id, swarm_id=row.pk)]
        costs = LedgerEntry.objects.of_swarms(row.pk for row in shown) if shown else {}
        for row in shown:
            row.__dict__["_cost"] = costs[row.pk].total
        return prepared

    @admin.display(description="Progress")
    def progress(self, swarm: Swarm) -> SafeString:
        text = f"{swarm.tasks_succeeded} of {swarm.tasks_total} succeeded"
        text += f", {swarm.tasks_failed} failed" if swarm.tasks_failed else ""
        never = {"warn_at": 2.0, "bad_at": 2.0}
        return share(swarm.tasks_succeeded, swarm.tasks_total, text, failed=swarm.tasks_failed, **never)

    @admin.display(description="Cost")
    def cost(self, swarm: Swarm) -> SafeString | str:
        return money(swarm.__dict__.get("_cost"))

    @admin.display(description="Waits for", ordering="queue_position")
    def waits(self, swarm: Swarm) -> SafeString | str:
        if swarm.status != SwarmStatus.QUEUED:
            return moment(None)
        place = f"No. {swarm.queue_position}: " if swarm.queue_position else ""
        return f"{place}{swarm.queue_reason or 'its turn'}"

    @admin.display(description="Live")
    def live_page(self, swarm: Swarm) -> SafeString:
        url = reverse("console:swarm", args=[swarm.pk])
        return format_html('<a href="{}" class="text-link">Watch it in the console</a>', url)

    @admin.display(description="Agents")
    def agents_link(self, swarm: Swarm) -> SafeString | str:
        return self.link_to_list(swarm, Agent, f"swarm__id__exact={swarm.pk}", f"{swarm.agents_asked} replicas")

    @admin.display(description="Tasks")
    def tasks_link(self, swarm: Swarm) -> SafeString | str:
        return self.link_to_list(swarm, Task, f"swarm__id__exact={swarm.pk}", f"{swarm.tasks_total} tasks")

    @admin.display(description="Files")
    def files_link(self, swarm: Swarm) -> SafeString | str:
        return self.link_to_list(swarm, "execution.Artifact", f"swarm__id__exact={swarm.pk}", "What its agents made")

    @admin.display(description="Events")
    def events_link(self, swarm: Swarm) -> SafeString | str:
        return self.link_to_list(swarm, "events.Event", f"swarm_id={swarm.pk}", "What happened to it")

    @admin.display(description="Ledger")
    def ledger_link(self, swarm: Swarm) -> SafeString | str:
        return self.link_to_list(
            swarm, LedgerEntry, f"swarm={swarm.pk}&period=any_time", "What it owes, entry by entry"
        )

    @admin.display(description="Archive")
    def archive_link(self, swarm: Swarm) -> SafeString | str:
        if swarm.archived_at:
            return self.link_to_list(swarm, "execution.Archive", f"swarm__id__exact={swarm.pk}", "Its document")
        return "Being written" if swarm.status == SwarmStatus.TERMINATED else NOTHING

    @admin.display(description="Grants")
    def grants_link(self, swarm: Swarm) -> SafeString | str:
        return self.link_to_list(swarm, SwarmGrant, f"swarm_id={swarm.pk}", "Who has access to this swarm alone")

    def has_terminate_permission(self, request: HttpRequest) -> bool:
        return self.holds(request, Permission.SWARM_TERMINATE)

    def has_steer_permission(self, request: HttpRequest) -> bool:
        return self.holds(request, Permission.SWARM_UPDATE)

    @admin.action(description="Terminate…", permissions=["terminate"])
    def terminate_chosen(self, request: HttpRequest, swarms: models.QuerySet[Swarm]) -> HttpResponse | None:
        return acts.ask(self, request, acts.TERMINATE, list(self.chosen(request)))

    @admin.action(description="Pause", permissions=["steer"])
    def pause_chosen(self, request: HttpRequest, swarms: models.QuerySet[Swarm]) -> None:
        acts.perform(self, request, acts.PAUSE, list(self.chosen(request)))

    @admin.action(description="Resume", permissions=["steer"])
    def resume_chosen(self, request: HttpRequest, swarms: models.QuerySet[Swarm]) -> None:
        acts.perform(self, request, acts.RESUME, list(self.chosen(request)))

    @admin.action(description="Retry failed tasks", permissions=["steer"])
    def retry_chosen(self, request: HttpRequest, swarms: models.QuerySet[Swarm]) -> None:
        acts.perform(self, request, acts.RETRY, list(self.chosen(request)))

    @action(description="Terminate…", url_path="terminate", icon="cancel", variant=ActionVariant.DANGER)
    def terminate_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.page(self, request, acts.TERMINATE, object_id)

    @action(description="Pause…", url_path="pause", icon="pause_circle")
    def pause_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.page(self, request, acts.PAUSE, object_id)

    @action(description="Resume…", url_path="resume", icon="play_circle")
    def resume_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.page(self, request, acts.RESUME, object_id)

    @action(description="Retry failed tasks…", url_path="retry", icon="replay")
    def retry_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.page(self, request, acts.RETRY, object_id)

    @action(description="Grant access…", url_path="grant", icon="handshake")
    def grant_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Gives somebody access to this swarm alone."""
        swarm = self.row_or_none(request, object_id)
        if swarm is None:
            return redirect(list_url(Swarm))
        if not self.principal(request).can(Permission.USER_MANAGE, swarm.tenant_id):
            raise PermissionDenied
        context = {**self.admin_site.each_context(request), "opts": self.opts}
        return grant_page(
            request, context, swarm_id=swarm.pk, name=swarm.name, tenant=swarm.tenant, back=admin_url(swarm)
        )

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """The buttons that would do something now, for people who may."""
        swarm = self.row_or_none(request, object_id)
        if swarm is None:
            return []
        by = self.principal(request)
        steering = zip(self.actions_detail, (acts.TERMINATE, acts.PAUSE, acts.RESUME, acts.RETRY), strict=False)
        names = [name for name, act in steering if not act.refusal(swarm, by)]
        if by.can(Permission.USER_MANAGE, swarm.tenant_id):
            names.append("grant_one")
        possible = {f"{self.opts.app_label}_{self.opts.model_name}_{name}" for name in names}
        return [each for each in super().get_actions_detail(request, object_id) if each.action_name in possible]

    def card(self, request: HttpRequest) -> Card:
        """What is under way now: a small part of the table, with an index of its own."""
        rows = self.get_queryset(request).exclude(status__in=SWARM_TERMINAL).order_by()
        counts = dict(rows.values_list("status").annotate(models.Count("pk")))
        queued, paused = counts.get("queued", 0), counts.get("paused", 0)
        return Card(
            "Swarms running",
            str(counts.get("running", 0)),
            f"{queued} queued, {paused} paused",
            list_url(Swarm, "status__exact=running"),
        )


class PartOfSwarmAdmin(ReadOnly, TenantModelAdmin):
    """What belongs to a swarm: seen with it, changed by nobody."""

    is_audited = False
    read_permission = Permission.SWARM_READ
    tenant_path = "swarm__tenant_id"
    swarm_path = "swarm_id"
    swarm_link = link_column("swarm", "Swarm")
    huge = True
    ordering = ("-id",)


@admin.register(Agent)
class AgentAdmin(PartOfSwarmAdmin):
    about = "The agents that a swarm's spec employs: how their tasks run, and how many at once."
    list_display = ("name", "swarm_link", "runtime", "model", "replicas", "slots_free", "max_output_tokens")
    list_filter = (TenantFilter, ("runtime", ChoicesDropdownFilter))
    search_fields = ("name", "model")
    search_ids = ("swarm_id",)
    list_select_related = ("swarm",)
    fieldsets = (
        (None, {"fields": ("name", "swarm_link", "runtime", "model", "instructions_text", "options_text")}),
        ("Limits", {"fields": ("replicas", "slots_free", "memory_gb", "cpu", "max_output_tokens", "timeout_s")}),
        ("Retries", {"fields": ("retry_text", "tasks_link")}),
    )
    instructions_text = text_column("instructions", "Instructions")
    options_text = json_column("options", "Options")
    retry_text = json_column("retry", "Own retry policy")

    @admin.display(description="Tasks")
    def tasks_link(self, agent: Agent) -> SafeString | str:
        return self.link_to_list(agent, Task, f"agent__id__exact={agent.pk}", "Its tasks")


@admin.register(Step)
class StepAdmin(PartOfSwarmAdmin):
    about = "The entries under “tasks” of a spec: a single task, or one for each item of a list."
    list_display = ("name", "swarm_link", "agent_link", "needs_list", "tasks_total", "tasks_open", "open_needs")
    list_filter = (TenantFilter,)
    search_fields = ("name",)
    search_ids = ("swarm_id",)
    list_select_related = ("swarm", "agent")
    fieldsets = (
        (None, {"fields": ("name", "swarm_link", "agent_link", "position", "needs_list", "is_fan_out")}),
        ("Progress", {"fields": ("tasks_total", "tasks_open", "open_needs", "tasks_link")}),
        ("Prompt", {"fields": ("prompt_text",)}),
    )
    agent_link = link_column("agent", "Agent")
    prompt_text = text_column("prompt", "Template")

    @admin.display(description="Needs")
    def needs_list(self, step: Step) -> str:
        return ", ".join(step.needs) or "–"

    @admin.display(description="Tasks")
    def tasks_link(self, step: Step) -> SafeString | str:
        return self.link_to_list(step, Task, f"step__id__exact={step.pk}", "Its tasks")


@admin.register(Task)
class TaskAdmin(PartOfSwarmAdmin):
    about = "One prompt for one agent each: its place in the queue, its lease, its result. Runners write them."
    search_help_text = "Id of a task or of its swarm, name of a step or swarm"
    list_display = ("name", "status_label", "swarm_link", "agent_link", "tries", "error_text", "ready", "finished")
    list_filter = (
        ("status", ChoicesDropdownFilter),
        ("failure_code", ChoicesDropdownFilter),
        TenantFilter,
        ("finished_at", DateRangeFilter),
    )
    search_fields = ("step__name", "swarm__name")
    search_ids = ("swarm_id", "agent_id", "step_id")
    list_select_related = ("swarm", "step", "agent")
    list_disable_select_all = True
    actions = ("retry_chosen",)
    actions_detail = ("retry_one",)
    fieldsets = (
        (None, {"fields": ("status_label", "swarm_link", "agent_link", "step_link", "item_text", "attempts_link")}),
        ("Outcome", {"fields": ("failure_code", "error_full", "rests_on", "result_text", "files")}),
        ("Times", {"fields": ("ready", "started", "finished")}),
        ("Lease", {"fields": ("lease", "lease_ends", "runner")}),
    )
    references = {"runner_id": "execution.Runner"}
    files: Display
    """The files that it made: an upper layer, which knows of files, puts its column here."""
    status_label = status_column("status", "Status", TASK_TONES)
    rests_on = yes_column(
        "degraded", "Rests on", yes=("an older answer, as no region answered", WARN), no=("answers to its calls", GOOD)
    )
    agent_link = link_column("agent", "Agent")
    step_link = link_column("step", "Step")
    error_text = text_column("error", "Error", limit=60)
    error_full = text_column("error", "Error")
    item_text = json_column("item", "Item")
    result_text = json_column("result", "Result")
    ready = when_column("ready_at", "Ready")
    started = when_column("started_at", "Last attempt")
    finished = when_column("finished_at", "Finished")
    lease = short_column("lease_token", "Lease token")
    lease_ends = when_column("lease_expires_at", "Lease ends")
    runner = reference_column("runner_id", "Runner")

    @admin.display(description="Task")
    def name(self, task: Task) -> str:
        return task.key

    @admin.display(description="Attempts", ordering="attempts_counted")
    def tries(self, task: Task) -> str:
        return str(task.attempts_counted)

    @admin.display(description="Attempts")
    def attempts_link(self, task: Task) -> SafeString | str:
        text = f"{task.attempts_counted} counted"
        return self.link_to_list(task, "execution.Attempt", f"task__id__exact={task.pk}", text)

    def has_steer_permission(self, request: HttpRequest) -> bool:
        return self.holds(request, Permission.SWARM_UPDATE)

    @admin.action(description="Retry", permissions=["steer"])
    def retry_chosen(self, request: HttpRequest, tasks: models.QuerySet[Task]) -> None:
        acts.perform(self, request, acts.RETRY_TASK, list(self.chosen(request)))

    @action(description="Retry…", url_path="retry", icon="replay")
    def retry_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.page(self, request, acts.RETRY_TASK, object_id)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        task = self.row_or_none(request, object_id)
        if task is None or acts.RETRY_TASK.refusal(task, self.principal(request)):
            return []
        return list(super().get_actions_detail(request, object_id))
