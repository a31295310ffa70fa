"""Who has which role in which tenant."""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from apps.tenants.models.tenant import Tenant
from apps.tenants.models.user import User
from apps.tenants.roles import Role
from portal.ids import uuid7


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
