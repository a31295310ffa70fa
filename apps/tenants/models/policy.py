"""Access policies: what is denied to whom, unless it is asked within set hours and from set networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Cast, JSONObject
from django.utils import timezone

from apps.tenants import policies
from apps.tenants.models.tenant import Tenant
from apps.tenants.roles import Permission, Resource, Role
from portal.ids import uuid7
from portal.money import NanoDollarField


class PolicyState(models.TextChoices):
    DRAFT = "draft", "Draft: does nothing"
    TESTING = "testing", "Testing: only recorded"
    ENABLED = "enabled", "Enabled: denies"
    DISABLED = "disabled", "Disabled: does nothing"


S = PolicyState
POLICY_MOVES: dict[str, frozenset[str]] = {
    S.DRAFT: frozenset({S.TESTING, S.ENABLED}),
    S.TESTING: frozenset({S.ENABLED, S.DISABLED}),
    S.ENABLED: frozenset({S.TESTING, S.DISABLED}),
    S.DISABLED: frozenset({S.TESTING, S.ENABLED}),
}


class CannotMovePolicy(Exception):
    """Why a policy cannot be put into a state, for a person."""


class Via(models.TextChoices):
    ANY = "", "Login or token"
    LOGIN = "login", "Login only"
    TOKEN = "token", "Token only"


class AccessPolicyQuerySet(models.QuerySet["AccessPolicy"]):
    def in_force(self) -> AccessPolicyQuerySet:
        """The policies that are looked at: those enabled, and those under test."""
        return self.filter(state__in=[PolicyState.TESTING, PolicyState.ENABLED])

    def as_json(self) -> AccessPolicyQuerySet:
        """With ``document``, the JSON text that ``policies.parse`` reads."""
        names = [field.attname for field in self.model._meta.concrete_fields if field.attname in DOCUMENT]
        return self.annotate(document=Cast(JSONObject(**{name: F(name) for name in names}), models.TextField()))


class AccessPolicy(models.Model):
    """Denies actions on resources to people, after roles and grants; of one tenant, or of the platform for all.

    Lists that are empty mean any. Hours and networks are what it allows: it denies outside of them, and always when
    there are neither. Amounts count where money is at stake.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.CASCADE, related_name="access_policies")
    name = models.CharField(max_length=100, help_text="Told to people whom it denies something.")
    note = models.TextField(blank=True)
    state = models.CharField(max_length=10, choices=PolicyState, default=PolicyState.DRAFT, editable=False)
    actions = ArrayField(models.CharField(max_length=30), default=list, blank=True)
    resources = ArrayField(models.CharField(max_length=20), default=list, blank=True)
    users = ArrayField(models.UUIDField(), default=list, blank=True)
    roles = ArrayField(models.CharField(max_length=20), default=list, blank=True)
    tokens = ArrayField(models.CharField(max_length=25), default=list, blank=True)
    via = models.CharField(max_length=5, choices=Via, blank=True, default=Via.ANY)
    tenant_attributes = models.JSONField(default=dict, blank=True)
    above = NanoDollarField(null=True, blank=True)
    weekdays = ArrayField(models.PositiveSmallIntegerField(), default=list, blank=True)
    starts = models.TimeField(null=True, blank=True)
    ends = models.TimeField(null=True, blank=True)
    networks = ArrayField(models.CharField(max_length=50), default=list, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    changed_at = models.DateTimeField(auto_now=True, editable=False)

    objects = AccessPolicyQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["name", "id"]
        verbose_name_plural = "access policies"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "name"], name="one_policy_per_name", nulls_distinct=False),
            models.CheckConstraint(condition=Q(state__in=PolicyState.values), name="policy_state_known"),
            models.CheckConstraint(
                condition=Q(starts__isnull=True, ends__isnull=True) | (Q(starts__isnull=False) & ~Q(starts=F("ends"))),
                name="policy_hours_have_both_ends",
            ),
            models.CheckConstraint(
                condition=Q(above__isnull=True) | Q(above__gte=0), name="policy_amount_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError with every field that is wrong."""
        self.tenant_attributes = self.tenant_attributes or {}
        problems: dict[str, str] = {}
        for name, known in (("actions", set(Permission)), ("resources", set(Resource)), ("roles", set(Role.values))):
            if unknown := sorted(set(getattr(self, name)) - known):
                problems[name] = f"Not known: {', '.join(unknown)}."
        if any(day not in range(7) for day in self.weekdays):
            problems["weekdays"] = "Days are 0 (Monday) to 6 (Sunday)."
        if (self.starts is None) != (self.ends is None):
            problems["ends" if self.ends is None else "starts"] = "Give both ends of the hours, or neither."
        elif self.starts is not None and self.starts == self.ends:
            problems["ends"] = "Hours that begin and end at once are no hours. For whole days leave both empty."
        if wrong := [network for network in self.networks if not _is_network(network)]:
            problems["networks"] = f"Not a network such as 10.0.0.0/8 or 2001:db8::/32: {', '.join(wrong)}."
        if not _are_attributes(self.tenant_attributes):
            problems["tenant_attributes"] = 'Give a JSON object, such as {"tier": ["trial", "free"]}.'
        if problems:
            raise ValidationError(problems)

    @property
    def as_value(self) -> policies.Policy:
        """What it says, as a value, enforced whatever its state."""
        return policies.Policy(
            id=self.pk,
            name=self.name,
            tenant_id=self.tenant_id,
            actions=frozenset(self.actions),
            resources=frozenset(self.resources),
            users=frozenset(self.users),
            roles=frozenset(self.roles),
            tokens=frozenset(self.tokens),
            via=self.via,
            attributes=tuple(
                (name, tuple(wanted) if isinstance(wanted, list) else (wanted,))
                for name, wanted in sorted(self.tenant_attributes.items())
            ),
            above=self.above,
            weekdays=frozenset(self.weekdays),
            starts=self.starts,
            ends=self.ends,
            networks=tuple(map(ipaddress.ip_network, self.networks)),
        )

    def verify_move(self, state: str) -> None:
        """Raises CannotMovePolicy unless it can be put into that state."""
        if state not in POLICY_MOVES[self.state]:
            raise CannotMovePolicy(f"A policy that is {self.state} cannot become {state}.")

    def can_move(self, state: str) -> bool:
        return state in POLICY_MOVES[self.state]

    def move_to(self, state: str) -> None:
        """Sets the state; the caller saves. Raises CannotMovePolicy for a forbidden move."""
        self.verify_move(state)
        self.state = PolicyState(state)


DOCUMENT = frozenset(
    {
        "id", "name", "state", "tenant_id", "actions", "resources", "users", "roles", "tokens", "via",
        "tenant_attributes", "above", "weekdays", "starts", "ends", "networks",
    }
)  # fmt: skip
"""The fields of a policy that decide."""


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _are_attributes(value: Any) -> bool:
    def plain(each: Any) -> bool:
        return isinstance(each, str | int | float | bool)

    return isinstance(value, Mapping) and all(
        plain(wanted) or (isinstance(wanted, list) and bool(wanted) and all(map(plain, wanted)))
        for wanted in value.values()
    )
