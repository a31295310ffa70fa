"""Cost events and reservations of agents that run elsewhere: the bodies, and what is answered."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from apps.api.cost_events import MOST_TOKENS
from apps.api.schema import ErrorsSerializer, ProblemSerializer
from apps.api.serializers.base import StrictSerializer, TenantField, UsdField
from apps.costs.external_events import Status
from apps.costs.external_reservations import LONGEST_LEASE, MOST_NANO, State

LONGEST_LEASE_S = int(LONGEST_LEASE.total_seconds())


def _tokens(**options: Any) -> serializers.IntegerField:
    return serializers.IntegerField(min_value=0, max_value=MOST_TOKENS, required=False, **options)


class CostEventSerializer(serializers.Serializer):
    """A cost that was incurred elsewhere: money, or the tokens of a model call, which the price book prices."""

    event_id = serializers.CharField(max_length=200, help_text="Yours: sent again, it is charged once.")
    tenant = serializers.CharField(help_text="Slug.")
    time = serializers.DateTimeField(help_text="When it was incurred; at most 5 minutes ahead.")
    kind = serializers.ChoiceField(["llm", "infrastructure", "storage"], default="llm")
    agent = serializers.CharField(max_length=100, required=False, allow_blank=True)
    model = serializers.CharField(max_length=200, required=False, allow_blank=True, help_text='"provider:model".')
    end_user = serializers.CharField(
        max_length=200, required=False, allow_blank=True, help_text="Your reference of the person it was for."
    )
    run = serializers.CharField(max_length=100, required=False, allow_blank=True, help_text="Your name of the run.")
    amount_usd = UsdField(
        required=False, allow_null=True, help_text="What it cost. Left out, the tokens are priced, at the event's time."
    )
    input_tokens = _tokens(allow_null=True, help_text="With those of the provider's prompt cache.")
    output_tokens = _tokens(allow_null=True)
    cache_read_tokens = _tokens(allow_null=True, help_text="Of the input tokens, those read from the cache.")
    cache_write_tokens = _tokens(allow_null=True, help_text="Of the input tokens, those written to the cache.")


class RowProblemSerializer(ProblemSerializer):
    """What is wrong with a row."""

    index = serializers.IntegerField(help_text="Place of the row in the list, from 0.")
    event_id = serializers.CharField(allow_null=True, help_text="Null where the row has none that can be read.")


class EventOutcomeSerializer(serializers.Serializer):
    """What became of a row."""

    index = serializers.IntegerField()
    event_id = serializers.CharField(allow_null=True)
    status = serializers.ChoiceField([status.value for status in Status])
    amount_usd = UsdField(allow_null=True, help_text="What is charged for it; null where it failed.")


class RecordedSerializer(serializers.Serializer):
    """What became of the events of a request."""

    recorded = serializers.IntegerField(help_text="Rows that are charged now.")
    duplicates = serializers.IntegerField(help_text="Rows that were charged before: nothing is charged twice.")
    failed = serializers.IntegerField(help_text="Rows that are not charged.")
    amount_usd = UsdField(help_text="What is charged now, all in all.")
    results = EventOutcomeSerializer(many=True, help_text="Row by row, in the order of the request.")
    errors = RowProblemSerializer(many=True, help_text="Everything that is wrong.")  # type: ignore[assignment]


class FoundProblemSerializer(ProblemSerializer):
    """What is wrong with a row; without an index, with the body as a whole."""

    index = serializers.IntegerField(required=False, help_text="Place of the row in the list, from 0.")
    event_id = serializers.CharField(required=False, allow_null=True)


class RowErrorsSerializer(ErrorsSerializer):
    """Why nothing of a request was recorded."""

    errors = FoundProblemSerializer(many=True)  # type: ignore[assignment]


class NewReservationSerializer(StrictSerializer):
    """Money wanted for a call: an amount, or what the call can have at most, priced by the price book."""

    tenant = TenantField(help_text="Slug.")
    amount_usd = UsdField(source="amount", most=MOST_NANO, required=False, help_text="The most that the call can cost.")
    model = serializers.CharField(max_length=200, default="", allow_blank=True, help_text='"provider:model".')
    input_bytes = _tokens(help_text="UTF-8 bytes of the request: no tokeniser makes more tokens than bytes.")
    max_input_tokens = _tokens(help_text="Instead of input_bytes, where you know the tokeniser.")
    max_output_tokens = _tokens()
    agent = serializers.CharField(max_length=100, default="", allow_blank=True)
    end_user = serializers.CharField(
        max_length=200, default="", allow_blank=True, help_text="Your reference of the person the call is for."
    )
    run = serializers.CharField(max_length=100, default="", allow_blank=True, help_text="Your name of the run.")
    lease_s = serializers.IntegerField(
        min_value=1,
        max_value=LONGEST_LEASE_S,
        default=60,
        help_text="Seconds after which all of it is charged, unless it is settled, released or extended before.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        limits = {"input_bytes", "max_input_tokens", "max_output_tokens"} & attrs.keys()
        wrong: dict[str, str] = {}
        if "amount" in attrs:
            wrong = dict.fromkeys(limits, "Give either amount_usd or what the call can have at most.")
        elif not limits and not attrs["model"]:
            wrong["amount_usd"] = "Give amount_usd, or model, input_bytes (or max_input_tokens) and max_output_tokens."
        else:
            if not attrs["model"]:
                wrong["model"] = "This is needed to price the call."
            if "max_output_tokens" not in attrs:
                wrong["max_output_tokens"] = "This is needed to price the call."
            if len(limits & {"input_bytes", "max_input_tokens"}) != 1:
                wrong["input_bytes"] = "Give one of input_bytes and max_input_tokens."
        _refuse(wrong)
        return attrs


class ExtensionSerializer(StrictSerializer):
    """How long a reservation is wanted from now on."""

    lease_s = serializers.IntegerField(min_value=1, max_value=LONGEST_LEASE_S, default=60)


class SettlementSerializer(StrictSerializer):
    """What a call cost: money, or its tokens."""

    amount_usd = UsdField(source="amount", most=MOST_NANO, required=False)
    input_tokens = _tokens(help_text="With those of the provider's prompt cache.")
    output_tokens = _tokens()
    cache_read_tokens = _tokens(help_text="Of the input tokens, those read from the cache.")
    cache_write_tokens = _tokens(help_text="Of the input tokens, those written to the cache.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            _refuse({"amount_usd": "Give amount_usd or the tokens; 0 if the call was not made, or release it."})
        cached = attrs.get("cache_read_tokens", 0) + attrs.get("cache_write_tokens", 0)
        if cached > attrs.get("input_tokens", 0):
            _refuse({"cache_read_tokens": "Tokens of the cache are part of input_tokens, which is less."})
        return attrs


def _refuse(wrong: dict[str, str]) -> None:
    if wrong:
        raise serializers.ValidationError({name: [ErrorDetail(text, "invalid")] for name, text in wrong.items()})


class ExternalReservationSerializer(serializers.Serializer):
    """Money that an agent elsewhere has reserved, and what became of it."""

    id = serializers.UUIDField()
    tenant = serializers.CharField()
    status = serializers.ChoiceField(
        [state.value for state in State],
        help_text="unsettled: the lease ended, so all of it was charged; settling corrects that once.",
    )
    amount_usd = UsdField(source="amount", help_text="What was reserved.")
    charged_usd = UsdField(source="charged", allow_null=True, help_text="What the ledger holds; null while it is held.")
    agent = serializers.CharField(allow_blank=True)
    model = serializers.CharField(allow_blank=True)
    run = serializers.CharField(allow_blank=True)
    run_id = serializers.UUIDField(allow_null=True, help_text="The run as a budget's target; null without a run.")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True, help_text="End of the lease; null once it is over.")


class RefusedBySerializer(serializers.Serializer):
    """The budget that refuses, in its present period."""

    budget_id = serializers.UUIDField()
    budget = serializers.CharField()
    period = serializers.CharField(source="key")
    holder = serializers.CharField(allow_blank=True)
    limit_usd = UsdField(source="limit")
    left_usd = UsdField(source="left")


class RefusalSerializer(ErrorsSerializer):
    """No money for a call: ``budget_exhausted`` for good, ``budget_busy`` while other calls hold it."""

    refused_by = RefusedBySerializer()


EVENT = {
    "event_id": "crew-7/call-1841",
    "tenant": "acme",
    "time": "2026-11-21T12:00:00Z",
    "agent": "researcher",
    "model": "openai:gpt-4o-mini",
    "end_user": "user-8842",
    "run": "crew-7",
    "input_tokens": 1200,
    "output_tokens": 310,
}
EVENT_EXAMPLES = [
    OpenApiExample("Tokens, to be priced", EVENT, request_only=True),
    OpenApiExample(
        "Several, one in money",
        [EVENT, {"event_id": "gpu-2026-11-21T12", "tenant": "acme", "time": "2026-11-21T12:00:00Z",
                 "kind": "infrastructure", "amount_usd": "1.85"}],
        request_only=True,
    ),
]  # fmt: skip
RECORDED_EXAMPLE = OpenApiExample(
    "One recorded",
    {
        "recorded": 1,
        "duplicates": 0,
        "failed": 0,
        "amount_usd": "0.000366",
        "results": [{"index": 0, "event_id": "crew-7/call-1841", "status": "recorded", "amount_usd": "0.000366"}],
        "errors": [],
    },
    response_only=True,
    status_codes=["201"],
)
PARTLY_EXAMPLE = OpenApiExample(
    "One recorded, one wrong",
    {
        "recorded": 1,
        "duplicates": 0,
        "failed": 1,
        "amount_usd": "0.000366",
        "results": [
            {"index": 0, "event_id": "crew-7/call-1841", "status": "recorded", "amount_usd": "0.000366"},
            {"index": 1, "event_id": "crew-7/call-1842", "status": "failed", "amount_usd": None},
        ],
        "errors": [
            {
                "index": 1,
                "event_id": "crew-7/call-1842",
                "code": "unknown_model",
                "detail": 'No price is known for the model "openai:gpt-9". Add one in the admin under Prices: '
                "for one tenant, or for all.",
                "attr": "model",
            }
        ],
    },
    response_only=True,
    status_codes=["207"],
)
NEW_RESERVATION_EXAMPLES = [
    OpenApiExample(
        "By what the call can have at most",
        {"tenant": "acme", "model": "simulated:small", "input_bytes": 1800, "max_output_tokens": 300,
         "agent": "researcher", "end_user": "user-8842", "run": "crew-7", "lease_s": 120},
        request_only=True,
    ),
    OpenApiExample("By amount", {"tenant": "acme", "amount_usd": "0.02", "run": "crew-7"}, request_only=True),
]  # fmt: skip
_HELD = {
    "id": "019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11",
    "tenant": "acme",
    "status": "held",
    "amount_usd": "0.00045",
    "charged_usd": None,
    "agent": "researcher",
    "model": "simulated:small",
    "run": "crew-7",
    "run_id": "4d7a0e0b-6c55-5f0e-9a43-0d1b3f2c9a10",
    "created_at": "2026-11-21T12:00:00Z",
    "expires_at": "2026-11-21T12:02:00Z",
}
HELD_EXAMPLE = OpenApiExample("Held", _HELD, response_only=True, status_codes=["200", "201"])
SETTLED_EXAMPLE = OpenApiExample(
    "Settled",
    {**_HELD, "status": "settled", "charged_usd": "0.000213", "expires_at": None},
    response_only=True,
    status_codes=["200"],
)
REFUSED_EXAMPLE = OpenApiExample(
    "The budget is used up",
    {
        "type": "client_error",
        "errors": [
            {
                "code": "budget_exhausted",
                "detail": 'Budget "Each run" has $0.000120 left of $0.05; this call can cost up to $0.000450.',
                "attr": None,
            }
        ],
        "refused_by": {
            "budget_id": "019a9b3c-0000-7c3a-9f10-2b6f6f0f1c11",
            "budget": "Each run",
            "period": "4d7a0e0b-6c55-5f0e-9a43-0d1b3f2c9a10",
            "holder": "4d7a0e0b-6c55-5f0e-9a43-0d1b3f2c9a10",
            "limit_usd": "0.05",
            "left_usd": "0.00012",
        },
    },
    response_only=True,
    status_codes=["409"],
)
