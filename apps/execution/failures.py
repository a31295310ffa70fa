"""What an exception of an attempt means: a code, words for a person, and whether another try can succeed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, UnexpectedModelBehavior, UsageLimitExceeded

from apps.costs.prices import UnknownModel
from apps.costs.reserving import Refused
from apps.execution.errors import (
    BudgetBusy,
    BudgetExhausted,
    NoRegionAnswered,
    PolicyDenied,
    RegionsBusy,
    RuntimeMisconfigured,
)
from apps.providers.errors import ProviderUnavailable
from apps.swarms.models import FailureCode
from apps.swarms.prompts import PromptError

RETRYABLE_STATUS = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in words for a person, and whether another try can succeed.

    ``refused`` is the hard budget that has no room for its call, which stops its whole swarm.
    """

    code: FailureCode
    message: str
    can_heal: bool
    refused: Refused | None = None


def classify(error: BaseException) -> Failure:
    """The failure behind an exception of an attempt."""
    name = type(error).__name__
    text = str(error).strip() or name
    match error:
        case BudgetBusy():
            return Failure(FailureCode.BUDGET_EXHAUSTED, text, can_heal=True)
        case RegionsBusy():
            return Failure(FailureCode.PROVIDER_ERROR, text, can_heal=True)
        case BudgetExhausted():
            return Failure(FailureCode.BUDGET_EXHAUSTED, text, can_heal=False, refused=error.refused)
        case PolicyDenied():
            return Failure(FailureCode.POLICY_DENIED, text, can_heal=False)
        case ModelHTTPError():
            heals = error.status_code >= 500 or error.status_code in RETRYABLE_STATUS
            return Failure(FailureCode.PROVIDER_ERROR, _http_text(error), can_heal=heals)
        case TimeoutError():
            return Failure(FailureCode.PROVIDER_TIMEOUT, text, can_heal=True)
        case NoRegionAnswered(is_timeout=True):
            return Failure(FailureCode.PROVIDER_TIMEOUT, text, can_heal=True)
        case ProviderUnavailable():
            return Failure(FailureCode.PROVIDER_ERROR, text, can_heal=True)
        case ModelAPIError():
            return Failure(
                FailureCode.PROVIDER_TIMEOUT if "timed out" in text.lower() else FailureCode.PROVIDER_ERROR,
                text,
                can_heal=True,
            )
        case UsageLimitExceeded() | UnexpectedModelBehavior():
            return Failure(FailureCode.INVALID_OUTPUT, text, can_heal=True)
        case UnknownModel() | PromptError() | RuntimeMisconfigured():
            return Failure(FailureCode.AGENT_ERROR, text, can_heal=False)
    return Failure(FailureCode.AGENT_ERROR, text if text == name else f"{name}: {text}", can_heal=True)


def _http_text(error: ModelHTTPError) -> str:
    body = error.body
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        detail = inner.get("message") if isinstance(inner, Mapping) else inner
    else:
        detail = body
    return f"The provider answered {error.status_code} for {error.model_name}: {str(detail or 'no details')[:500]}"
