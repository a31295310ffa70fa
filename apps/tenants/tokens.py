"""Which tokens a caller may see, make and revoke."""

from __future__ import annotations

from django.db.models import Q, QuerySet

from apps.tenants.access import AccessDenied, Principal
from apps.tenants.models import ApiToken, Tenant, User
from apps.tenants.roles import Permission, Resource


def tokens_seen(by: Principal, user: User) -> QuerySet[ApiToken]:
    """The tokens that a caller sees and may revoke: their own, and those of tenants whose people they manage.

    ``user`` is whom ``by`` acts for. A token that may not manage people sees itself alone: whoever finds it learns
    nothing of the others, and can end none of them.
    """
    rows: QuerySet[ApiToken] = ApiToken.objects.select_related("user", "tenant")
    managed = by.tenant_ids(Permission.USER_MANAGE, resource=Resource.TOKEN)
    if managed is None:
        return rows
    own = Q(token_key=by.ref.split("/")[-1]) if by.kind == "token" else Q()
    return rows.filter(Q(own, user=user) | Q(tenant_id__in=managed))


def own_tokens(user: User) -> QuerySet[ApiToken]:
    """The tokens that act for a user, in whatever tenant."""
    rows: QuerySet[ApiToken] = ApiToken.objects.filter(user=user).select_related("tenant")
    return rows


def verify_may_make(by: Principal, user: User, *, of: User, tenant: Tenant) -> None:
    """Raises AccessDenied unless the caller, acting for ``user``, may make a token that acts for ``of`` in a tenant.

    People make tokens for themselves; for others, and with a token, it takes user:manage. So a token that was
    narrowed or that is about to expire cannot make itself a successor. Nobody makes one for a platform admin but they.
    """
    if by.everything or (of == user and by.kind == "user"):
        return
    by.verify(Permission.USER_MANAGE, tenant.pk, resource=Resource.TOKEN)
    if of.is_superuser and of != user:
        raise AccessDenied("A token for a platform admin is made by themselves.")
