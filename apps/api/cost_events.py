"""Cost events as they come in: many rows at once, each good or wrong by itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, StringConstraints, TypeAdapter
from pydantic import ValidationError as PydanticError
from pydantic_core import ErrorDetails, PydanticCustomError

from apps.api.parsers import UNSTORABLE, UnstorableRow
from apps.api.serializers.base import AmountInvalid, read_usd
from apps.costs.external_events import CostEvent
from apps.costs.external_reservations import MOST_NANO
from apps.costs.models import Kind
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission

MOST_ROWS = 10_000
MOST_TOKENS = 10**12
AHEAD = dt.timedelta(minutes=5)
"""How far in the future an event may lie: clocks differ."""

NOT_PERMITTED = f"This needs the permission {Permission.COST_RECORD} in this tenant."
EARLIEST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class RowError:
    """What is wrong with a row. ``attr`` is its key; None when it is the row as a whole."""

    index: int
    event_id: str | None
    code: str
    detail: str
    attr: str | None


def _time(value: Any) -> dt.datetime:
    if isinstance(value, str) and "T" in value.upper():
        try:
            at = dt.datetime.fromisoformat(value)
            if at.tzinfo is not None:
                return at.astimezone(dt.UTC)
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError("invalid", 'A time is RFC 3339 with its zone, such as "2026-11-21T12:00:00Z".')


def _usd(value: Any) -> int:
    try:
        return read_usd(value, MOST_NANO)
    except AmountInvalid as wrong:
        raise PydanticCustomError(wrong.code, str(wrong)) from None  # type: ignore[arg-type]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("invalid", "Must be a whole number.")
    return value


def _text(most: int, least: int = 0) -> Any:
    return Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=least, max_length=most)]


_Tokens = Annotated[int, BeforeValidator(_no_bool), Field(strict=True, ge=0, le=MOST_TOKENS)]


class EventRow(BaseModel):
    """The keys of an event and what they take."""

    model_config = ConfigDict(extra="forbid")

    event_id: _text(200, 1)  # type: ignore[valid-type]
    tenant: _text(100, 1)  # type: ignore[valid-type]
    time: Annotated[dt.datetime, PlainValidator(_time)]
    kind: Literal["llm", "infrastructure", "storage"] = "llm"
    agent: _text(100) = ""  # type: ignore[valid-type]
    model: _text(200) = ""  # type: ignore[valid-type]
    end_user: _text(200) = ""  # type: ignore[valid-type]
    run: _text(100) = ""  # type: ignore[valid-type]
    amount_usd: Annotated[int, PlainValidator(_usd)] | None = None
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    cache_read_tokens: _Tokens | None = None
    cache_write_tokens: _Tokens | None = None


_ROWS = TypeAdapter(list[EventRow])


class _Wrong(Exception):
    def __init__(self, code: str, detail: str, attr: str) -> None:
        super().__init__(detail)
        self.code, self.detail, self.attr = code, detail, attr


def read(
    rows: Sequence[Any], *, principal: Principal, now: dt.datetime
) -> tuple[list[tuple[int, CostEvent]], list[RowError]]:
    """The events of the rows that are good, each with its place, and what is wrong with the others. One query."""
    errors: list[RowError] = []
    valid = _valid(rows, errors)
    tenants = {
        tenant.slug: tenant
        for tenant in principal.tenants(None).filter(slug__in={row.tenant for _, row in valid}).only("id", "slug")
    }
    events = []
    for index, row in valid:
        try:
            events.append((index, _event(row, tenants, principal, now)))
        except _Wrong as wrong:
            errors.append(RowError(index, row.event_id, wrong.code, wrong.detail, wrong.attr))
    errors.sort(key=lambda error: error.index)
    return events, errors


def _valid(rows: Sequence[Any], errors: list[RowError]) -> list[tuple[int, EventRow]]:
    try:
        return list(enumerate(_ROWS.validate_python(rows)))
    except PydanticError as problem:
        found = problem.errors(include_url=False, include_input=False)
    wrong = {int(error["loc"][0]) for error in found}
    for error in found:
        index = int(error["loc"][0])
        if not isinstance(rows[index], UnstorableRow):
            errors.append(_row_error(index, rows[index], error))
    errors += [
        RowError(index, None, "invalid", UNSTORABLE, None)
        for index, row in enumerate(rows)
        if isinstance(row, UnstorableRow)
    ]
    good = [index for index in range(len(rows)) if index not in wrong]
    return list(zip(good, _ROWS.validate_python([rows[index] for index in good]), strict=True))


def _row_error(index: int, row: Any, error: ErrorDetails) -> RowError:
    given = row.get("event_id") if isinstance(row, Mapping) else None
    attr = str(error["loc"][1])[:100] if len(error["loc"]) > 1 else None
    code, detail = _said(error)
    return RowError(index, given[:200] if isinstance(given, str) else None, code, detail, attr)


def _said(error: ErrorDetails) -> tuple[str, str]:
    """Code and text of a pydantic error, in the words of the rest of the API."""
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "required", "This key is required."
        case "extra_forbidden":
            return "unknown_key", "This key is not known here."
        case "model_type" | "model_attributes_type":
            return "invalid", "An event is an object."
        case "string_type":
            return "invalid", "Must be text."
        case "string_too_short":
            return "blank", "This may not be blank."
        case "string_too_long":
            return "max_length", f"Must have at most {context['max_length']} characters."
        case "literal_error":
            return "invalid_choice", f"Must be one of {context['expected']}."
        case "int_type" | "int_parsing_size":
            return "invalid", "Must be a whole number."
        case "greater_than_equal":
            return "min_value", "Must not be negative."
        case "less_than_equal":
            return "max_value", f"Must be at most {MOST_TOKENS:,}."
        case other:
            return other, error["msg"]


def _event(row: EventRow, tenants: Mapping[str, Tenant], principal: Principal, now: dt.datetime) -> CostEvent:
    tenant = tenants.get(row.tenant)
    if tenant is None:
        raise _Wrong("unknown", f"There is no tenant {row.tenant[:60]!r}, or you have no role in it.", "tenant")
    if not principal.can(Permission.COST_RECORD, tenant.pk):
        raise _Wrong("permission_denied", NOT_PERMITTED, "tenant")
    if row.time > now + AHEAD:
        raise _Wrong("in_future", "The event lies more than 5 minutes in the future.", "time")
    if row.time < EARLIEST:
        raise _Wrong("too_old", f"The event lies before {EARLIEST:%Y}.", "time")
    tokens = (row.input_tokens, row.output_tokens, row.cache_read_tokens, row.cache_write_tokens)
    has_tokens = any(count is not None for count in tokens)
    count_in, count_out, read, written = (count or 0 for count in tokens)
    if has_tokens and row.kind != "llm":
        raise _Wrong("invalid", "Only a model call has tokens.", "kind")
    if read + written > count_in:
        raise _Wrong("invalid", "Tokens of the cache are part of input_tokens, which is less.", "cache_read_tokens")
    if row.amount_usd is None:
        if not has_tokens:
            raise _Wrong("required", "Give amount_usd, or for a model call its tokens.", "amount_usd")
        if not row.model:
            raise _Wrong("required", "Tokens without amount_usd need the model, which has a price.", "model")
    return CostEvent(
        tenant_id=tenant.pk,
        event_id=row.event_id,
        at=row.time,
        kind=Kind(row.kind),
        amount=row.amount_usd,
        agent=row.agent,
        model=row.model,
        run=row.run,
        end_user=row.end_user,
        input_tokens=count_in,
        output_tokens=count_out,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )
