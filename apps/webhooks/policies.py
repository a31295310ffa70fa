"""When a delivery is tried again, when a webhook is given up, and how many are sent at once."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after a failed attempt: ``first_s * factor ** n``, at most ``longest_s``; ``attempts`` in all.

    As it stands: after 5 s, 20 s, 80 s, 5 min, 21 min, 85 min, 5.7 h, 8 h and 8 h, which is a day, less some minutes.
    """

    first_s: float = 5.0
    factor: float = 4.0
    longest_s: float = 8 * 3600.0
    attempts: int = 10
    jitter: float = 0.1
    most_asked_s: float = 3600.0

    def wait_s(self, attempts: int, *, roll: float, asked_s: float = 0.0) -> float | None:
        """Seconds to wait after that many attempts (1: the first); None when it was the last.

        ``roll`` in 0..1 spreads those that failed together, by up to a tenth. ``asked_s`` is what the receiver asked
        for (``Retry-After``): it makes the wait longer, up to an hour, never shorter.
        """
        if attempts >= self.attempts:
            return None
        wait = min(self.first_s * self.factor ** (attempts - 1), self.longest_s)
        return max(wait * (1 + self.jitter * roll), min(asked_s, self.most_asked_s))


@dataclass(frozen=True, slots=True)
class Endurance:
    """How long a webhook may fail before it is disabled: both so many attempts and so long, without one success."""

    attempts: int = 20
    lasting: dt.timedelta = dt.timedelta(days=5)

    def is_over(self, failures: int, since: dt.datetime | None, *, now: dt.datetime) -> bool:
        """Whether ``failures`` attempts in a row, the first of them at ``since``, are enough."""
        return since is not None and failures >= self.attempts and now - since >= self.lasting


@dataclass(frozen=True, slots=True)
class Lanes:
    """How many attempts may be in flight: in all, of one webhook, and of those whose last attempt failed.

    A webhook that fails gets one at a time, and all that fail together at most half: slow and dead receivers take no
    place that others need.
    """

    most: int = 100
    each: int = 8
    failing: int = 50


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt. Without a status code there was no answer, and ``error`` says why."""

    status_code: int | None
    seconds: float
    text: str = ""
    error: str = ""
    retry_after_s: float = 0.0

    @property
    def is_good(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants nothing any more."""
        return self.status_code == 410


BACKOFF = Backoff()
ENDURANCE = Endurance()
LANES = Lanes()
