"""A task: one prompt for one agent, its place in the queue, its lease and its result."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q

from apps.swarms.models.swarm import Agent, Step, Swarm
from apps.tenants.access import Principal
from apps.tenants.roles import Permission, Resource
from portal.ids import uuid7


class TaskStatus(models.TextChoices):
    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


T = TaskStatus
TASK_TERMINAL = frozenset({T.SUCCEEDED, T.FAILED, T.CANCELLED})
TASK_MOVES: dict[str, frozenset[str]] = {
    T.PENDING: frozenset({T.READY, T.CANCELLED}),
    T.READY: frozenset({T.RUNNING, T.PENDING, T.CANCELLED}),
    T.RUNNING: frozenset({T.SUCCEEDED, T.FAILED, T.WAITING, T.READY, T.PENDING, T.CANCELLED}),
    T.WAITING: frozenset({T.READY, T.PENDING, T.CANCELLED}),
    T.SUCCEEDED: frozenset(),
    T.FAILED: frozenset({T.PENDING}),
    T.CANCELLED: frozenset({T.PENDING}),
}
"""Which status may follow which. Failed tasks, and those cancelled because of them, start over when retried."""


class FailureCode(models.TextChoices):
    BUDGET_EXHAUSTED = "budget_exhausted"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_TIMEOUT = "provider_timeout"
    AGENT_ERROR = "agent_error"
    INVALID_OUTPUT = "invalid_output"
    POLICY_DENIED = "policy_denied"
    LEASE_EXPIRED = "lease_expired"
    CANCELLED = "cancelled"


class TaskQuerySet(models.QuerySet["Task"]):
    def visible_to(self, principal: Principal, permission: Permission = Permission.SWARM_READ) -> TaskQuerySet:
        """The tasks of swarms on which the principal has the permission."""
        found: TaskQuerySet = principal.limit(
            self, permission, "swarm__tenant_id", swarm_path="swarm_id", resource=Resource.TASK
        )
        return found

    def named(self) -> TaskQuerySet:
        """With what a task's key and its waiting reason read: its step, its agent and its swarm."""
        return self.select_related("step", "agent", "swarm")


class Task(models.Model):
    """One prompt for one agent.

    ``ready`` means a runner may lease it now: its needs are met, its swarm runs, and one of its agent's replicas is
    set aside for it (``Agent.slots_free``). ``rank`` orders ready tasks: the time it became ready in milliseconds, less
    a bonus for its priority; since all tasks age alike, this fixed number is priority with ageing.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    # Indexes below begin with these two; one more for each would be written three times for every task that runs.
    swarm = models.ForeignKey(Swarm, on_delete=models.CASCADE, related_name="tasks", db_index=False)
    step = models.ForeignKey(Step, on_delete=models.CASCADE, related_name="tasks", db_index=False)
    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="tasks")
    index = models.PositiveIntegerField(default=0, help_text="Place in the list of its step.")
    item = models.JSONField(null=True, blank=True)
    status = models.CharField(max_length=10, choices=TaskStatus, default=TaskStatus.PENDING, editable=False)
    rank = models.BigIntegerField(default=0, editable=False)
    ready_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when it is ready, or when its retry is due."
    )
    attempts_counted = models.PositiveIntegerField(
        default=0, editable=False, help_text="Attempts started and not handed back."
    )
    lease_token = models.UUIDField(null=True, blank=True, editable=False, help_text="Id of the attempt that may write.")
    lease_expires_at = models.DateTimeField(null=True, blank=True, editable=False)
    runner_id = models.UUIDField(null=True, blank=True, editable=False)
    started_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="Start of the last attempt.")
    finished_at = models.DateTimeField(null=True, blank=True, editable=False)
    result = models.JSONField(null=True, blank=True, editable=False)
    degraded = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="Its result rests on an older answer from the cache, as no region answered.",
    )
    failure_code = models.CharField(max_length=20, choices=FailureCode, blank=True, editable=False)
    error = models.TextField(blank=True, editable=False)

    objects = TaskQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["step__position", "index"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["step", "index"], name="one_task_per_index"),
            models.CheckConstraint(condition=Q(status__in=TaskStatus.values), name="task_status_known"),
            models.CheckConstraint(
                condition=Q(status="running", lease_token__isnull=False, lease_expires_at__isnull=False)
                | (~Q(status="running") & Q(lease_token__isnull=True, lease_expires_at__isnull=True)),
                name="running_means_leased",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["rank"], name="tasks_ready", condition=Q(status="ready")),
            models.Index(fields=["lease_expires_at"], name="tasks_leased", condition=Q(status="running")),
            models.Index(fields=["ready_at"], name="tasks_waiting", condition=Q(status="waiting")),
            models.Index(fields=["agent", "index"], name="tasks_pending", condition=Q(status="pending")),
            models.Index(fields=["swarm", "status"], name="tasks_of_swarm"),
        ]

    def __str__(self) -> str:
        return self.key

    @property
    def key(self) -> str:
        """Its name inside the swarm: "brief", or "gather[0]" for one of a fan-out. Reads ``step``."""
        return f"{self.step.name}[{self.index}]" if self.step.is_fan_out else self.step.name
