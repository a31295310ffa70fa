"""System checks of the settings: each names the variable and what to do. Tested by id."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from portal import env


@register()
def environment_is_readable(**_: Any) -> list[CheckMessage]:
    """portal.E001: a variable with a value that cannot be used."""
    return [
        Error(f"{name}: {problem.rstrip('?')}.", hint="See docs/reference/environment.md.", id="portal.E001")
        for name, problem in env.problems
    ]


@register()
def secrets_are_set(**_: Any) -> list[CheckMessage]:
    """portal.E002: a variable that a server with its own DATABASE_URL must have."""
    if settings.STANDALONE:
        return []
    return [
        Error(f"{name} is not set.", hint=hint, id="portal.E002")
        for name, value, hint in (
            ("SECRET_KEY", _secret_key(), "Set SECRET_KEY (or SECRET_KEY_FILE) to 50 or more random characters."),
            ("ALLOWED_HOSTS", settings.ALLOWED_HOSTS, "Set ALLOWED_HOSTS to the host names people use, by commas."),
        )
        if not value
    ]


def _secret_key() -> str:
    try:
        return str(settings.SECRET_KEY)
    except ImproperlyConfigured:  # Django's way to say that it is empty
        return ""
