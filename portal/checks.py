"""System checks of the settings: each names the variable and what to do. Tested by id."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from portal import env


@register()
def environment_is_readable(**_: Any) -> list[CheckMessage]:
    """portal.E001: a variable with a value that cannot be used."""
    return [
        Error(f"{name}: {problem}.", hint="See docs/reference/environment.md.", id="portal.E001")
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
            ("SECRET_KEY", settings.SECRET_KEY, "Set SECRET_KEY (or SECRET_KEY_FILE) to 50 or more random characters."),
            ("ALLOWED_HOSTS", settings.ALLOWED_HOSTS, "Set ALLOWED_HOSTS to the host names people use, by commas."),
        )
        if not value
    ]
