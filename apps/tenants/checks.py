"""System checks of what the environment says about people."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from apps.tenants.roles import Role


@register()
def group_roles_are_roles(**_: Any) -> list[CheckMessage]:
    """tenants.E001: OIDC_GROUP_ROLES names a role that there is not."""
    unknown = sorted({entry.role for entry in settings.OIDC_GROUP_ROLES} - set(Role.values))
    return [
        Error(
            f"OIDC_GROUP_ROLES: {role} is not a role.",
            hint="Roles are " + ", ".join(Role.values) + ".",
            id="tenants.E001",
        )
        for role in unknown
    ]
