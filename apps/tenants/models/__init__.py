"""Tenants, the people who work for them, and the tokens that act for those people."""

from apps.tenants.models.grant import SwarmGrant
from apps.tenants.models.identity import GroupRule, Identity, IdentityProvider, Match
from apps.tenants.models.membership import Membership
from apps.tenants.models.tenant import CallsInFlight, Tenant, validate_time_zone
from apps.tenants.models.token import ApiToken
from apps.tenants.models.user import User

__all__ = [
    "ApiToken",
    "CallsInFlight",
    "GroupRule",
    "Identity",
    "IdentityProvider",
    "Match",
    "Membership",
    "SwarmGrant",
    "Tenant",
    "User",
    "validate_time_zone",
]
