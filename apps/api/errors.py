"""Refusals of the domain as answers of the API, in one place and one shape."""

from __future__ import annotations

from django.core.exceptions import NON_FIELD_ERRORS
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import IntegrityError
from drf_standardized_errors.handler import ExceptionHandler as StandardExceptionHandler
from rest_framework import exceptions
from rest_framework.settings import api_settings

from apps.swarms.models.swarm import CannotAct
from apps.tenants.access import AccessDenied

TAKEN = {"one_budget_per_name": ("name", "A budget of this tenant has this name already.")}
"""Unique constraints that a request can run into: the key of the body that is to blame, and what to say."""


class Conflict(exceptions.APIException):
    """What was asked does not go with the state things are in; the detail says why. ``wait`` is in seconds."""

    status_code = 409
    default_code = "conflict"

    def __init__(self, detail: str, code: str | None = None, *, wait: int | None = None) -> None:
        super().__init__(detail, code)
        self.wait = wait


class ExceptionHandler(StandardExceptionHandler):
    """Turns what the domain raises into the API's own exceptions."""

    def convert_known_exceptions(self, exc: Exception) -> Exception:
        match exc:
            case AccessDenied():
                return exceptions.PermissionDenied(str(exc))
            case CannotAct():
                return Conflict(str(exc))
            case DjangoValidationError():
                return self._invalid(exc)
            case IntegrityError() if constraint := TAKEN.get(_constraint(exc)):
                return exceptions.ValidationError({constraint[0]: [constraint[1]]}, "unique")
            case _:
                converted: Exception = super().convert_known_exceptions(exc)
                return converted

    def _invalid(self, exc: DjangoValidationError) -> exceptions.ValidationError:
        """The errors of a model's fields, under the names that the API has for them (``attrs`` of the view)."""
        names = getattr(self.context["view"], "attrs", {})
        by_field = exc.message_dict if hasattr(exc, "error_dict") else {NON_FIELD_ERRORS: exc.messages}
        return exceptions.ValidationError(
            {
                api_settings.NON_FIELD_ERRORS_KEY if field == NON_FIELD_ERRORS else names.get(field, field): texts
                for field, texts in by_field.items()
            },
            "invalid",
        )


def _constraint(error: IntegrityError) -> str:
    """Name of the constraint that was violated."""
    return getattr(getattr(error.__cause__, "diag", None), "constraint_name", None) or ""
