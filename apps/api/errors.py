"""Refusals of the domain as answers of the API, in one place and one shape."""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS, RequestDataTooBig
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import IntegrityError
from drf_standardized_errors.formatter import ExceptionFormatter
from drf_standardized_errors.handler import ExceptionHandler as StandardExceptionHandler
from drf_standardized_errors.types import Error
from rest_framework import exceptions
from rest_framework.settings import api_settings

from apps.api.parsers import BodyTooLarge
from apps.costs.external_reservations import CannotSettle
from apps.costs.prices import UnknownModel
from apps.execution.errors import ArtifactUnreadable
from apps.swarms.actions.submit import CannotSubmit
from apps.swarms.models.swarm import CannotAct
from apps.swarms.specs import SpecInvalid
from apps.tenants.access import AccessDenied
from apps.tenants.actions import CannotCreateToken

TAKEN = {
    "one_budget_per_name": "Budget with this Tenant and Name already exists.",
    "one_webhook_per_name": "Webhook with this Tenant and Name already exists.",
}
"""Unique constraints that two requests at once can run into, and what to say: as it is said to the later of two."""


class Conflict(exceptions.APIException):
    """What was asked does not go with the state things are in; the detail says why. ``wait`` is in seconds."""

    status_code = 409
    default_code = "conflict"

    def __init__(self, detail: str, code: str | None = None, *, wait: int | None = None) -> None:
        super().__init__(detail, code)
        self.wait = wait


class InvalidSpec(exceptions.ValidationError):
    """A spec with errors: each keeps its path in the spec, which may have dots and brackets of its own."""

    def __init__(self, invalid: SpecInvalid) -> None:
        super().__init__(str(invalid), "invalid")
        self.errors = [
            Error(
                error.code,
                f"{error.message} (line {error.line})" if error.line else error.message,
                error.path or "spec",
            )
            for error in invalid.errors
        ]


class ExceptionHandler(StandardExceptionHandler):
    """Turns what the domain raises into the API's own exceptions."""

    def convert_known_exceptions(self, exc: Exception) -> Exception:
        match exc:
            case AccessDenied():
                return exceptions.PermissionDenied(str(exc))
            case SpecInvalid():
                return InvalidSpec(exc)
            case CannotAct() | CannotSubmit():
                return Conflict(str(exc))
            case DjangoValidationError():
                return self._invalid(exc)
            case IntegrityError() if message := TAKEN.get(_constraint(exc)):
                return exceptions.ValidationError({api_settings.NON_FIELD_ERRORS_KEY: [message]}, "invalid")
            case RequestDataTooBig():
                return BodyTooLarge(f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes.")
            case CannotSettle():
                return Conflict(str(exc), exc.code)
            case CannotCreateToken():
                return exceptions.ValidationError(str(exc), "refused")
            case ArtifactUnreadable():
                return Conflict(str(exc), "unreadable")
            case UnknownModel():
                return exceptions.ValidationError({"model": [str(exc)]}, "unknown_model")
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


class Formatter(ExceptionFormatter):
    """``{"type", "errors": [{"code", "detail", "attr"}]}``."""

    def get_errors(self) -> list[Error]:
        if isinstance(self.exc, InvalidSpec):
            return self.exc.errors
        errors: list[Error] = super().get_errors()
        return errors
