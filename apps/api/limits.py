"""Rate limits: how many requests a caller makes in a minute.

With a shared cache (``CACHE_URL``) every web process counts there. Without one, a process counts for itself, out of an
allotment that it takes from the database: a twentieth of the limit at a time, so that a caller costs at most about
twenty small writes a minute however many requests it makes, and one that makes few costs none at all.
"""

from __future__ import annotations

import ipaddress
import threading
from dataclasses import dataclass

import structlog
from django.conf import settings
from django.core.cache import cache

from apps.api.models import RateAllotment

log = structlog.get_logger(__name__)

WINDOW_S = 60
FREE = 60
"""A sixtieth of the limit is counted by each process alone, before it asks the database."""
SHARES = 20
MOST_CALLERS = 50_000
"""How many callers a process remembers."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands after a request: ``allowed`` or one too many; ``reset_s`` until the minute is over."""

    policy: str
    limit: int
    remaining: int
    reset_s: int
    allowed: bool

    @property
    def headers(self) -> dict[str, str]:
        """The fields of the IETF draft on RateLimit header fields, and those of its earlier versions."""
        return {
            "RateLimit-Policy": f'"{self.policy}";q={self.limit};w={WINDOW_S}',
            "RateLimit": f'"{self.policy}";r={self.remaining};t={self.reset_s}',
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }


def take(policy: str, who: str, *, now: float) -> Standing | None:
    """Counts one request of a caller at ``now`` (seconds since the epoch); None when the policy has no limit."""
    limit: int = settings.RATE_LIMITS[policy]
    if not limit:
        return None
    window = int(now // WINDOW_S)
    used = _in_cache(policy, who, window) if settings.CACHE_URL else None
    if used is None:
        allowed, remaining = _counter.take(policy, who, window, limit)
    else:
        allowed, remaining = used <= limit, max(limit - used, 0)
    return Standing(policy, limit, remaining, max(int((window + 1) * WINDOW_S - now), 1), allowed)


def address_of(text: str | None) -> str:
    """Whom an address stands for: itself, or of IPv6 the network of 64 bits that one customer has."""
    try:
        address = ipaddress.ip_address(text or "")
    except ValueError:
        return "unknown"
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _in_cache(policy: str, who: str, window: int) -> int | None:
    """The requests of this minute, this one included; None when the cache cannot be reached."""
    key = f"rate:{policy}:{who}:{window}"
    try:
        try:
            return int(cache.incr(key))
        except ValueError:  # the first of the minute
            cache.add(key, 0, 2 * WINDOW_S)
            return int(cache.incr(key))
    except Exception as error:  # whatever is wrong with the cache, the database counts
        log.warning("cache_down", error=str(error))
        return None


@dataclass(slots=True)
class _Local:
    """What this process knows of a caller in the current minute."""

    held: int
    owed: int
    """Of what it holds, what the database has not been told of."""
    used: int = 0
    taken: int = 0
    """By all processes, when the database was last asked."""
    exhausted: bool = False


class Counter:
    """Counts in this process, out of allotments from the database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window = self._swept = 0
        self._callers: dict[tuple[str, str], _Local] = {}

    def take(self, policy: str, who: str, window: int, limit: int) -> tuple[bool, int]:
        """Whether one more request is within the limit, and how many more are, as far as this process knows."""
        free, share = max(limit // FREE, 1), max(limit // SHARES, 1)
        with self._lock:
            self._turn(window)
            mine = self._callers.setdefault((policy, who), _Local(free, free))
            if mine.used < mine.held:
                mine.used += 1
                return True, _remaining(mine, limit)
            if mine.exhausted:
                return False, 0
            asked, mine.owed = mine.owed + share, 0
            sweeps, self._swept = window > self._swept, max(window, self._swept)
        if sweeps:
            RateAllotment.objects.sweep(window=window)
        taken = RateAllotment.objects.take(policy, who, window=window, count=asked)
        granted = min(max(limit - (taken - asked), 0), asked)
        with self._lock:
            mine.taken = max(mine.taken, taken)
            mine.held += granted - (asked - share)
            if mine.used < mine.held:
                mine.used += 1
                return True, _remaining(mine, limit)
            mine.exhausted = True
            return False, 0

    def _turn(self, window: int) -> None:
        """Begins a new minute, if it is one: whatever was held is forfeit."""
        if window > self._window or len(self._callers) >= MOST_CALLERS:
            self._window = max(window, self._window)
            self._callers.clear()


def _remaining(mine: _Local, limit: int) -> int:
    return max(limit - max(mine.taken, mine.owed) + mine.held - mine.used, 0)


_counter = Counter()
