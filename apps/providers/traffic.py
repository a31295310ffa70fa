"""What one process saw of its calls, added to what all of them know."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from django.db import connection, transaction

from apps.providers.latency import BOUNDS_S, WINDOW, bucket
from apps.providers.models import RegionMinute

MINUTES_KEPT = dt.timedelta(hours=2)


@dataclass(slots=True)
class Tally:
    """A region's calls since the last flush: latencies in seconds, ends in seconds since 1970."""

    calls: int = 0
    errors: int = 0
    limited: int = 0
    latencies: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    histogram: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def answered(self, seconds: float, at: float) -> None:
        self.calls += 1
        self.latencies.append(seconds)
        self.ended.append(at)
        self.histogram[bucket(seconds)] += 1

    def silent(self, seconds: float, at: float) -> None:
        """Waited for in vain: it counts as an error, and as a call that took at least that long."""
        self.calls += 1
        self.errors += 1
        self.latencies.append(seconds)
        self.ended.append(at)


def add(tallies: Mapping[uuid.UUID, Tally], *, now: dt.datetime) -> None:
    """Adds to the regions' windows and to the current minute, in one transaction; leaves out regions that are gone."""
    ids = sorted(tallies)
    minute = now.replace(second=0, microsecond=0)
    with transaction.atomic(), connection.cursor() as cursor:
        # In the order of ids, so that two processes never wait for each other.
        cursor.execute("SELECT id FROM providers_region WHERE id = ANY(%s) ORDER BY id FOR KEY SHARE", [ids])
        ids = [id for (id,) in cursor]
        for id in ids:
            tally = tallies[id]
            if tally.latencies:
                cursor.execute(
                    f"""
                    INSERT INTO providers_regionwindow AS w (region_id, latencies, ended) VALUES (%s, %s, %s)
                    ON CONFLICT (region_id) DO UPDATE SET
                        latencies = (w.latencies || excluded.latencies)
                            [greatest(cardinality(w.latencies) + cardinality(excluded.latencies) - {WINDOW - 1}, 1):],
                        ended = (w.ended || excluded.ended)
                            [greatest(cardinality(w.ended) + cardinality(excluded.ended) - {WINDOW - 1}, 1):]
                    """,
                    [id, tally.latencies[-WINDOW:], tally.ended[-WINDOW:]],
                )
            cursor.execute(
                """
                INSERT INTO providers_regionminute AS m (region_id, minute, calls, errors, limited, latencies)
                VALUES (%s, %s, %s, %s, %s, %s)
                ON CONFLICT (region_id, minute) DO UPDATE SET calls = m.calls + excluded.calls,
                    errors = m.errors + excluded.errors, limited = m.limited + excluded.limited,
                    latencies = ARRAY(SELECT a + b FROM unnest(m.latencies, excluded.latencies)
                                      WITH ORDINALITY AS u (a, b, n) ORDER BY n)
                """,
                [id, minute, tally.calls, tally.errors, tally.limited, tally.histogram],
            )


def prune(*, now: dt.datetime) -> int:
    """Removes minutes that no page shows any more; how many."""
    return RegionMinute.objects.filter(minute__lt=now - MINUTES_KEPT).delete()[0]
