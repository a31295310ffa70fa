"""Webhooks: where to, how they fare, and what can be done to them."""

from __future__ import annotations

from itertools import groupby
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminSelect2MultipleWidget

from apps.swarms import admin_acts as acts
from apps.swarms.admin_acts import Act
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from apps.webhooks import actions, admin_deliveries  # noqa: F401  (it registers what it shows)
from apps.webhooks.addresses import UrlRefused, verify_url
from apps.webhooks.admin_acts import DELETE, DISABLE, ENABLE, PING
from apps.webhooks.kinds import KINDS
from apps.webhooks.models import Delivery, DeliveryStatus, Webhook, WebhookStatus
from portal.admin import Card, admin_url, list_url
from portal.admin_columns import (
    BAD,
    GOOD,
    NOTHING,
    WARN,
    label,
    link_column,
    moment,
    when_column,
)

WEBHOOK_TONES = {WebhookStatus.ENABLED: GOOD, WebhookStatus.FAILING: WARN, WebhookStatus.DISABLED: BAD}


class WebhookForm(forms.ModelForm):
    """Where to, and what of."""

    kinds = forms.MultipleChoiceField(
        choices=[
            (noun.replace("_", " ").capitalize(), [(kind, kind) for kind in kinds])
            for noun, kinds in groupby(KINDS, key=lambda kind: kind.partition(".")[0])
        ],
        required=False,
        widget=UnfoldAdminSelect2MultipleWidget,
        label="Events",
        help_text="None picked: all of them, and those that are added later.",
    )

    class Meta:
        model = Webhook
        fields: ClassVar = ["tenant", "name", "url", "kinds"]

    def clean_url(self) -> str:
        url: str = self.cleaned_data["url"].strip()
        if url != self.instance.url:
            try:
                verify_url(url)
            except UrlRefused as refusal:
                raise ValidationError(str(refusal)) from None
        return url


class StateFilter(DropdownFilter):
    title = "status"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(text)) for value, text in WebhookStatus.choices]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case WebhookStatus.ENABLED:
                return queryset.filter(is_enabled=True, failures=0)
            case WebhookStatus.FAILING:
                return queryset.filter(is_enabled=True, failures__gt=0)
            case WebhookStatus.DISABLED:
                return queryset.filter(is_enabled=False)
        return queryset


@admin.register(Webhook)
class WebhookAdmin(TenantModelAdmin):
    about = (
        "Where a tenant's events are sent to, signed. What cannot be delivered is tried again for about a day; a "
        "receiver that fails for days, or answers 410, is disabled. Order is not promised."
    )
    empty_hint = "Add a webhook to tell another program what happens here. Its secret is shown once."
    read_permission = write_permission = Permission.WEBHOOK_MANAGE
    audits_itself = True
    form = WebhookForm
    hints: ClassVar[dict[str, str]] = {
        "name": "Once in a tenant.",
        "url": "https://, to a public address, or to one in WEBHOOK_ALLOWED_NETWORKS.",
    }
    list_display = ("name", "status_label", "tenant_link", "url_short", "told_of", "waits", "given_up")
    list_filter = (StateFilter, TenantFilter)
    search_fields = ("name", "url")
    list_select_related = ("tenant",)
    ordering = ("tenant__slug", "name", "id")
    actions = ("ping_chosen", "enable_chosen", "disable_chosen")
    actions_detail = ("ping_one", "enable_one", "disable_one", "rotate_one", "delete_one")
    tenant_link = link_column("tenant", "Tenant")
    made = when_column("created_at", "Made")
    since = when_column("failing_since", "Failing since")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Webhook]:
        rows: Any = super().get_queryset(request)
        counted: models.QuerySet[Webhook] = rows.with_counts()
        return counted

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ((None, {"fields": ("tenant", "name", "url", "kinds")}),)
        why = ("why",) if obj.disabled_at else ()
        return (
            (None, {"fields": ("status_label", *why, "tenant_link", "name", "url", "kinds")}),
            ("Deliveries", {"fields": ("waits", "given_up", "deliveries_link", "failed_attempts", "since")}),
            ("Secret", {"fields": ("secret_told", "made")}),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        told = (
            "status_label", "why", "tenant_link", "waits", "given_up", "deliveries_link", "failed_attempts", "since",
            "secret_told", "made",
        )  # fmt: skip
        return told if obj else ()

    # -- what is shown -----------------------------------------------------------------------------------------------

    @admin.display(description="Status")
    def status_label(self, hook: Webhook) -> SafeString:
        return label(hook.status, WEBHOOK_TONES[hook.status], hook.disabled_reason)

    @admin.display(description="URL", ordering="url")
    def url_short(self, hook: Webhook) -> SafeString:
        text = hook.url if len(hook.url) <= 60 else f"{hook.url[:60]}…"
        return format_html('<span style="overflow-wrap: anywhere" title="{}">{}</span>', hook.url, text)

    @admin.display(description="Why")
    def why(self, hook: Webhook) -> SafeString | str:
        if hook.disabled_at is None:
            return NOTHING
        by = "by a person" if hook.disabled_cause == "person" else "by itself"
        reason = f" {hook.disabled_reason}" if hook.disabled_reason else ""
        return format_html("Disabled {} {}.{}", by, moment(hook.disabled_at), reason)

    @admin.display(description="Events")
    def told_of(self, hook: Webhook) -> SafeString | str:
        if not hook.kinds:
            return "all"
        told = hook.kinds[0] if len(hook.kinds) == 1 else f"{len(hook.kinds)} kinds"
        return format_html('<span title="{}">{}</span>', ", ".join(hook.kinds), told)

    @admin.display(description="Waiting")
    def waits(self, hook: Any) -> SafeString | str:
        return self._deliveries(hook, hook.waiting, DeliveryStatus.PENDING)

    @admin.display(description="Given up")
    def given_up(self, hook: Any) -> SafeString | str:
        return self._deliveries(hook, hook.gave_up, DeliveryStatus.FAILED)

    def _deliveries(self, hook: Webhook, count: int | None, status: str) -> SafeString | str:
        query = f"webhook__id__exact={hook.pk}&status__exact={status}"
        return self.link_to_list(hook, Delivery, query, str(count)) if count else "0"

    @admin.display(description="All of them")
    def deliveries_link(self, hook: Webhook) -> SafeString | str:
        return self.link_to_list(hook, Delivery, f"webhook__id__exact={hook.pk}", "What was sent, and what came of it")

    @admin.display(description="Failed attempts")
    def failed_attempts(self, hook: Webhook) -> str:
        return f"{hook.failures} in a row" if hook.failures else "none since the last success"

    @admin.display(description="Signing secret")
    def secret_told(self, hook: Webhook) -> SafeString | str:
        if hook.previous_until is None:
            return "Kept encrypted, and not shown. Rotate it to get a new one."
        return format_html("Rotated. The one before signs as well until {}.", moment(hook.previous_until))

    # -- acts --------------------------------------------------------------------------------------------------------

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # the button is an act that asks why

    def has_manage_permission(self, request: HttpRequest) -> bool:
        return self.holds(request, self.write_permission)

    def save_model(self, request: HttpRequest, obj: Webhook, form: Any, change: bool) -> None:
        given, by = form.cleaned_data, self.principal(request)
        if change:
            actions.change_webhook(obj, by=by, name=given["name"], url=given["url"], kinds=given["kinds"])
            return
        made, secret = actions.create_webhook(
            tenant=given["tenant"], name=given["name"], url=given["url"], kinds=given["kinds"], by=by
        )
        obj.pk, obj.created_at = made.pk, made.created_at
        obj.__dict__["_new_secret"] = secret

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> HttpResponse:
        """Shows the secret, in this response and nowhere else."""
        return self._secret_page(request, obj, obj.__dict__["_new_secret"])

    def _secret_page(self, request: HttpRequest, hook: Webhook, secret: str) -> HttpResponse:
        response = TemplateResponse(
            request,
            "admin/webhooks/secret.html",
            {
                **self.admin_site.each_context(request),
                "title": f"Signing secret of {hook.name}",
                "opts": self.opts,
                "about": self.about,
                "secret": secret,
                "until": hook.previous_until,
                "back": admin_url(hook),
            },
        )
        response["Cache-Control"] = "no-store"
        return response

    @admin.action(description="Send a ping", permissions=["manage"])
    def ping_chosen(self, request: HttpRequest, hooks: models.QuerySet[Webhook]) -> None:
        acts.perform(self, request, PING, list(self.chosen(request)))

    @admin.action(description="Enable", permissions=["manage"])
    def enable_chosen(self, request: HttpRequest, hooks: models.QuerySet[Webhook]) -> None:
        acts.perform(self, request, ENABLE, list(self.chosen(request)))

    @admin.action(description="Disable…", permissions=["manage"])
    def disable_chosen(self, request: HttpRequest, hooks: models.QuerySet[Webhook]) -> HttpResponse | None:
        return acts.ask(self, request, DISABLE, list(self.chosen(request)))

    @action(description="Send a ping…", url_path="ping", icon="network_ping")
    def ping_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.page(self, request, PING, object_id)

    @action(description="Enable…", url_path="enable", icon="toggle_on")
    def enable_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.page(self, request, ENABLE, object_id)

    @action(description="Disable…", url_path="disable", icon="toggle_off")
    def disable_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.page(self, request, DISABLE, object_id)

    @action(description="Delete…", url_path="end", icon="delete", variant=ActionVariant.DANGER)
    def delete_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.page(self, request, DELETE, object_id)

    @action(description="Rotate the secret…", url_path="rotate", icon="autorenew")
    def rotate_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Says what will happen; the form of that page does it, and its answer shows the secret."""
        hook = self.row_or_none(request, object_id)
        if hook is None:
            return redirect(list_url(Webhook))
        if not self.has_change_permission(request, hook):
            raise PermissionDenied
        if request.method == "POST":
            rotated, secret = actions.rotate_secret(hook, by=self.principal(request))
            return self._secret_page(request, rotated, secret)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Rotate the secret of {hook.name}",
            "about": "A new secret is made and shown once. For a day, messages carry the signatures of both, so that "
            "the receiver can change over without missing any. A rotation in that day ends the oldest at once.",
            "form": forms.Form(),
            "back": admin_url(hook),
            "button": "Make a new secret",
            "danger": hook.previous_until is not None,
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/tenants/grant.html", context)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """The buttons that would do something now, for people who may."""
        hook = self.row_or_none(request, object_id)
        if hook is None or not self.has_change_permission(request, hook):
            return []
        by = self.principal(request)
        steering: list[tuple[str, Act]] = [
            ("ping_one", PING), ("enable_one", ENABLE), ("disable_one", DISABLE), ("delete_one", DELETE),
        ]  # fmt: skip
        names = ["rotate_one", *(name for name, act in steering if not act.refusal(hook, by))]
        possible = {f"{self.opts.app_label}_{self.opts.model_name}_{name}" for name in names}
        return [each for each in super().get_actions_detail(request, object_id) if each.action_name in possible]

    def card(self, request: HttpRequest) -> Card | None:
        """Shown while some need attention."""
        rows = TenantModelAdmin.get_queryset(self, request).order_by()
        wrong = rows.filter(models.Q(is_enabled=False) | models.Q(failures__gt=0)).count()
        if not wrong:
            return None
        return Card("Webhooks in trouble", str(wrong), "failing or disabled", list_url(Webhook), WARN)
