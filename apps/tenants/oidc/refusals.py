"""Why a login was refused. The word is for the trail and the page; what exactly was wrong is for the log."""

from __future__ import annotations

from enum import StrEnum

from apps.tenants.models import User


class Reason(StrEnum):
    UNREACHABLE = "provider_unreachable"
    REFUSED_THERE = "refused_by_provider"
    STATE = "state_unknown_or_expired"
    AUDIENCE = "wrong_audience"
    EXPIRED = "token_expired"
    INVALID = "token_invalid"
    GROUPS_UNKNOWN = "groups_unknown"
    NO_ROLE = "no_role"
    NO_ACCOUNT = "no_account"
    DEACTIVATED = "account_deactivated"


class Refused(Exception):
    """A login that is refused. The text is for the log of the server, never for the page."""

    def __init__(
        self, reason: Reason, detail: str = "", *, user: User | None = None, groups: int | None = None
    ) -> None:
        super().__init__(detail or reason)
        self.reason, self.detail, self.user, self.groups = reason, detail, user, groups
