"""Who has which role in which tenant."""

from __future__ import annotations

from typing import ClassVar

from django.core.exceptions import ValidationError
from django.db import models

from apps.tenants.models.tenant import Tenant
from apps.tenants.models.user import User
from apps.tenants.roles import Role
from portal.ids import uuid7


class Membership(models.Model):
    """A person's role in a tenant: given by hand, or by a group at an identity provider.

    The two are separate rows. A login takes away what the provider's groups no longer give, and nothing else.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=20, choices=Role)
    provider = models.ForeignKey(
        "tenants.IdentityProvider",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        editable=False,
        related_name="memberships",
        help_text="Whose groups gave it. Empty: given by hand.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["user", "tenant", "role", "provider"], nulls_distinct=False, name="one_membership_per_role"
            )
        ]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.tenant}"

    def clean(self) -> None:
        """A role is given by hand once. (Django leaves this constraint out where a form lacks one of its fields.)"""
        same = Membership.objects.filter(user=self.user_id, tenant=self.tenant_id, role=self.role, provider=None)
        if self.provider_id is None and same.exclude(pk=self.pk).exists():
            raise ValidationError("This person has this role here already.")
