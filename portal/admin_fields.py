"""Form fields and list filters of the admin."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import RangeDateFilter
from unfold.utils import parse_date_str
from unfold.widgets import INPUT_CLASSES, UnfoldAdminTextInputWidget

from portal import encryption
from portal.money import to_nano, usd_text

MOST_NANO = 9_000_000_000 * 1_000_000_000


class UsdField(forms.Field):
    """An amount typed in USD, cleaned to an integer of nano-dollars. Never goes through a binary float.

    Takes digits with at most nine decimals and a point ("12.50", "$ 12.5", "0.000000001").
    """

    widget = UnfoldAdminTextInputWidget
    default_error_messages = {
        "invalid": "Enter an amount in USD with digits and a point, such as 12.50.",
        "comma": "Use a point for decimals and nothing between thousands, such as 1250.50.",
        "decimals": "No more than nine decimals: a nano-dollar (0.000000001) is the smallest amount.",
        "min_value": "Enter an amount of 0 or more.",
        "max_value": "Enter an amount of 9 billion USD or less.",
    }

    def __init__(self, *, min_value: int | None = None, max_value: int | None = None, **kwargs: Any) -> None:
        # A BigIntegerField hands its own bounds over, in nano-dollars; amounts typed by a person are never negative.
        self.max_nano = min(max_value or MOST_NANO, MOST_NANO)
        self.min_nano = max(min_value or 0, 0)
        kwargs.setdefault("help_text", "USD")
        super().__init__(**kwargs)

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        return {"inputmode": "decimal", "autocomplete": "off"}

    def prepare_value(self, value: Any) -> Any:
        """Nano-dollars as text in USD; what a person typed stays as typed."""
        return usd_text(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> int | None:
        if value in self.empty_values:
            return None
        text = str(value).strip().removeprefix("$").removesuffix("USD").strip()
        if "," in text:
            raise ValidationError(self.error_messages["comma"], code="comma")
        if not text or set(text) - set("0123456789.+-"):
            raise ValidationError(self.error_messages["invalid"], code="invalid")
        try:
            usd = Decimal(text)
        except InvalidOperation:
            raise ValidationError(self.error_messages["invalid"], code="invalid") from None
        if abs(usd) > MOST_NANO:
            raise ValidationError(self.error_messages["max_value"], code="max_value")
        try:
            return to_nano(usd)
        except ValueError:
            raise ValidationError(self.error_messages["decimals"], code="decimals") from None

    def validate(self, value: Any) -> None:
        super().validate(value)
        if value is not None and value < self.min_nano:
            raise ValidationError(self.error_messages["min_value"], code="min_value")
        if value is not None and value > self.max_nano:
            raise ValidationError(self.error_messages["max_value"], code="max_value")

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != initial)
        except ValidationError:
            return True


class SecretInput(encryption.SecretInput):
    """In the look of the admin."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__({"class": " ".join(INPUT_CLASSES), **(attrs or {})})


class DateRangeFilter(RangeDateFilter):
    """From a day to a day, both included, in the portal's time zone."""

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        for edge, lookup, days in (("from", "gte", 0), ("to", "lt", 1)):
            text = self.used_parameters.get(f"{self.field_path}_{edge}")
            day = parse_date_str(text) if isinstance(text, str) else None
            if day and dt.date.min < day < dt.date.max:
                start = dt.datetime.combine(day + dt.timedelta(days=days), dt.time(), timezone.get_current_timezone())
                queryset = queryset.filter(**{f"{self.field_path}__{lookup}": start})
        return queryset


class SuggestingTextInput(UnfoldAdminTextInputWidget):
    """A text field that offers some texts to choose from, and takes any other too."""

    def __init__(self, suggestions: Iterable[str], attrs: dict[str, Any] | None = None) -> None:
        super().__init__({"autocomplete": "off", **(attrs or {})})
        self.suggestions = list(suggestions)

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        if not self.suggestions:
            return SafeString(super().render(name, value, attrs, renderer))
        id = f"{(attrs or {}).get('id', name)}_offered"
        field = super().render(name, value, {**(attrs or {}), "list": id}, renderer)
        options = format_html_join("", '<option value="{}"></option>', ((text,) for text in self.suggestions))
        return format_html('{}<datalist id="{}">{}</datalist>', field, id, options)
