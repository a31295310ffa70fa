"""What is kept of a region's calls: the latencies of the last hundred, and a histogram of each minute."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

WINDOW = 100
"""Calls that a region's p99 is taken from."""
KEPT_S = 300.0
"""Older samples say nothing about now: a region that gets no calls is soon one with too few samples."""
BOUNDS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 120)
"""Upper bounds of the histogram's buckets, in seconds; one more bucket is for what is slower."""


def quantile(sorted_values: Sequence[float], q: float) -> float | None:
    """The smallest value that at least ``q`` of the values do not exceed; None of no values."""
    if not sorted_values:
        return None
    return sorted_values[max(math.ceil(q * len(sorted_values)) - 1, 0)]


def bucket(seconds: float) -> int:
    return bisect_left(BOUNDS_S, seconds)


def quantile_of_histogram(counts: Sequence[int], q: float) -> float | None:
    """The quantile of a histogram in seconds, taken evenly within its bucket; None of no calls.

    What is slower than the last bound counts as that bound.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, before = q * total, 0
    for number, count in enumerate(counts):
        if count and before + count >= wanted:
            low = BOUNDS_S[number - 1] if number else 0.0
            high = BOUNDS_S[number] if number < len(BOUNDS_S) else low
            return float(low + (high - low) * (wanted - before) / count)
        before += count
    return float(BOUNDS_S[-1])
