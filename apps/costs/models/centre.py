"""Cost centres: to which part of a tenant's own books an entry goes."""

from __future__ import annotations

from typing import ClassVar

from django.core.validators import RegexValidator
from django.db import models

from apps.costs.models.ledger import Kind
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission


def words_of(kind: str, agent: str, model: str, run: str, subject: str) -> str:
    """What a rule takes, in words: "model calls, agent research-*", or "everything"."""
    named = [("agent", agent), ("model", model), ("run", run), ("user", subject)]
    parts = [Kind(kind).label.lower()] if kind in Kind.values else []
    return ", ".join([*parts, *(f"{name} {value}" for name, value in named if value)]) or "everything"


class CostCentreQuerySet(models.QuerySet["CostCentre"]):
    def visible_to(self, principal: Principal) -> CostCentreQuerySet:
        """The cost centres of tenants whose costs the principal may read."""
        rows: CostCentreQuerySet = principal.limit(self, Permission.COST_READ)
        return rows


class CostCentre(models.Model):
    """A place in a tenant's books. Rules say what is charged to it; a closed month keeps those it was closed with."""

    id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="cost_centres")
    code = models.CharField(
        max_length=40,
        validators=[
            RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._/-]*\Z", "Letters, digits and . _ / - only, such as CC-4711.")
        ],
        help_text="As the books have it, such as CC-4711.",
    )
    name = models.CharField(max_length=100)

    objects = CostCentreQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["tenant_id", "code"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["tenant", "code"], name="one_cost_centre_per_code")]

    def __str__(self) -> str:
        return f"{self.code} {self.name}"


class CentreRule(models.Model):
    """Charges entries to a cost centre: those that match all that is filled in; with nothing filled in, every entry.

    Of a tenant's rules, the first that matches, by ``position``, decides. ``agent``, ``model`` and ``run`` are patterns
    in which * stands for any text and ? for one character.
    """

    id = models.BigAutoField(primary_key=True)
    centre = models.ForeignKey(CostCentre, on_delete=models.CASCADE, related_name="rules")
    position = models.PositiveIntegerField(
        default=10, help_text="The rule with the lowest number that matches decides."
    )
    kind = models.CharField(max_length=14, choices=Kind, blank=True)
    agent = models.CharField(max_length=100, blank=True, help_text="A name, or a pattern: research-*")
    model = models.CharField(max_length=200, blank=True, help_text="A model, or a pattern: openai:*")
    run = models.CharField(max_length=100, blank=True, help_text="Of agents that run elsewhere; may be a pattern.")
    subject_id = models.UUIDField("user", null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["position", "id"]

    def __str__(self) -> str:
        return words_of(self.kind, self.agent, self.model, self.run, str(self.subject_id or ""))
