"""When a failed task runs again: facts in, decision out. The runner only obeys."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_DELAYS_S = (5.0, 15.0, 30.0)


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
