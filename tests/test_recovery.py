"""What a failure means, and when a failed task runs again."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pydantic_ai.exceptions import (
    ModelConnectionError,
    ModelHTTPError,
    ModelTimeoutError,
    UnexpectedModelBehavior,
)

from apps.costs.prices import UnknownModel
from apps.execution.errors import BudgetExhausted, PolicyDenied, RuntimeMisconfigured
from apps.execution.failures import classify
from apps.execution.recovery import RetryPolicy
from apps.providers.errors import ProviderUnavailable

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)

DELAYS: list[tuple[str, dict[str, Any], list[float | None]]] = [
    ("the default: 5, 15, 30 s, and the fourth failure is permanent", {}, [5, 15, 30, None]),  # E2
    ("a mapping of empty values is no override", {"max_retries": None}, [5, 15, 30, None]),
    ("another count: the same base and factor, up to the default maximum", {"max_retries": 4}, [5, 15, 45, 60, None]),
    ("no retries at all", {"max_retries": 0}, [None]),
    ("another base", {"base_delay_s": 1}, [1, 3, 9, None]),
    ("another factor", {"factor": 2, "max_retries": 5}, [5, 10, 20, 40, 60, None]),
    ("a lower maximum", {"max_delay_s": 10}, [5, 10, 10, None]),
]


@pytest.mark.parametrize(("overrides", "delays"), [row[1:] for row in DELAYS], ids=[row[0] for row in DELAYS])
def test_delays(overrides: dict[str, Any], delays: list[float | None]) -> None:
    policy = RetryPolicy.of(overrides)
    assert [policy.delay_s(failure) for failure in range(1, len(delays) + 1)] == delays


def test_jitter_only_delays_and_by_a_tenth_at_most() -> None:
    policy = RetryPolicy()
    assert policy.retry_at(2, now=NOW, jitter=0) == NOW + dt.timedelta(seconds=15)
    assert policy.retry_at(2, now=NOW, jitter=1) == NOW + dt.timedelta(seconds=16.5)
    assert policy.retry_at(4, now=NOW, jitter=0) is None


def http(status: int) -> ModelHTTPError:
    return ModelHTTPError(status_code=status, model_name="small", body={"error": {"message": "it broke"}})


FAILURES = [
    # error, code, whether another try can succeed
    (BudgetExhausted("no room"), "budget_exhausted", False),
    (PolicyDenied("not allowed"), "policy_denied", False),
    (http(400), "provider_error", False),  # a bad request stays bad
    (http(401), "provider_error", False),  # so does a wrong key
    (http(404), "provider_error", False),
    (http(408), "provider_error", True),
    (http(429), "provider_error", True),
    (http(500), "provider_error", True),
    (http(503), "provider_error", True),
    (ModelConnectionError("small", "refused", phase="connect"), "provider_error", True),
    (ModelTimeoutError("small", "Request timed out."), "provider_timeout", True),
    (TimeoutError("It took longer than its timeout of 60 s."), "provider_timeout", True),
    (ProviderUnavailable("no region"), "provider_error", True),
    (UnexpectedModelBehavior("no text"), "invalid_output", True),
    (UnknownModel("openai:nope has no price"), "agent_error", False),
    (RuntimeMisconfigured("no callable"), "agent_error", False),
    (RuntimeError("a bug of the agent"), "agent_error", True),
]


@pytest.mark.parametrize(("error", "code", "heals"), FAILURES, ids=[repr(row[0])[:60] for row in FAILURES])
def test_failures_are_told_apart(error: Exception, code: str, heals: bool) -> None:
    failure = classify(error)
    assert (failure.code, failure.can_heal) == (code, heals)


def test_the_provider_is_quoted() -> None:
    assert classify(http(503)).message == "The provider answered 503 for small: it broke"


def test_an_error_without_text_is_named() -> None:
    assert classify(ValueError()).message == "ValueError"
    assert classify(KeyError("x")).message == "KeyError: 'x'"
