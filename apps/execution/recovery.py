"""What a failure means and what follows from it: facts in, decision out. The runner only obeys."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, UnexpectedModelBehavior, UsageLimitExceeded

from apps.costs.prices import UnknownModel
from apps.execution.errors import BudgetExhausted, PolicyDenied, RuntimeMisconfigured
from apps.providers.errors import ProviderUnavailable
from apps.swarms.models import FailureCode
from apps.swarms.prompts import PromptError

DEFAULT_DELAYS_S = (5.0, 15.0, 30.0)
RETRYABLE_STATUS = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed task runs again. Without overrides: after 5, 15 and 30 seconds; the fourth failure is permanent.

    An agent that overrides anything gets ``base_delay_s * factor ** n``, at most ``max_delay_s``, up to
    ``max_retries`` times.
    """

    max_retries: int = 3
    base_delay_s: float | None = None
    factor: float = 3
    max_delay_s: float = 60

    @classmethod
    def of(cls, overrides: Mapping[str, Any]) -> RetryPolicy:
        """The policy of an agent's ``retry`` mapping (empty or None values mean the defaults)."""
        given = {key: value for key, value in overrides.items() if value is not None}
        return cls(**{"base_delay_s": 5.0, **given}) if given else cls()

    def delay_s(self, failures: int) -> float | None:
        """Seconds to wait after that many failures (1 is the first); None when it was the last try."""
        if failures > self.max_retries:
            return None
        if self.base_delay_s is None:
            return DEFAULT_DELAYS_S[failures - 1]
        return float(min(self.base_delay_s * self.factor ** (failures - 1), self.max_delay_s))

    def retry_at(self, failures: int, *, now: dt.datetime, jitter: float) -> dt.datetime | None:
        """When to run again, up to a tenth later than the delay (``jitter`` in 0..1 spreads a herd); None: never."""
        delay = self.delay_s(failures)
        return None if delay is None else now + dt.timedelta(seconds=delay * (1 + 0.1 * jitter))


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in words for a person, and whether another try can succeed."""

    code: FailureCode
    message: str
    can_heal: bool


def classify(error: BaseException) -> Failure:
    """The failure behind an exception of an attempt."""
    name = type(error).__name__
    text = str(error).strip() or name
    match error:
        case BudgetExhausted():
            return Failure(FailureCode.BUDGET_EXHAUSTED, text, can_heal=False)
        case PolicyDenied():
            return Failure(FailureCode.POLICY_DENIED, text, can_heal=False)
        case ModelHTTPError():
            heals = error.status_code >= 500 or error.status_code in RETRYABLE_STATUS
            return Failure(FailureCode.PROVIDER_ERROR, _http_text(error), can_heal=heals)
        case TimeoutError():
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
