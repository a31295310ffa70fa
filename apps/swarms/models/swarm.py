"""A swarm, the agents it employs, and the steps of its task graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.tenants.access import Principal
from apps.tenants.models import CallsInFlight, Tenant, User
from apps.tenants.roles import Permission
from portal.ids import uuid7


class SwarmStatus(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TERMINATED = "terminated"


S = SwarmStatus
SWARM_TERMINAL = frozenset({S.SUCCEEDED, S.FAILED, S.TERMINATED})
SWARM_MOVES: dict[str, frozenset[str]] = {
    S.QUEUED: frozenset({S.RUNNING, S.PAUSED, S.TERMINATED}),
    S.RUNNING: frozenset({S.PAUSED, S.STOPPING, S.SUCCEEDED, S.FAILED, S.TERMINATED}),
    S.PAUSED: frozenset({S.RUNNING, S.QUEUED, S.STOPPING, S.SUCCEEDED, S.FAILED, S.TERMINATED}),
    S.STOPPING: frozenset({S.TERMINATED, S.FAILED}),
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset({S.QUEUED}),
    S.TERMINATED: frozenset(),
}
"""Which status may follow which. A failed swarm goes back to the queue when its failed tasks are retried.

A swarm that a person stops ends as terminated; one that its budget stops (``stop_code``) as failed.
"""


class CannotAct(Exception):
    """A swarm or task is not in a state for what was asked; the text says why, for a person."""


class Priority(models.IntegerChoices):
    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


class Runtime(models.TextChoices):
    LLM = "llm", "Model with instructions"
    HTTP = "http", "Agent service elsewhere"
    PYTHON = "python", "Registered callable"


class SwarmQuerySet(models.QuerySet["Swarm"]):
    def visible_to(self, principal: Principal, permission: Permission = Permission.SWARM_READ) -> SwarmQuerySet:
        """The swarms on which the principal has the permission: by a role in their tenant, or by a grant."""
        found: SwarmQuerySet = principal.limit(self, permission, swarm_path="pk")
        return found

    def unfinished(self) -> SwarmQuerySet:
        """The swarms that wait, run, pause or are being stopped."""
        return self.exclude(status__in=SWARM_TERMINAL)

    def to_archive(self) -> SwarmQuerySet:
        """The terminated swarms that are not archived yet, those that ended first before the others."""
        return self.filter(status=SwarmStatus.TERMINATED, archived_at=None).order_by("finished_at", "pk")

    def cancelling(self) -> SwarmQuerySet:
        """The swarms whose calls in flight are to be cancelled: a person stops them, or a budget of such a tenant."""
        finish = ~Q(stop_code="") & Q(tenant__calls_at_limit=CallsInFlight.FINISH)
        return self.filter(status=SwarmStatus.STOPPING).exclude(finish)

    def search(self, text: str) -> SwarmQuerySet:
        """The swarms whose name contains every word of ``text``, in any order."""
        found = self
        for word in text.split():
            found = found.filter(name__icontains=word)
        return found


class Swarm(models.Model):
    """One run of a swarm spec for a tenant."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="swarms")
    name = models.CharField(max_length=100)
    status = models.CharField(max_length=10, choices=SwarmStatus, default=SwarmStatus.QUEUED, editable=False)
    status_reason = models.TextField(blank=True, editable=False, help_text="Why it was paused, stopped or failed.")
    stop_code = models.CharField(
        max_length=20, blank=True, editable=False, help_text="The failure code that stopped all of it, if one did."
    )
    priority = models.PositiveSmallIntegerField(choices=Priority, default=Priority.NORMAL)
    spec = models.JSONField()
    overrides = models.JSONField(
        default=dict, blank=True, editable=False, help_text="By agent, what the tenant's overrides changed in the spec."
    )
    subject_id = models.UUIDField(null=True, blank=True, help_text="Pseudonym of the person this run is for.")
    submitted_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    estimated_duration_s = models.PositiveIntegerField(null=True, blank=True)

    # What it asks of the pool, and whether it holds it now.
    agents_asked = models.PositiveIntegerField(default=0)
    memory_gb_asked = models.DecimalField(max_digits=12, decimal_places=3, default=0)
    cpu_asked = models.DecimalField(max_digits=12, decimal_places=3, default=0)
    holds_resources = models.BooleanField(default=False, editable=False)

    # Why it waits, written by the orchestrator while it is queued.
    queue_reason = models.CharField(max_length=200, blank=True, editable=False)
    queue_position = models.PositiveIntegerField(null=True, blank=True, editable=False)
    estimated_start = models.DateTimeField(null=True, blank=True, editable=False)

    # Kept in the transaction that finishes tasks, under this row's lock.
    tasks_total = models.PositiveIntegerField(default=0, editable=False)
    tasks_succeeded = models.PositiveIntegerField(default=0, editable=False)
    tasks_failed = models.PositiveIntegerField(default=0, editable=False)
    tasks_cancelled = models.PositiveIntegerField(default=0, editable=False)
    version = models.BigIntegerField(default=1, editable=False, help_text="Counts changes; caches key on it.")

    created_at = models.DateTimeField(default=timezone.now, editable=False)
    queued_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True, editable=False)
    archived_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when its archive is in object storage."
    )

    objects = SwarmQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-created_at", "-id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(status__in=SwarmStatus.values), name="swarm_status_known"),
            models.CheckConstraint(
                condition=Q(
                    tasks_total__gte=models.F("tasks_succeeded")
                    + models.F("tasks_failed")
                    + models.F("tasks_cancelled")
                ),
                name="swarm_counts_add_up",
            ),
            models.CheckConstraint(
                condition=Q(holds_resources=False) | ~Q(status__in=["queued", "succeeded", "failed", "terminated"]),
                name="only_active_swarms_hold_resources",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "-created_at"], name="swarms_of_tenant"),
            models.Index(
                fields=["status", "queued_at"],
                name="swarms_not_finished",
                condition=Q(status__in=["queued", "running", "paused", "stopping"]),
            ),
            models.Index(
                fields=["finished_at"],
                name="swarms_to_archive",
                condition=Q(status="terminated", archived_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_over(self) -> bool:
        return self.status in SWARM_TERMINAL

    def move_to(self, status: SwarmStatus) -> None:
        """Sets the status; the caller holds the row's lock and saves. Raises CannotAct for a forbidden move."""
        if status not in SWARM_MOVES[self.status]:
            raise CannotAct(f"A {self.status} swarm cannot become {status}.")
        self.status = status

    def leave_queue(self) -> None:
        """Forgets what was said about its wait."""
        self.queue_reason, self.queue_position, self.estimated_start = "", None, None

    def verify_terminate(self) -> None:
        """Raises CannotAct with the reason unless it can be terminated."""
        if self.is_over:
            raise CannotAct(f"It is over already: {self.status}.")
        if self.status == SwarmStatus.STOPPING and not self.stop_code:
            raise CannotAct("It is being terminated already.")

    def verify_pause(self) -> None:
        """Raises CannotAct with the reason unless it can be paused."""
        if self.status not in (SwarmStatus.RUNNING, SwarmStatus.QUEUED):
            raise CannotAct(f"Only a running or queued swarm can be paused; this one is {self.status}.")

    def verify_resume(self) -> None:
        """Raises CannotAct with the reason unless it can be resumed."""
        if self.status != SwarmStatus.PAUSED:
            raise CannotAct(f"Only a paused swarm can be resumed; this one is {self.status}.")

    def verify_retry(self) -> None:
        """Raises CannotAct with the reason unless it has failed tasks that can be retried."""
        if self.status == SwarmStatus.STOPPING and self.stop_code:
            raise CannotAct("It is still being stopped: retry it when its calls in flight have ended.")
        if self.status not in (SwarmStatus.FAILED, SwarmStatus.RUNNING, SwarmStatus.PAUSED):
            raise CannotAct(f"A {self.status} swarm has nothing to retry.")
        if not self.tasks_failed:
            raise CannotAct("None of its tasks has failed.")

    def can_terminate(self) -> bool:
        return _allowed(self.verify_terminate)

    def can_pause(self) -> bool:
        return _allowed(self.verify_pause)

    def can_resume(self) -> bool:
        return _allowed(self.verify_resume)

    def can_retry(self) -> bool:
        return _allowed(self.verify_retry)


def _allowed(verify: Callable[[], None]) -> bool:
    try:
        verify()
    except CannotAct:
        return False
    return True


class Agent(models.Model):
    """An agent of a swarm: how its tasks are run, and how many of them at once (replicas)."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    swarm = models.ForeignKey(Swarm, on_delete=models.CASCADE, related_name="agents")
    name = models.CharField(max_length=100)
    runtime = models.CharField(max_length=10, choices=Runtime, default=Runtime.LLM)
    model = models.CharField(max_length=200, blank=True, help_text="provider:model")
    instructions = models.TextField(blank=True)
    options = models.JSONField(
        default=dict, blank=True, help_text="As its runtime asks: url, callable, cache or files."
    )
    replicas = models.PositiveIntegerField(default=1)
    slots_free = models.PositiveIntegerField(
        default=0, editable=False, help_text="Replicas with neither a ready nor a running task."
    )
    memory_gb = models.DecimalField(max_digits=9, decimal_places=3, default=2)
    cpu = models.DecimalField(max_digits=9, decimal_places=3, default=0.5)
    max_output_tokens = models.PositiveIntegerField(default=1024)
    timeout_s = models.FloatField(default=120)
    retry = models.JSONField(default=dict, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["swarm", "name"], name="one_agent_per_name"),
            models.CheckConstraint(condition=Q(slots_free__lte=models.F("replicas")), name="slots_within_replicas"),
        ]

    def __str__(self) -> str:
        return self.name


class Step(models.Model):
    """One entry under ``tasks`` of a spec: a single task, or one per item of its list."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    swarm = models.ForeignKey(Swarm, on_delete=models.CASCADE, related_name="steps")
    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="steps")
    name = models.CharField(max_length=100)
    position = models.PositiveIntegerField()
    prompt = models.TextField(help_text="Template; sees item and the results of the steps it needs.")
    needs = ArrayField(models.CharField(max_length=100), default=list, blank=True)
    is_fan_out = models.BooleanField(default=False)
    open_needs = models.PositiveIntegerField(
        default=0, editable=False, help_text="Needed steps that have not succeeded yet."
    )
    tasks_total = models.PositiveIntegerField(default=1)
    tasks_open = models.PositiveIntegerField(default=1, editable=False, help_text="Tasks that have not succeeded yet.")

    class Meta:
        ordering: ClassVar = ["position"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["swarm", "name"], name="one_step_per_name")]

    def __str__(self) -> str:
        return self.name
