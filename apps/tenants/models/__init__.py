"""Tenants, the people who work for them, and the tokens that act for those people."""

from apps.tenants.models.grant import SwarmGrant
from apps.tenants.models.identity import GroupRule, Identity, IdentityProvider, Match
from apps.tenants.models.membership import Membership
from apps.tenants.models.policy import AccessPolicy, CannotMovePolicy, PolicyState
from apps.tenants.models.tenant import CallsInFlight, Tenant, validate_time_zone
from apps.tenants.models.token import ApiToken
from apps.tenants.models.user import User

__all__ = [
    "AccessPolicy",
    "ApiToken",
    "CallsInFlight",
    "CannotMovePolicy",
    "GroupRule",
    "Identity",
    "IdentityProvider",
    "Match",
    "Membership",
    "PolicyState",
    "SwarmGrant",
    "Tenant",
    "User",
    "validate_time_zone",
]
