"""Attempts, the runners that make them, the orchestrator's ticks, and the queue of background jobs."""

from __future__ import annotations

import datetime as dt

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter

from apps.execution import (
    admin_archives,  # noqa: F401  (registers the archives)
    admin_queue,  # noqa: F401  (registers django-q2's models)
)
from apps.execution.admin_artifacts import files_column
from apps.execution.admin_trying import try_page
from apps.execution.models import Attempt, Outcome, Runner, Tick
from apps.providers.admin_regions import RegionAdmin
from apps.swarms.admin import TaskAdmin
from apps.tenants.admin_scoping import PlatformModelAdmin, TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import Card, ReadOnly, list_url
from portal.admin_columns import (
    BAD,
    CALM,
    GOOD,
    WARN,
    json_column,
    label,
    link_column,
    reference_column,
    share,
    short_column,
    status_column,
    text_column,
    usd_column,
    usd_exact,
    when_column,
    yes_column,
)
from portal.admin_fields import DateRangeFilter

SILENT_AFTER = dt.timedelta(seconds=15)
"""Heartbeats come every 2 s; a runner that misses this many is gone or stuck."""

TICK_LATE_AFTER = dt.timedelta(seconds=60)

RegionAdmin.try_page = staticmethod(try_page)
TaskAdmin.files = files_column("pk")


@admin.register(Attempt)
class AttemptAdmin(ReadOnly, TenantModelAdmin):
    about = "Every finished try at a task: what it ran with, how it ended, what it cost. Running ones are leased tasks."
    read_permission = Permission.SWARM_READ
    tenant_path = "task__swarm__tenant_id"
    swarm_path = "task__swarm_id"
    huge = True
    is_audited = False
    references = {"runner_id": "execution.Runner"}
    search_ids = ("task_id", "task__swarm_id", "runner_id")
    list_display = ("which", "task_link", "swarm_link", "outcome_label", "error_text", "took", "cost_usd", "finished")
    list_filter = (
        ("outcome", ChoicesDropdownFilter),
        ("failure_code", ChoicesDropdownFilter),
        TenantFilter,
        ("finished_at", DateRangeFilter),
    )
    search_fields = ("task__swarm__name", "error")
    search_help_text = "Id of an attempt, task or swarm, name of a swarm, words of an error"
    list_select_related = ("task", "task__step", "task__swarm")
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("which", "task_link", "swarm_link", "outcome_label", "failure_code", "error_full")}),
        ("Effort", {"fields": (("took", "requests"), "tokens", "estimated_exact", "cost_exact")}),
        ("Files of its task", {"fields": ("files",)}),
        ("Where and when", {"fields": ("runner", "started", "finished")}),
        ("What it ran with", {"fields": ("context_text",)}),
    )
    which = short_column("id", "Attempt")
    files = files_column("task_id")
    task_link = link_column("task", "Task")
    swarm_link = link_column("task__swarm", "Swarm")
    outcome_label = status_column(
        "outcome", "Outcome", {Outcome.SUCCEEDED: GOOD, Outcome.FAILED: BAD, Outcome.HANDED_BACK: WARN}
    )
    error_text = text_column("error", "Error", limit=60)
    error_full = text_column("error", "Error")
    context_text = json_column("context", "Context")
    runner = reference_column("runner_id", "Runner")
    cost_usd = usd_column("cost", "Cost")
    cost_exact = usd_exact("cost", "Actual cost")
    estimated_exact = usd_exact("estimated", "Estimated cost")
    started = when_column("started_at", "Started")
    finished = when_column("finished_at", "Finished")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Attempt]:
        """Without what may be large and no page shows: results, and the texts of steps and swarms."""
        rows: models.QuerySet[Attempt] = super().get_queryset(request)
        return rows.defer("task__item", "task__result", "task__step__prompt", "task__swarm__spec")

    @admin.display(description="Duration")
    def took(self, attempt: Attempt) -> str:
        return f"{attempt.seconds:.1f} s"

    @admin.display(description="Tokens in / out")
    def tokens(self, attempt: Attempt) -> str:
        return f"{attempt.input_tokens:,} / {attempt.output_tokens:,}"


@admin.register(Runner)
class RunnerAdmin(ReadOnly, PlatformModelAdmin):
    about = "The processes that run agents. Each writes a heartbeat; one that falls silent loses its leases in 30 s."
    is_audited = False
    empty_hint = "No worker has run yet. Start one: manage.py work --cluster agents."
    list_display = ("name", "state", "load", "heartbeat", "started", "finished")
    list_filter = (("started_at", DateRangeFilter),)
    search_fields = ("node",)
    ordering = ("-started_at", "-id")
    fieldsets = ((None, {"fields": ("name", "state", "load", "heartbeat", "started", "finished")}),)
    heartbeat = when_column("heartbeat_at", "Heartbeat")
    started = when_column("started_at", "Started")
    finished = when_column("finished_at", "Finished")

    @admin.display(description="Runner")
    def name(self, runner: Runner) -> str:
        return str(runner)

    @admin.display(description="State")
    def state(self, runner: Runner) -> SafeString:
        if runner.finished_at:
            return label("finished", CALM)
        if runner.heartbeat_at < timezone.now() - SILENT_AFTER:
            return label("silent", BAD, "No heartbeat: it was killed or hangs. Its tasks run again elsewhere.")
        return label("draining", WARN) if runner.draining else label("running", GOOD)

    @admin.display(description="Agents at once")
    def load(self, runner: Runner) -> SafeString:
        text = f"{runner.in_flight} of {runner.concurrency}"
        return share(runner.in_flight, runner.concurrency, text, warn_at=2, bad_at=2)

    def card(self, request: HttpRequest) -> Card:
        since = timezone.now() - SILENT_AFTER
        alive = Runner.objects.filter(finished_at=None, heartbeat_at__gte=since)
        facts = alive.aggregate(
            runners=models.Count("pk"), busy=models.Sum("in_flight"), room=models.Sum("concurrency")
        )
        detail = f"{facts['busy'] or 0} of {facts['room'] or 0} agents busy"
        return Card("Runners alive", str(facts["runners"]), detail, list_url(Runner), GOOD if facts["runners"] else BAD)


@admin.register(Tick)
class TickAdmin(ReadOnly, PlatformModelAdmin):
    about = "Rounds of the orchestrator, kept for a day: proof that it is alive, and what each round did."
    is_audited = False
    empty_hint = "The orchestrator has not run yet. Start it: manage.py orchestrate."
    huge = True
    list_display = ("when", "leader", "result", "milliseconds", "did_what", "error_text")
    list_filter = ("ok", ("at", DateRangeFilter))
    search_fields = ("leader", "error")
    ordering = ("-id",)
    fieldsets = ((None, {"fields": ("when", "leader", "result", "milliseconds", "did_text", "error_full")}),)
    when = when_column("at", "When")
    result = yes_column("ok", "Result", yes=("done", GOOD), no=("failed", BAD))
    did_text = json_column("did", "Did")
    error_text = text_column("error", "Error", limit=80)
    error_full = text_column("error", "Error")

    @admin.display(description="Took", ordering="seconds")
    def milliseconds(self, tick: Tick) -> str:
        return f"{tick.seconds * 1000:,.0f} ms"

    @admin.display(description="Did")
    def did_what(self, tick: Tick) -> str:
        counts = [f"{name} {count}" for name, count in tick.did.items() if count] if isinstance(tick.did, dict) else []
        return ", ".join(counts) or "nothing to do"

    def card(self, request: HttpRequest) -> Card:
        last = Tick.objects.order_by("-id").first()
        if last is None:
            return Card("Orchestrator", "never ran", "manage.py orchestrate starts it", list_url(Tick), BAD)
        age = timezone.now() - last.at
        tone = BAD if age > TICK_LATE_AFTER or not last.ok else GOOD
        detail = f"{last.leader}" if last.ok else f"The last round failed: {last.error[:80]}"
        return Card(
            "Orchestrator's last tick", f"{max(age.total_seconds(), 0):.0f} s ago", detail, list_url(Tick), tone
        )
