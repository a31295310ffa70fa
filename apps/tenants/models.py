"""Tenants, the people who work for them, and the tokens that act for those people."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from knox.models import AbstractAuthToken

from apps.tenants.roles import Role
from portal.ids import uuid7

USE_NOTED_EVERY = dt.timedelta(minutes=1)


def validate_time_zone(name: str) -> None:
    """Raises ValidationError unless ``name`` is an IANA time zone ("Europe/Berlin")."""
    # "localtime" is a link to the time zone of this machine, where there is one: the database does not know it.
    if name not in zoneinfo.available_timezones() or name == "localtime":
        raise ValidationError(f"{name!r} is not an IANA time zone, such as Europe/Berlin.")


class CallsInFlight(models.TextChoices):
    """What becomes of the calls in flight of a swarm that a used-up hard budget stops."""

    FINISH = "finish", "Finish: they are settled at what they cost"
    CANCEL = "cancel", "Cancel: within a second, charged as reserved"


class User(AbstractUser):  # type: ignore[django-manager-missing]
    """A person who logs in. A superuser is a platform admin: every tenant, every permission."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)


class Tenant(models.Model):  # type: ignore[django-manager-missing]
    """A customer or department: owns swarms, budgets and costs, and is seen by nobody else."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    time_zone = models.CharField(max_length=60, default="UTC", validators=[validate_time_zone])
    weight = models.PositiveIntegerField(
        default=1, validators=[MinValueValidator(1)], help_text="Share of the pool when tenants compete."
    )
    max_agents = models.PositiveIntegerField(
        null=True, blank=True, help_text="Most agents at once, over all its swarms. Empty: only the pool limits."
    )
    calls_at_limit = models.CharField(
        "calls in flight at the limit",
        max_length=6,
        choices=CallsInFlight,
        default=CallsInFlight.FINISH,
        help_text="What becomes of them when a hard budget is used up and stops their swarm.",
    )
    is_active = models.BooleanField(default=True, help_text="An inactive tenant submits nothing new.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["slug"]
        constraints: ClassVar = [models.CheckConstraint(condition=Q(weight__gte=1), name="tenant_weight_positive")]

    def __str__(self) -> str:
        return self.name

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        return zoneinfo.ZoneInfo(self.time_zone)


class Membership(models.Model):
    """A person's role in a tenant."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=20, choices=Role)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user", "tenant", "role"], name="one_membership_per_role")
        ]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.tenant}"


class ApiToken(AbstractAuthToken):
    """A token for the REST API: kept as a hash, bound to one tenant, and to one role unless empty.

    An empty role means every role its user has in that tenant, at the moment of use.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_tokens")
    role = models.CharField(max_length=20, choices=Role, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    def __str__(self) -> str:
        return f"{self.token_key}… of {self.user}"

    def has_expired(self, *, now: dt.datetime) -> bool:
        """Whether its time is over. Without an expiry it never is."""
        return self.expiry is not None and self.expiry <= now

    def note_use(self, *, now: dt.datetime) -> bool:
        """Keeps when it was last used, to the minute: whether this use was written."""
        stale = now - USE_NOTED_EVERY
        if self.last_used_at is not None and self.last_used_at > stale:
            return False
        # The condition again, for requests that read the row together: one of them writes.
        unnoted = Q(last_used_at__isnull=True) | Q(last_used_at__lte=stale)
        noted = bool(ApiToken.objects.filter(unnoted, pk=self.pk).update(last_used_at=now))
        self.last_used_at = now
        return noted
