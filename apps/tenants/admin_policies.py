"""Access policies: written, tried on the past, tested in silence, then enabled."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelect2MultipleWidget,
    UnfoldAdminTextareaWidget,
)

from apps.tenants.access import AccessDenied, Principal
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.models import AccessPolicy, ApiToken, CannotMovePolicy, PolicyState, User
from apps.tenants.policies import DAYS
from apps.tenants.policing import move, verify_not_locked_out
from apps.tenants.replaying import DAYS_BACK, replay
from apps.tenants.roles import Permission, Resource, Role
from portal.admin import admin_url, list_url
from portal.admin_columns import BAD, CALM, GOOD, WARN, link_column, status_column, usd_exact, when_column
from portal.money import usd_text

PER_PAGE = 50
STATE_TONES = {
    PolicyState.DRAFT: CALM,
    PolicyState.TESTING: WARN,
    PolicyState.ENABLED: GOOD,
    PolicyState.DISABLED: BAD,
}
EFFECTS = {
    PolicyState.TESTING: "It denies nothing. What it would have denied is recorded in the audit trail.",
    PolicyState.ENABLED: "It denies from the next request on.",
    PolicyState.DISABLED: "It does nothing from the next request on.",
}


class Lines(forms.CharField):
    """A list, one entry a line."""

    widget = UnfoldAdminTextareaWidget

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[str]:  # type: ignore[override]
        text = super().to_python(value) or ""
        return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return list(initial or []) != self.to_python(data)


class Boxes(forms.TypedMultipleChoiceField):
    """Ticked of a fixed list; none means any."""

    def __init__(self, choices: list[tuple[Any, str]], coerce: Any = str, **kwargs: Any) -> None:
        super().__init__(
            choices=choices, coerce=coerce, required=False, widget=UnfoldAdminCheckboxSelectMultipleWidget, **kwargs
        )


def people_field(**kwargs: Any) -> forms.MultipleChoiceField:
    return forms.MultipleChoiceField(required=False, widget=UnfoldAdminSelect2MultipleWidget, **kwargs)


class PolicyForm(forms.ModelForm):
    """A policy; ``principal`` is set by the admin."""

    principal: ClassVar[Principal]

    actions = Boxes(
        [(str(p), str(p)) for p in Permission], help_text="What is denied. None ticked: every action, reading too."
    )
    resources = Boxes(
        [(str(r), str(r)) for r in Resource], help_text="To what it is done. None ticked: whatever the action is about."
    )
    roles = Boxes([(str(value), str(text)) for value, text in Role.choices])
    users = people_field(label="People")
    tokens = people_field(help_text="Without roles, people and tokens it is about everybody.")
    weekdays = Boxes([(number, name) for number, name in enumerate(DAYS)], int, label="Allowed on")
    networks = Lines(
        required=False,
        label="Allowed from networks",
        help_text="Networks such as 10.0.0.0/8, one a line. Requests from elsewhere are denied. Empty: from anywhere.",
    )

    class Meta:
        model = AccessPolicy
        fields: ClassVar = [
            "tenant", "name", "note", "actions", "resources", "roles", "users", "tokens", "via", "tenant_attributes",
            "above", "weekdays", "starts", "ends", "networks",
        ]  # fmt: skip

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or {}
        given["tenant_attributes"] = given.get("tenant_attributes") or {}
        if not self.principal.everything and given.get("tenant") is None and "tenant" in self.fields:
            self.add_error("tenant", "Choose a tenant: a policy of the platform is for platform admins.")
        return given

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors or self.instance.state != PolicyState.ENABLED:
            return
        try:
            verify_not_locked_out(self.instance.as_value, self.principal, now=timezone.now())
        except CannotMovePolicy as refusal:
            self.add_error(None, ValidationError(str(refusal)))


class MoveForm(forms.Form):
    """Why a policy changes its state."""

    reason = forms.CharField(
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Kept in the audit trail.",
        error_messages={"required": "Say why: the reason is kept in the audit trail."},
    )


@admin.register(AccessPolicy)
class AccessPolicyAdmin(TenantModelAdmin):
    about = (
        "Roles and grants give; policies take away. A policy denies what it is about, except within its hours and from "
        "its networks. Try it on the past, then test it in silence, then enable it."
    )
    empty_hint = "Add a policy to restrict what roles give: by hour, by network, by the money at stake."
    read_permission = write_permission = Permission.USER_MANAGE
    form = PolicyForm
    list_display = ("name", "state_label", "tenant_name", "denies", "allows", "changed")
    list_filter = (("state", ChoicesDropdownFilter), TenantFilter)
    search_fields = ("name", "note")
    list_select_related = ("tenant",)
    ordering = ("tenant__slug", "name", "id")
    actions_detail = ("replay_one", "testing_one", "enabled_one", "disabled_one")
    labels: ClassVar[dict[str, str]] = {
        "above": "When more than",
        "starts": "Allowed from",
        "ends": "Allowed until",
        "via": "Asked by",
        "tenant_attributes": "Tenant's attributes",
    }
    hints: ClassVar[dict[str, str]] = {
        "tenant": "Empty: a policy of the platform, for every tenant.",
        "above": "USD at stake: a swarm's budget, a budget's limit, an adjustment, a reservation. A swarm without a "
        "budget of its own counts as more than any amount. Empty: whatever is at stake, and acts without money.",
        "starts": "In the tenant's time zone. Hours may pass midnight. Outside of them it is denied.",
        "ends": "Not included.",
        "tenant_attributes": 'Only in tenants with these, such as {"tier": ["trial", "free"]} or {"slug": "north"}.',
    }
    shown_as: ClassVar[dict[str, str]] = {"above": "above_exact"}
    readonly_fields = ("state_label", "changed", "recorded_link")
    fieldsets = (
        (None, {"fields": ("tenant", "name", "note", "state_label", "changed", "recorded_link")}),
        ("Denies", {"fields": ("actions", "resources", ("above",), "tenant_attributes")}),
        ("To", {"fields": ("roles", "users", "tokens", "via")}),
        ("Except", {"fields": ("weekdays", ("starts", "ends"), "networks")}),
    )
    state_label = status_column("state", "State", STATE_TONES)
    tenant_link = link_column("tenant", "Tenant")
    changed = when_column("changed_at", "Changed")
    above_exact = usd_exact("above", "When more than")

    @admin.display(description="Tenant", ordering="tenant__slug")
    def tenant_name(self, policy: AccessPolicy) -> SafeString | str:
        return self.link(policy, policy.tenant) if policy.tenant else "every tenant"

    @admin.display(description="Denies")
    def denies(self, policy: AccessPolicy) -> str:
        what = ", ".join(policy.actions) or "every action"
        above = f" above {usd_text(policy.above)} USD" if policy.above is not None else ""
        who = [*policy.roles, *([f"{len(policy.users)} people"] if policy.users else [])]
        who += [f"{len(policy.tokens)} tokens"] if policy.tokens else []
        return f"{what}{above} to {', '.join(who) or 'everybody'}"

    @admin.display(description="Except")
    def allows(self, policy: AccessPolicy) -> str:
        value = policy.as_value
        parts = ([value.hours()] if value.has_hours else []) + ([", ".join(policy.networks)] if policy.networks else [])
        return " and from ".join(parts) if value.has_hours else ("from " + parts[0] if parts else "never")

    @admin.display(description="Recorded")
    def recorded_link(self, policy: AccessPolicy) -> SafeString | str:
        query = f"resource_kind=accesspolicy&resource_id={policy.pk}"
        return self.link_to_list(policy, "audit.AuditEntry", query, "What it denied, or would have, and its changes")

    def of_tenants(self, rows: models.QuerySet[AccessPolicy], tenant_ids: Any) -> models.QuerySet[AccessPolicy]:
        """A tenant's own and, as they concern it too, those of the platform."""
        return rows.filter(models.Q(tenant=None) | models.Q(tenant_id__in=set(tenant_ids)))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is not None and obj.tenant_id is None:
            return self.holds(request, Permission.USER_MANAGE)
        return super().has_view_permission(request, obj)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        form.principal = self.principal(request)
        if "users" in form.base_fields:
            people = self.choices_of(request, User).filter(is_superuser=False).order_by("username")
            tokens = self.choices_of(request, ApiToken).select_related("user")
            form.base_fields["users"].choices = [(str(user.pk), user.username) for user in people]
            form.base_fields["tokens"].choices = [(token.token_key, str(token)) for token in tokens]
        if "tenant" in form.base_fields and not form.principal.everything:
            form.base_fields["tenant"].required = True
        return form

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Whose it is, is settled when it is made."""
        return (*self.readonly_fields, "tenant_name") if obj else self.readonly_fields

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        made = ("state_label", "changed", "recorded_link")
        return [
            (
                title,
                {
                    **options,
                    "fields": [
                        "tenant_name" if obj and name == "tenant" else name
                        for name in options["fields"]
                        if obj or name not in made
                    ],
                },
            )
            for title, options in super().get_fieldsets(request, obj)
        ]

    # -- states and the past ----------------------------------------------------------------------------------------

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        policy = self.row_or_none(request, object_id)
        if policy is None:
            return []
        names = ["replay_one"]
        if self.has_change_permission(request, policy):
            names += [f"{state}_one" for state in EFFECTS if policy.can_move(state)]
        possible = {f"{self.opts.app_label}_{self.opts.model_name}_{name}" for name in names}
        return [each for each in super().get_actions_detail(request, object_id) if each.action_name in possible]

    @action(description="Test in silence…", url_path="testing", icon="science")
    def testing_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._move(request, object_id, PolicyState.TESTING)

    @action(description="Enable…", url_path="enable", icon="gavel")
    def enabled_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._move(request, object_id, PolicyState.ENABLED)

    @action(description="Disable…", url_path="disable", icon="toggle_off")
    def disabled_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._move(request, object_id, PolicyState.DISABLED)

    def _move(self, request: HttpRequest, object_id: str, state: PolicyState) -> HttpResponse:
        """The page that asks why, and says what will happen; POST does it."""
        policy = self.row_or_none(request, object_id)
        if policy is None:
            return redirect(list_url(AccessPolicy))
        if not self.has_change_permission(request, policy):
            raise PermissionDenied
        form = MoveForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            by, reason = self.principal(request), form.cleaned_data["reason"]
            try:
                move(policy, state, by=by, reason=reason, now=timezone.now())
            except (CannotMovePolicy, AccessDenied) as refusal:
                form.add_error(None, str(refusal))
            else:
                messages.success(request, f"“{policy.name}” is {state}.")
                return redirect(admin_url(policy))
        verb = {PolicyState.TESTING: "Test", PolicyState.ENABLED: "Enable"}.get(state, "Disable")
        context = {
            **self.admin_site.each_context(request),
            "title": f"{verb} “{policy.name}”",
            "about": EFFECTS[state],
            "form": form,
            "back": admin_url(policy),
            "button": verb,
            "danger": state == PolicyState.ENABLED,
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/tenants/grant.html", context)

    @action(description="Try on the past", url_path="replay", icon="history")
    @method_decorator(require_safe)
    def replay_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """What it would have denied of the requests in the audit trail."""
        policy = self.row_or_none(request, object_id)
        if policy is None:
            return redirect(list_url(AccessPolicy))
        by = self.principal(request)
        days = request.GET.get("days", "")
        chosen = int(days) if days in {str(each) for each in DAYS_BACK} else DAYS_BACK[0]
        tenants = None if by.everything else by.tenant_ids(Permission.USER_MANAGE)
        result = replay(policy.as_value, days=chosen, now=timezone.now(), tenants=tenants)
        context = {
            **self.admin_site.each_context(request),
            "title": f"“{policy.name}” on the last {chosen} days",
            "policy": policy,
            "result": result,
            "shown": result.page(request.GET.get("page"), PER_PAGE),
            "days": chosen,
            "choices": DAYS_BACK,
            "back": admin_url(policy),
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/tenants/replay.html", context)
