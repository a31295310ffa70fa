"""Serializers that refuse what they do not know, and money as text."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from portal.money import to_nano, usd_text

MOST_NANO = 2**63 - 1


class StrictSerializer(serializers.Serializer):
    """Unknown keys of the body are errors, beside the errors of the keys it knows."""

    def to_internal_value(self, data: Any) -> Any:
        problems: dict[str, Any] = {}
        if isinstance(data, Mapping):
            for key in data:
                name = str(key)
                if name not in self.fields:
                    problems[name] = [ErrorDetail("This key is not known here.", "unknown_key")]
                elif self.fields[name].read_only:
                    problems[name] = [ErrorDetail("This is read-only.", "read_only")]
        try:
            value = super().to_internal_value(data)
        except serializers.ValidationError as error:
            if not problems or not isinstance(error.detail, dict):
                raise
            problems = {**error.detail, **problems}
        if problems:
            raise serializers.ValidationError(problems)
        return value


class NoBody(StrictSerializer):
    """A request without a body, or with an empty object."""


class AmountInvalid(ValueError):
    """An amount that cannot be read. ``code`` is one of UsdField's messages."""

    def __init__(self, code: str) -> None:
        super().__init__(AMOUNT_ERRORS[code])
        self.code = code


AMOUNT_ERRORS = {
    "invalid": 'An amount in USD is decimal text, such as "2.50".',
    "precision": "An amount in USD has at most nine decimals.",
    "negative": "An amount must not be negative.",
    "too_large": "This amount is larger than can be kept.",
}


def read_usd(data: Any, most: int = MOST_NANO) -> int:
    """Nano-dollars of an amount in USD, text or a number. Raises AmountInvalid."""
    if isinstance(data, bool) or not isinstance(data, str | int | float):
        raise AmountInvalid("invalid")
    try:
        # The shortest text of a float is what was written in the body, up to 15 digits.
        usd = Decimal(str(data)[:50])
    except (InvalidOperation, ValueError):
        raise AmountInvalid("invalid") from None
    if not usd.is_finite():
        raise AmountInvalid("invalid")
    if usd < 0:
        raise AmountInvalid("negative")
    if usd.adjusted() > 10:
        raise AmountInvalid("too_large")
    try:
        nano = to_nano(usd)
    except ValueError:
        raise AmountInvalid("precision") from None
    if nano > most:
        raise AmountInvalid("too_large")
    return nano


@extend_schema_field({"type": "string", "format": "decimal", "examples": ["12.50", "0.000000125"]})
class UsdField(serializers.Field):
    """Nano-dollars inside, exact USD as decimal text outside: "2.50". Reads text or a number."""

    default_error_messages = {**AMOUNT_ERRORS}

    def __init__(self, *, most: int = MOST_NANO, **options: Any) -> None:
        super().__init__(**options)
        self.most = most

    def to_internal_value(self, data: Any) -> int:
        try:
            return read_usd(data, self.most)
        except AmountInvalid as wrong:
            self.fail(wrong.code)

    def to_representation(self, value: int) -> str:
        return usd_text(value)


@extend_schema_field(OpenApiTypes.STR)
class TenantField(serializers.Field):
    """Slug of a tenant that the caller (``principal`` of the context) knows: hidden and missing ones look alike."""

    default_error_messages = {
        "invalid": "A tenant is named by its slug, a text.",
        "unknown": "There is no tenant {slug!r}, or you have no role in it.",
    }

    def to_internal_value(self, data: Any) -> Tenant:
        if not isinstance(data, str):
            self.fail("invalid")
        principal: Principal = self.context["principal"]
        tenant = principal.tenants(None).filter(slug=data).first()
        if tenant is None:
            self.fail("unknown", slug=data[:60])
        return tenant

    def to_representation(self, value: Tenant) -> str:
        return value.slug
