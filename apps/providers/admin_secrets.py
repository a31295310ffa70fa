"""What is known of the keys that processes hold; never a key."""

from __future__ import annotations

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget

from apps.providers.models import BackendState, SecretStanding, SecretState
from apps.providers.secrets.orders import order_refresh
from apps.tenants.admin_scoping import PlatformModelAdmin
from portal.admin import ReadOnly, list_url
from portal.admin_columns import BAD, GOOD, WARN, Display, label, text_column, when_column

STANDINGS: dict[SecretStanding, tuple[str, str]] = {
    SecretStanding.REFUSED: (BAD, "The provider does not take it."),
    SecretStanding.MISSING: (BAD, "Some process could not read it, and has none."),
    SecretStanding.KEPT: (WARN, "It could not be read anew: processes go on with the one they hold."),
    SecretStanding.IN_USE: (GOOD, ""),
}


class RefreshForm(forms.Form):
    """Why the keys are read anew."""

    reason = forms.CharField(
        max_length=200, required=False, widget=UnfoldAdminTextInputWidget, help_text="Kept in the audit trail."
    )


@admin.register(SecretState)
class SecretStateAdmin(ReadOnly, PlatformModelAdmin):
    about = (
        "The keys of model providers as each class of processes holds them. The keys themselves are on no page and not "
        "in the database: a fingerprint tells whether two are the same. Processes read them anew every hour, and "
        "within seconds when told to."
    )
    empty_hint = "Nothing was read yet. Name the key of a provider on its page, and start workers."
    list_display = ("name", "worker_class", "standing", "age", "loaded", "problem")
    list_display_links = ("name",)
    list_filter = ("worker_class",)
    search_fields = ("name",)
    ordering = ("name", "worker_class")
    actions_list = ("refresh",)
    fieldsets = (
        (None, {"fields": ("name", "worker_class", "standing", "backend", "backend_is")}),
        ("Value", {"fields": ("fingerprint", "version", "age", "loaded", "expires")}),
        ("Trouble", {"fields": ("failed", "last_error", "lacking", "refused")}),
    )
    loaded = when_column("loaded_at", "Last read")
    age = when_column("rotated_at", "Value since")
    expires = when_column("expires_at", "Expires")
    failed = when_column("failed_at", "Last failure")
    lacking = when_column("lacking_since", "A process lacks it since")
    refused = when_column("refused_at", "Refused by the provider")
    problem: Display = text_column("trouble", "Problem", limit=60)

    @admin.display(description="State")
    def standing(self, state: SecretState) -> SafeString | str:
        tone, why = STANDINGS[state.standing]
        return label(state.standing.label.lower(), tone, why)

    @admin.display(description="Backend now")
    def backend_is(self, state: SecretState) -> SafeString | str:
        known = BackendState.objects.filter(pk=state.backend).first()
        if known is None or known.down_since is None:
            return label("answers", GOOD)
        return label("down", BAD, known.last_error)

    def has_refresh_permission(self, request: HttpRequest) -> bool:
        return self.principal(request).everything

    @action(description="Refresh now…", url_path="refresh-now", icon="sync", permissions=["refresh"])
    def refresh(self, request: HttpRequest) -> HttpResponse:
        """The page that says what will happen; POST does it."""
        if not self.has_refresh_permission(request):
            raise PermissionDenied
        form = RefreshForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            order_refresh(by=self.principal(request), reason=form.cleaned_data["reason"])
            messages.success(request, "Every process reads its keys anew now.")
            return redirect(list_url(SecretState))
        context = {
            **self.admin_site.each_context(request),
            "title": "Read all keys anew",
            "about": (
                "Every process reads the keys it may hold from the secrets backend, within seconds. New calls use what "
                "it finds; calls under way go on with the key they have. Nothing is interrupted."
            ),
            "form": form,
            "back": list_url(SecretState),
            "button": "Refresh now",
            "danger": False,
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/tenants/grant.html", context)
