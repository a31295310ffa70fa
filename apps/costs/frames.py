"""Time frames that people choose: whole days of the tenant's own calendar, both ends included."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from dataclasses import dataclass

from django.db import models


class Named(models.TextChoices):
    """Frames that have a name; the first is what people get who choose none."""

    THIS_MONTH = "this_month", "This month"
    LAST_MONTH = "last_month", "Last month"
    LAST_30_DAYS = "last_30_days", "Last 30 days"
    THIS_YEAR = "this_year", "This year"
    CUSTOM = "custom", "From a day to a day"


@dataclass(frozen=True, slots=True)
class Frame:
    """Days from ``first`` to ``last``. ``name`` says when that was, for the middle of a sentence: "last month"."""

    first: dt.date
    last: dt.date
    name: str

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    @property
    def before(self) -> Frame:
        """As many days, just before these."""
        length = dt.timedelta(days=self.days)
        name = f"in the {self.days} days before" if self.days > 1 else "on the day before"
        return Frame(self.first - length, self.last - length, name)

    def between(self, zone: zoneinfo.ZoneInfo) -> tuple[dt.datetime, dt.datetime]:
        """Its first moment and the first one after it, in UTC, by that zone's clocks."""
        # In UTC, because two moments of one zone compare by their clock faces.
        first, after = (
            dt.datetime.combine(day, dt.time(), zone).astimezone(dt.UTC)
            for day in (self.first, self.last + dt.timedelta(days=1))
        )
        return first, after

    def __str__(self) -> str:
        if self.days == 1:
            return f"{self.first:%-d %B %Y}"
        first = f"{self.first:%-d %b}" if self.first.year == self.last.year else f"{self.first:%-d %b %Y}"
        return f"{first} to {self.last:%-d %b %Y}"


def named(name: str, *, today: dt.date) -> Frame:
    """The days of a frame that has a name. None of them is after ``today``. Raises ValueError for any other name."""
    label = str(Named(name).label).lower()
    match Named(name):
        case Named.THIS_MONTH:
            return Frame(today.replace(day=1), today, label)
        case Named.LAST_MONTH:
            last = today.replace(day=1) - dt.timedelta(days=1)
            return Frame(last.replace(day=1), last, label)
        case Named.LAST_30_DAYS:
            return Frame(today - dt.timedelta(days=29), today, f"in the {label}")
        case Named.THIS_YEAR:
            return Frame(today.replace(month=1, day=1), today, label)
        case _:
            raise ValueError(f"{name} has no days of its own.")


def same_days_last_month(frame: Frame) -> Frame:
    """What a frame within one month was a month earlier: up to the same day, or the end of a shorter month."""
    end = frame.first.replace(day=1) - dt.timedelta(days=1)
    first, last = (end.replace(day=min(day.day, end.day)) for day in (frame.first, frame.last))
    return Frame(first, last, f"last month up to day {last.day}")
