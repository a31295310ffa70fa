"""What was delivered to webhooks, and each attempt at that."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter, FieldTextFilter
from unfold.decorators import action

from apps.swarms import admin_acts as acts
from apps.tenants.admin_scoping import TenantFilter, TenantInline, TenantModelAdmin
from apps.tenants.roles import Permission
from apps.webhooks.admin_acts import REPEAT
from apps.webhooks.models import Delivery, DeliveryAttempt, DeliveryStatus
from portal.admin import ReadOnly
from portal.admin_columns import (
    BAD,
    BUSY,
    CALM,
    GOOD,
    NOTHING,
    label,
    link_column,
    moment,
    preformatted,
    reference_column,
    short_column,
    status_column,
    when_column,
)
from portal.admin_fields import DateRangeFilter

DELIVERY_TONES = {DeliveryStatus.PENDING: BUSY, DeliveryStatus.DELIVERED: GOOD, DeliveryStatus.FAILED: BAD}


class AttemptInline(ReadOnly, TenantInline):
    """What came of each attempt, on the page of its delivery."""

    model = DeliveryAttempt
    tenant_path = "delivery__tenant_id"
    read_permission = Permission.WEBHOOK_MANAGE
    fields = ("number", "when", "outcome", "took", "answered")
    readonly_fields = fields
    verbose_name, verbose_name_plural = "attempt", "attempts"
    ordering = ("number",)
    per_page = 30

    when = when_column("at", "When")

    @admin.display(description="Outcome")
    def outcome(self, attempt: DeliveryAttempt) -> SafeString:
        if attempt.status_code is None:
            return label("no answer", BAD)
        return label(str(attempt.status_code), GOOD if 200 <= attempt.status_code < 300 else BAD)

    @admin.display(description="Took")
    def took(self, attempt: DeliveryAttempt) -> str:
        return f"{attempt.seconds * 1000:,.0f} ms"

    @admin.display(description="Answer")
    def answered(self, attempt: DeliveryAttempt) -> str:
        return " ".join(part for part in (attempt.error, attempt.text) if part) or NOTHING


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "Events on their way to webhooks. The id is that of the header webhook-id, the same in every attempt. They are "
        "kept for a set number of days."
    )
    empty_hint = "Nothing was sent yet. Send a ping from the page of a webhook."
    read_permission = Permission.WEBHOOK_MANAGE
    is_audited = False
    huge = True
    list_display = (
        "event",
        "status_label",
        "webhook_link",
        "tenant_link",
        "swarm",
        "made_attempts",
        "next_try",
        "made",
    )
    list_filter = (
        ("status", ChoicesDropdownFilter),
        ("kind", FieldTextFilter),
        TenantFilter,
        ("created_at", DateRangeFilter),
    )
    search_fields = ("webhook__name",)
    search_ids = ("webhook_id", "swarm_id")
    search_help_text = "Id of a delivery (webhook-id), webhook or swarm; name of a webhook"
    list_select_related = ("webhook", "tenant")
    list_disable_select_all = True
    ordering = ("-id",)
    references: ClassVar[dict[str, str]] = {"swarm_id": "swarms.Swarm"}
    inlines = (AttemptInline,)
    actions = ("repeat_chosen",)
    actions_detail = ("repeat_one",)
    fieldsets = (
        (None, {"fields": ("status_label", "webhook_link", "tenant_link", "event", "swarm", "number")}),
        ("Sending", {"fields": ("message_id", "made_attempts", "next_try", "made", "over")}),
        ("Message", {"fields": ("sent",)}),
    )
    status_label = status_column("status", "Status", DELIVERY_TONES)
    webhook_link = link_column("webhook", "Webhook")
    tenant_link = link_column("tenant", "Tenant")
    swarm = reference_column("swarm_id", "Swarm")
    number = short_column("event_id", "Number in the event log")
    made = when_column("created_at", "Made")
    over = when_column("finished_at", "Finished")

    @admin.display(description="Event", ordering="kind")
    def event(self, delivery: Delivery) -> str:
        return delivery.kind

    @admin.display(description="Attempts", ordering="attempts")
    def made_attempts(self, delivery: Delivery) -> str:
        return str(delivery.attempts)

    @admin.display(description="Next try")
    def next_try(self, delivery: Delivery) -> SafeString | str:
        return label("being sent", CALM) if delivery.is_in_flight else moment(delivery.next_at)

    @admin.display(description="Header webhook-id")
    def message_id(self, delivery: Delivery) -> str:
        return str(delivery.pk)

    @admin.display(description="Body")
    def sent(self, delivery: Delivery) -> SafeString | str:
        return preformatted(delivery.body)

    def has_repeat_permission(self, request: HttpRequest) -> bool:
        return self.holds(request, Permission.WEBHOOK_MANAGE)

    @admin.action(description="Send again", permissions=["repeat"])
    def repeat_chosen(self, request: HttpRequest, deliveries: models.QuerySet[Delivery]) -> None:
        acts.perform(self, request, REPEAT, list(self.chosen(request)))

    @action(description="Send again…", url_path="repeat", icon="replay")
    def repeat_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.page(self, request, REPEAT, object_id)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        delivery = self.row_or_none(request, object_id)
        if delivery is None or REPEAT.refusal(delivery, self.principal(request)):
            return []
        return list(super().get_actions_detail(request, object_id))
