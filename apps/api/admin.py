"""What the REST API remembers."""

from __future__ import annotations

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from unfold.contrib.filters.admin import FieldTextFilter

from apps.api.models import IdempotencyKey, RateAllotment
from apps.tenants.admin_scoping import PlatformModelAdmin
from portal.admin import ReadOnly
from portal.admin_columns import when_column
from portal.admin_fields import DateRangeFilter


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnly, PlatformModelAdmin):
    about = "Requests that carried an Idempotency-Key, kept for a day: the same key again gets the same answer."
    is_audited = False
    empty_hint = "No request has carried an Idempotency-Key in the last day."
    huge = True
    list_display = ("key", "endpoint", "who", "status", "made")
    list_filter = (("endpoint", FieldTextFilter), ("created_at", DateRangeFilter))
    search_fields = ("=key",)
    ordering = ("-id",)
    fieldsets = ((None, {"fields": ("key", "endpoint", "who", "status", "request_hash", "made")}),)
    made = when_column("created_at", "Answered")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[IdempotencyKey]:
        """Without the answers, which can be large and are not shown."""
        rows: models.QuerySet[IdempotencyKey] = super().get_queryset(request).defer("body")
        return rows


@admin.register(RateAllotment)
class RateAllotmentAdmin(ReadOnly, PlatformModelAdmin):
    about = (
        "What web processes took out of callers' rate limits in their latest minute: who calls the API most. Without a "
        "shared cache only; callers with few requests do not appear."
    )
    is_audited = False
    empty_hint = "Nobody has called the API often in the last minutes."
    huge = True
    list_display = ("who", "policy", "taken", "window")
    list_filter = ("policy",)
    search_fields = ("who",)
    ordering = ("-window", "-id")
    fieldsets = ((None, {"fields": ("who", "policy", "taken", "window")}),)
