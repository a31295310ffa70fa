"""The form of a budget in the administration."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextInputWidget

from apps.costs.models import Budget, Scope
from apps.costs.models.budget import default_alert_levels, validate_alert_levels
from apps.privacy.models import DataSubject
from apps.tenants.models import Tenant


class LevelsField(forms.CharField):
    """Percents typed with commas between them ("80, 90, 100"), cleaned to a sorted list of them."""

    widget = UnfoldAdminTextInputWidget

    def prepare_value(self, value: Any) -> Any:
        return value if value is None or isinstance(value, str) else ", ".join(map(str, value))

    def clean(self, value: Any) -> list[int]:
        parts = [part.strip().removesuffix("%").strip() for part in str(value or "").split(",")]
        parts = [part for part in parts if part]
        if wrong := [part for part in parts if not (part.isascii() and part.isdigit() and len(part) < 9)]:
            raise forms.ValidationError(
                f"Whole percents with commas between them, such as 80, 90, 100: {wrong[0][:20]} is none."
            )
        levels = sorted(map(int, parts))
        validate_alert_levels(levels)
        return levels

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.clean(data) != (initial or [])
        except forms.ValidationError:
            return True


class BudgetForm(forms.ModelForm):
    """The budget's fields; the action that saves it may refuse, and says so on the form."""

    alert_levels = LevelsField(
        required=False,
        initial=default_alert_levels,
        label="Alert at (%)",
        help_text="Percents of the limit, such as 80, 90, 100 (up to 1000 for a soft budget): each is told once per "
        "period. Empty: nobody is told.",
    )

    class Meta:
        model = Budget
        fields = (
            "tenant",
            "name",
            "scope",
            "target",
            "period",
            "enforcement",
            "limit",
            "alert_levels",
            "is_active",
            "note",
        )

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or self.cleaned_data
        if self.add_prefix("alert_levels") not in self.data:
            given["alert_levels"] = self.instance.alert_levels  # not asked for is not the same as left empty
        scope, target = given.get("scope"), (given.get("target") or "").strip()
        if scope == Scope.TENANT and target:
            self.add_error("target", "A budget of the whole tenant has no target: leave this empty.")
        if scope == Scope.SWARM and target and not _is_uuid(target):
            self.add_error("target", "Must be the id (a UUID) of a swarm, or empty for each one separately.")
        if scope == Scope.END_USER and target and not _is_uuid(target) and given.get("tenant"):
            given["target"] = self._pseudonym(given["tenant"], target)
        return given

    def _pseudonym(self, tenant: Tenant, name: str) -> str:
        """What stands for a person in budgets and in the ledger."""
        found = DataSubject.objects.filter(tenant_id=tenant.pk, reference=name).values_list("pk", flat=True).first()
        if found is None:
            self.add_error(
                "target",
                f"Nobody is known as “{name}” in {tenant.name}. Give your own name for the person, as it was sent with "
                "the work, or the pseudonym that the ledger shows; or nothing, for each person separately.",
            )
        return str(found or "")


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
