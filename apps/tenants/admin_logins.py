"""Failed logins with a password, and the way out of a lock-out."""

from __future__ import annotations

from typing import Any

from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from apps.tenants.admin_scoping import PlatformModelAdmin
from apps.tenants.sessions import unlock
from portal.admin import ReadOnly
from portal.admin_columns import BAD, CALM, Display, label, text_column, when_column


@admin.register(AccessAttempt)
class FailedLoginAdmin(ReadOnly, PlatformModelAdmin):
    about = (
        "Wrong passwords of late, by user name and address. Too many lock the name out from that address for a while, "
        "and from nowhere else. Unlocking forgets them. The audit trail keeps who tried what and when."
    )
    empty_hint = "Nobody has mistyped a password lately."
    list_display = ("username", "ip_address", "failures_since_start", "state", "last")
    search_fields = ("username", "ip_address")
    ordering = ("-attempt_time", "id")
    actions = ("unlock",)
    fields = ("username", "ip_address", "agent", "failures_since_start", "state", "last")
    last = when_column("attempt_time", "Last try")
    agent: Display = text_column("user_agent", "Browser")

    @admin.display(description="State")
    def state(self, attempt: AccessAttempt) -> SafeString | str:
        over = attempt.attempt_time + settings.AXES_COOLOFF_TIME <= timezone.now()
        locked = attempt.failures_since_start >= settings.AXES_FAILURE_LIMIT and not over
        return label("locked out", BAD) if locked else label("may try again", CALM)

    def has_unlock_permission(self, request: HttpRequest) -> bool:
        return self.principal(request).everything

    @admin.action(description="Unlock", permissions=["unlock"])
    def unlock(self, request: HttpRequest, attempts: models.QuerySet[AccessAttempt]) -> None:
        by: Any = self.principal(request)
        rows = self.chosen(request)
        self.act_on_each(request, rows, lambda attempt: unlock(attempt, by=by), refusals=(), done="unlocked")
