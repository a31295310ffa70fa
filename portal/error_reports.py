"""The error pages of DEBUG: settings, headers, forms and variables without the secrets in them."""

from __future__ import annotations

import re
from typing import Any

from django.http import HttpRequest
from django.utils.safestring import SafeString, mark_safe
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from portal.redaction import redacted


class ReporterFilter(SafeExceptionReporterFilter):
    """Django's own, which also knows addresses with passwords, cookies, and what a form sent."""

    hidden_settings = re.compile(
        "API|AUTH|TOKEN|KEY|SECRET|PASS|SIGNATURE|COOKIE|CREDENTIAL|_URL$|SESSION", flags=re.IGNORECASE
    )

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        clean = super().cleanse_setting(key, value)
        return redacted(str(clean)) if isinstance(clean, str) else clean  # str: it may be a lazy one

    def get_post_parameters(self, request: HttpRequest | None) -> dict[str, Any]:
        return {name: self.cleanse_setting(name, value) for name, value in super().get_post_parameters(request).items()}


class Reporter(ExceptionReporter):
    """Without secrets in the texts of exceptions and in variables."""

    def get_traceback_data(self) -> dict[str, Any]:
        data: dict[str, Any] = super().get_traceback_data()
        for frame in data.get("frames", ()):
            frame["vars"] = [(name, redacted(str(value))) for name, value in frame["vars"]]
        return data

    def get_traceback_html(self) -> SafeString:
        return mark_safe(redacted(super().get_traceback_html()))  # what replaces a secret is no markup

    def get_traceback_text(self) -> SafeString:
        return mark_safe(redacted(super().get_traceback_text()))
