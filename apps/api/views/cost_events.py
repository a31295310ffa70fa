"""Costs that agents elsewhere report."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.cost_events import MOST_ROWS, RowError, read
from apps.api.idempotency import idempotent
from apps.api.parsers import RowsParser
from apps.api.schema import IDEMPOTENCY_KEY, KEY_REUSED
from apps.api.serializers.external import (
    EVENT_EXAMPLES,
    PARTLY_EXAMPLE,
    RECORDED_EXAMPLE,
    CostEventSerializer,
    RecordedSerializer,
    RowErrorsSerializer,
)
from apps.api.views.base import Door
from apps.costs.external import record
from apps.costs.external_events import Outcome, Status
from apps.tenants.roles import Permission
from portal.money import usd_text


class CostEvents(Door):
    parser_classes = (RowsParser,)
    limit_policy = "ingest"

    @extend_schema(
        summary="Report costs of agents elsewhere",
        operation_id="cost_events_record",
        tags=["costs"],
        request=PolymorphicProxySerializer(
            "CostEventOrList",
            [CostEventSerializer, CostEventSerializer(many=True)],
            resource_type_field_name=None,
            many=False,
        ),
        responses={
            200: RecordedSerializer,
            201: RecordedSerializer,
            207: RecordedSerializer,
            400: RowErrorsSerializer,
            **KEY_REUSED,
        },
        parameters=[IDEMPOTENCY_KEY],
        examples=[*EVENT_EXAMPLES, RECORDED_EXAMPLE, PARTLY_EXAMPLE],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """One event or a list of up to 10,000; each is charged once, in all budgets that watch it. Needs cost:record.

        201: all are charged now or were before; 200: all were before; 207: some failed, the others are charged (each
        row's outcome is in `results`); 400: all failed, nothing is charged.

        An event that was sent before is a duplicate when it says the same, and fails with `conflict` when it says
        something else. So send again whatever you have no answer for; an Idempotency-Key is not needed. What was
        spent is never refused: what is beyond a hard budget is its overage, and refuses the next reservation.
        """
        now = timezone.now()
        rows = _rows(request.data)
        events, errors = read(rows, principal=self.principal, now=now)
        outcomes = dict(
            zip(
                (index for index, _ in events),
                record([event for _, event in events], by=self.principal, now=now),
                strict=True,
            )
        )
        for index, event in events:
            outcome = outcomes[index]
            if outcome.status == Status.FAILED:
                errors.append(RowError(index, event.event_id, outcome.code, outcome.detail, outcome.attr))
        errors.sort(key=lambda error: error.index)
        failed = len({error.index for error in errors})
        if failed == len(rows):
            if all(error.code == "permission_denied" for error in errors):
                raise PermissionDenied(errors[0].detail)
            return Response({"type": "validation_error", "errors": [_said(error) for error in errors]}, 400)
        names = {error.index: error.event_id for error in errors} | {index: event.event_id for index, event in events}
        body = _answer(names, outcomes, errors, failed)
        return Response(body, 207 if failed else 201 if body["recorded"] else 200)

    def verify_replay(self, body: Any) -> None:
        self.principal.verify_anywhere(Permission.COST_RECORD)


_FAILED = Outcome(Status.FAILED)


def _rows(data: Any) -> list[Any]:
    rows = data if isinstance(data, list) else [data]
    if not rows:
        raise ValidationError("Send at least one event.", "empty")
    if len(rows) > MOST_ROWS:
        raise ValidationError(f"Send at most {MOST_ROWS:,} events at once; these are {len(rows):,}.", "too_many")
    return rows


def _said(error: RowError) -> dict[str, Any]:
    return {
        "index": error.index,
        "event_id": error.event_id,
        "code": error.code,
        "detail": error.detail,
        "attr": error.attr,
    }


def _answer(
    names: dict[int, str | None], outcomes: dict[int, Outcome], errors: list[RowError], failed: int
) -> dict[str, Any]:
    results = []
    counts = dict.fromkeys(Status, 0)
    charged = 0
    for index in range(len(names)):
        outcome = outcomes.get(index, _FAILED)
        counts[outcome.status] += 1
        if outcome.status == Status.RECORDED:
            charged += outcome.amount or 0
        results.append(
            {
                "index": index,
                "event_id": names[index],
                "status": outcome.status.value,
                "amount_usd": None if outcome.amount is None else usd_text(outcome.amount),
            }
        )
    return {
        "recorded": counts[Status.RECORDED],
        "duplicates": counts[Status.DUPLICATE],
        "failed": failed,
        "amount_usd": usd_text(charged),
        "results": results,
        "errors": [_said(error) for error in errors],
    }
