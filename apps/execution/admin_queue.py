"""The queue of background jobs (django-q2), to look at. What it holds is written by the code that enqueues."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django_q.models import Failure, OrmQ, Schedule, Success

from apps.tenants.admin_scoping import PlatformModelAdmin
from portal.admin import Card, ReadOnly, list_url
from portal.admin_columns import BAD, GOOD, label, preformatted, text_column, when_column
from portal.admin_fields import DateRangeFilter

for model in (Schedule, Success, Failure, OrmQ):
    admin.site.unregister(model)


class JobAdmin(ReadOnly, PlatformModelAdmin):
    """A finished job. Its arguments and result are pickled: they are shown as text and never edited."""

    huge = True
    is_audited = False
    list_display: tuple[str, ...] = ("name", "func", "cluster", "took", "stopped_at")
    list_filter = (("stopped", DateRangeFilter),)
    search_fields = ("name", "func", "group")
    ordering = ("-stopped", "-id")
    fieldsets = (
        (None, {"fields": ("name", "func", "group", "cluster", "took", "started_at", "stopped_at")}),
        ("Data", {"fields": ("arguments", "outcome")}),
    )
    started_at = when_column("started", "Started")
    stopped_at = when_column("stopped", "Finished")

    @admin.display(description="Duration")
    def took(self, job: Any) -> str:
        return f"{(job.stopped - job.started).total_seconds():.1f} s"

    @admin.display(description="Arguments")
    def arguments(self, job: Any) -> SafeString | str:
        return preformatted(repr({"args": job.args, "kwargs": job.kwargs})[:10_000])

    @admin.display(description="Result")
    def outcome(self, job: Any) -> SafeString | str:
        return preformatted(str(job.result or "")[:20_000])


@admin.register(Success)
class SuccessAdmin(JobAdmin):
    about = "Background jobs that ended well; the last thousand are kept. Runners of agents are jobs too."


@admin.register(Failure)
class FailureAdmin(JobAdmin):
    about = "Background jobs that ended with an error, with its text. Scheduled ones run again at their next time."
    empty_hint = "No job has failed."
    list_display = ("name", "func", "cluster", "error_text", "took", "stopped_at")

    @admin.display(description="Error")
    def error_text(self, job: Any) -> str:
        lines = str(job.result or "").strip().splitlines()
        return lines[-1][:120] if lines else "–"

    def card(self, request: HttpRequest) -> Card:
        count = Failure.objects.count()  # the queue keeps a bounded number of finished jobs
        return Card("Failed jobs", str(count), "of those still kept", list_url(Failure), BAD if count else GOOD)


@admin.register(Schedule)
class ScheduleAdmin(ReadOnly, PlatformModelAdmin):
    is_audited = False
    about = "Jobs that run at set times. The code makes and changes them when it starts."
    empty_hint = "Schedules appear once a worker of the ops cluster has started."
    list_display = ("title", "func", "schedule_type", "cluster", "next_at", "times_left")
    search_fields = ("name", "func")
    ordering = ("next_run", "id")
    fieldsets = (
        (None, {"fields": ("title", "func", "arguments", "cluster")}),
        ("When", {"fields": ("schedule_type", "minutes", "cron", "times_left", "next_at")}),
    )
    next_at = when_column("next_run", "Next run")
    arguments = text_column("kwargs", "Arguments")

    @admin.display(description="Times left", ordering="repeats")
    def times_left(self, schedule: Any) -> str:
        return "for ever" if schedule.repeats < 0 else str(schedule.repeats)

    @admin.display(description="Job", ordering="name")
    def title(self, schedule: Any) -> str:
        return str(schedule.name or schedule.func)


@admin.register(OrmQ)
class OrmQAdmin(ReadOnly, PlatformModelAdmin):
    is_audited = False
    about = "Jobs that wait for a worker, and those that one has taken and not finished yet."
    empty_hint = "No job waits."
    list_display = ("what", "key", "state", "locked")
    list_filter = ()
    ordering = ("-id",)
    fieldsets = ((None, {"fields": ("what", "key", "state", "locked", "content")}),)
    locked = when_column("lock", "Taken or due")

    @admin.display(description="Job")
    def what(self, row: OrmQ) -> str:
        task = self._task(row)
        return f"{task.get('name', '?')}: {task.get('func', '?')}"

    @admin.display(description="State")
    def state(self, row: OrmQ) -> SafeString:
        taken = row.lock is not None and row.lock > timezone.now()
        return label("taken", "info") if taken else label("waiting", "")

    @admin.display(description="Content")
    def content(self, row: OrmQ) -> SafeString | str:
        task = self._task(row)
        return preformatted("\n".join(f"{key}: {value!r}" for key, value in task.items())[:20_000])

    def _task(self, row: OrmQ) -> dict[str, Any]:
        """What the row's signed package says; the job's name is all one needs to know when it cannot be read."""
        task: Any = row.task
        return task if isinstance(task, dict) else {"name": row.key, "func": "not signed by this server"}

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[OrmQ]:
        rows: models.QuerySet[OrmQ] = super().get_queryset(request)
        return rows
