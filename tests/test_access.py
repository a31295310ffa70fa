"""The predicate that every door asks: who may do what, and whose rows they see."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest

from apps.tenants.access import (
    NOBODY,
    AccessDenied,
    Principal,
    principal_of,
    principal_of_command,
    principal_of_request,
)
from apps.tenants.actions import create_token
from apps.tenants.models import ApiToken, Membership, Tenant, User
from apps.tenants.roles import PERMISSIONS, Permission, Role

P = Permission
pytestmark = pytest.mark.django_db

YES, NO = True, False
TABLE: list[tuple[str, Permission, bool, str]] = [
    # who, permission, whether it holds in acme, why the row is here
    ("owner", P.SWARM_TERMINATE, YES, "an admin of the tenant steers its swarms"),
    ("owner", P.USER_MANAGE, YES, "and manages its people"),
    ("owner", P.POOL_READ, YES, "and sees the pool"),
    ("owner", P.POOL_UPDATE, NO, "but the pool belongs to the platform"),
    ("operator", P.SWARM_TERMINATE, YES, "operators stop swarms"),
    ("operator", P.BUDGET_UPDATE, NO, "but do not move money"),
    ("operator", P.SWARM_DELETE, NO, "nor delete"),
    ("developer", P.SWARM_CREATE, YES, "developers submit"),
    ("developer", P.SWARM_TERMINATE, NO, "but stop nothing"),
    ("viewer", P.SWARM_READ, YES, "viewers look"),
    ("viewer", P.SWARM_CREATE, NO, "and no more"),
    ("viewer", P.SWARM_TERMINATE, NO, "and no more"),
    ("viewer", P.BUDGET_UPDATE, NO, "and no more"),
    ("finance", P.BUDGET_UPDATE, YES, "finance sets budgets"),
    ("finance", P.SWARM_READ, NO, "and does not read what agents write"),
    ("outsider", P.SWARM_READ, NO, "an admin of another tenant is nobody here"),
    ("outsider", P.BUDGET_READ, NO, "an admin of another tenant is nobody here"),
    ("platform_admin", P.POOL_UPDATE, YES, "the platform is theirs"),
    ("platform_admin", P.SWARM_TERMINATE, YES, "and every tenant"),
]


@pytest.mark.parametrize(("who", "permission", "holds", "why"), TABLE, ids=[f"{w}-{p}" for w, p, _, _ in TABLE])
def test_what_a_person_may_do_in_acme(
    who: str, permission: Permission, holds: bool, why: str, acme: Tenant, request: pytest.FixtureRequest
) -> None:
    principal = principal_of(request.getfixturevalue(who))
    assert principal.can(permission, acme.pk) is holds, why
    # The three ways to ask agree.
    if holds:
        principal.verify(permission, acme.pk)
    else:
        with pytest.raises(AccessDenied, match=permission):
            principal.verify(permission, acme.pk)
    assert (acme in principal.tenants(permission)) is holds
    assert principal.limit(Tenant.objects.filter(pk=acme.pk), permission, "pk").exists() is holds


def _token(user: User, tenant: Tenant, role: str) -> ApiToken:
    row: ApiToken
    row, _ = ApiToken.objects.create(user=user, tenant=tenant, role=role, expiry=dt.timedelta(days=1))
    return row


TOKENS: list[tuple[str, str, str, set[str], str]] = [
    # user, tenant and role of the token; the roles whose permissions it gives in that tenant; why
    ("owner", "acme", "", {Role.ADMIN}, "no role named: what the user holds"),
    ("owner", "acme", Role.ADMIN, {Role.ADMIN}, "a role the user holds"),
    ("owner", "acme", Role.VIEWER, set(), "a role the user does not hold (any more)"),
    ("owner", "rival", "", set(), "a tenant the user is not in"),
    ("owner", "rival", Role.ADMIN, set(), "a tenant the user is not in, whatever the role says"),
    ("outsider", "acme", "", set(), "the outsider's token for acme opens nothing"),
    ("platform_admin", "acme", "", {Role.ADMIN}, "a platform admin's token is an admin of its one tenant"),
    ("platform_admin", "acme", Role.VIEWER, {Role.VIEWER}, "or less"),
    ("platform_admin", "acme", "gone", set(), "a role that no longer exists gives nothing"),
]


@pytest.mark.parametrize(("who", "slug", "role", "gives", "why"), TOKENS)
def test_a_token_narrows_its_user(
    who: str, slug: str, role: str, gives: set[str], why: str, acme: Tenant, rival: Tenant, request: Any
) -> None:
    user = request.getfixturevalue(who)
    tenant = {"acme": acme, "rival": rival}[slug]
    principal = principal_of(user, token=_token(user, tenant, role))
    expected = frozenset[Permission]().union(*(PERMISSIONS[name] for name in gives))
    assert principal.permissions.get(tenant.pk, frozenset()) == expected, why
    assert not principal.everything
    assert not principal.can(P.POOL_UPDATE, tenant.pk)
    other = rival if tenant == acme else acme
    assert not any(principal.can(permission, other.pk) for permission in P)


def test_roles_in_one_tenant_add_up_and_stay_there(owner: User, acme: Tenant, rival: Tenant) -> None:
    Membership.objects.create(user=owner, tenant=rival, role=Role.VIEWER)
    Membership.objects.create(user=owner, tenant=rival, role=Role.FINANCE)
    principal = principal_of(owner)
    assert principal.permissions[rival.pk] == PERMISSIONS[Role.VIEWER] | PERMISSIONS[Role.FINANCE]
    assert principal.can(P.SWARM_TERMINATE, acme.pk)
    assert not principal.can(P.SWARM_TERMINATE, rival.pk)
    assert set(principal.tenants(P.SWARM_TERMINATE)) == {acme}
    assert set(principal.tenants()) == {acme, rival}


def test_a_token_reaches_one_tenant_of_its_user(owner: User, acme: Tenant, rival: Tenant) -> None:
    Membership.objects.create(user=owner, tenant=rival, role=Role.ADMIN)
    principal = principal_of(owner, token=_token(owner, acme, ""))
    assert set(principal.tenants(None)) == {acme}


def test_nobody_may_do_anything(acme: Tenant, owner: User) -> None:
    owner.is_active = False
    for principal in (principal_of(AnonymousUser()), principal_of(owner), NOBODY):  # type: ignore[arg-type]
        assert principal == NOBODY
        assert not any(principal.can(permission, acme.pk) for permission in P)
        assert not any(principal.can_anywhere(permission) for permission in P)
        assert not principal.tenants(None).exists()


def test_an_inactive_superuser_may_do_nothing(platform_admin: User, acme: Tenant) -> None:
    platform_admin.is_active = False
    assert principal_of(platform_admin) == NOBODY


def test_a_command_may_do_everything_and_is_named(acme: Tenant) -> None:
    principal = principal_of_command("submit_swarm")
    assert (principal.kind, principal.ref) == ("command", "submit_swarm")
    assert all(principal.can(permission, acme.pk) for permission in P)


def test_the_pool_is_for_those_who_may_in_some_tenant(outsider: User, finance: User) -> None:
    principal_of(outsider).verify_anywhere(P.POOL_READ)
    with pytest.raises(AccessDenied, match="pool:read"):
        principal_of(finance).verify_anywhere(P.POOL_READ)


def test_the_trail_can_tell_a_token_from_its_user(owner: User, acme: Tenant) -> None:
    token = _token(owner, acme, "")
    by_token, by_login = principal_of(owner, token=token), principal_of(owner)
    assert (by_token.kind, by_login.kind) == ("token", "user")
    assert by_token.ref == f"{owner.pk}/{token.token_key}"


def test_a_request_asks_once_and_follows_a_change_of_user(
    owner: User, viewer: User, acme: Tenant, django_assert_num_queries: Any
) -> None:
    request = HttpRequest()
    request.META["REMOTE_ADDR"] = "203.0.113.9"
    request.user = owner
    with django_assert_num_queries(1):
        assert principal_of_request(request) is principal_of_request(request)
    assert principal_of_request(request).address == "203.0.113.9"
    request.user = viewer  # as login() does in the middle of a request
    assert not principal_of_request(request).can(P.SWARM_TERMINATE, acme.pk)


def test_principals_can_be_kept_in_sets(owner: User) -> None:
    assert len({principal_of(owner), principal_of(owner)}) == 1


def test_losing_a_role_takes_it_from_tokens_too(owner: User, acme: Tenant) -> None:
    token, _ = create_token(owner, acme, role=Role.ADMIN, life=dt.timedelta(days=1), by=Principal("system", "test"))
    assert principal_of(owner, token=token).can(P.SWARM_READ, acme.pk)
    Membership.objects.filter(user=owner, tenant=acme).delete()
    assert not principal_of(owner, token=token).can(P.SWARM_READ, acme.pk)
