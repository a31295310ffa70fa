"""What the report page shows: the days, the trend, and who or what the money went to. Facts in, plain values out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from apps.costs import reports
from apps.costs.daily import Day, daily, sum_of
from apps.costs.grouping import By
from apps.costs.models import Kind
from apps.costs.reports import Group, Grouped
from apps.costs.spend_forms import Chosen, SpendForm, choice_field
from portal.money import NANO, usd_label, usd_text

TOP = 8
MOST_DAYS = 3 * 366
MOST_GROUPS = 100
"""Lines of the table that people group by; the download has all of them."""

NOUNS = {
    By.TENANT: "Tenants",
    By.USER: "End users",
    By.SWARM: "Swarms",
    By.AGENT: "Agents",
    By.MODEL: "Models",
    By.KIND: "Kinds",
}
_PARAMETER = {By.TENANT: "tenant", By.USER: "user", By.SWARM: "swarm", By.AGENT: "agent", By.MODEL: "model"}
_NOBODY = {
    By.TENANT: "No tenant",
    By.USER: "For no end user",
    By.SWARM: "Outside of swarms",
    By.AGENT: "No agent",
    By.MODEL: "No model",
    By.KIND: "No kind",
}
# In the order of the stack, in colours that differ in light and in dark, also for who does not tell red from green.
KINDS = (
    ("llm", str(Kind.LLM.label), "#0284c7"),
    ("infrastructure", "Infrastructure", "#d97706"),
    ("storage", "Storage", "#7c3aed"),
    ("adjustment", "Adjustments", "#6b7280"),
)


class ReportForm(SpendForm):
    """Whose costs, of which days, and what the long table groups them by."""

    defaults: ClassVar[dict[str, str]] = {**SpendForm.defaults, "by": By.MODEL}

    def _make_fields(self) -> None:
        super()._make_fields()
        nouns = [(str(by), noun) for by, noun in NOUNS.items() if by != By.TENANT or len(self.tenants) > 1]
        self.fields["by"] = choice_field("Group by", nouns, "something to group by")

    def clean(self) -> dict[str, Any]:
        given = super().clean()
        frame = given.get("frame")
        if frame and frame.days > MOST_DAYS:
            self.add_error("from", f"These are {frame.days:,} days. Choose at most {MOST_DAYS:,} (three years).")
        return given

    def clean_by(self) -> By:
        return By(self.cleaned_data["by"])


@dataclass(frozen=True, slots=True)
class Line:
    """A group as the page shows it. ``percent`` is its share of everything, for a bar."""

    name: str
    title: str
    url: str
    amount: str
    exact: str
    percent: float
    share: str
    entries: str
    tokens: str
    previous: str
    change: str


@dataclass(frozen=True, slots=True)
class Table:
    """The dearest groups of one sort, and what is left out of them."""

    noun: str
    lines: list[Line]
    rest: Line | None
    others: int

    @property
    def is_empty(self) -> bool:
        return not self.lines


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page shows of a time frame. Nano-dollars are words by now, but for ``total``."""

    chosen: Chosen
    total: int
    entries: int
    cards: list[dict[str, str]]
    days_chart: str
    swarms_chart: str
    days: list[dict[str, Any]]
    tables: list[Table]
    grouped: Table

    @property
    def day_rows(self) -> SafeString:
        """The table of days, made here: a template takes much longer over the 366 of a year."""
        number = '<td class="number">{}</td>'
        name = '<th scope="row"><a class="text-link" href="{}">{}</a></th><td class="number" title="{}">{}</td>'
        row = f"<tr>{name}{number * len(KINDS)}{number}{number}</tr>"
        return format_html_join(
            "\n",
            row,
            (
                (day["url"], day["name"], day["exact"], day["total"], *day["amounts"], day["entries"], day["swarms"])
                for day in self.days
            ),
        )


def report(chosen: Chosen, by: By, *, ledger_url: str) -> Report:
    """The report of one moment. A bounded number of queries, whatever was spent."""
    frame, tenants = chosen.frame, chosen.filter.tenants
    assert frame is not None
    sorts = [By.SWARM, By.MODEL, By.USER, By.AGENT]
    with reports.snapshot():
        days = daily(tenants, frame.first, frame.last)
        found = reports.groupings(tenants, frame.first, frame.last, {**dict.fromkeys(sorts, TOP), by: MOST_GROUPS})
    overall, previous = found[by].amount, found[by].previous
    return Report(
        chosen=chosen,
        total=overall,
        entries=sum(day.entries for day in days),
        cards=_cards(chosen, days, previous),
        days_chart=_stacked(days),
        swarms_chart=_line(days),
        days=[_day(day, chosen, ledger_url) for day in reversed(days)],
        tables=[_table(found[each], chosen, ledger_url, most=TOP) for each in sorts],
        grouped=_table(found[by], chosen, ledger_url, most=MOST_GROUPS),
    )


def change(amount: int, previous: int, when: str) -> str:
    """The difference in words: "$2.00 more than in the 24 days before, 25 % up". ``when`` is that of ``previous``."""
    if not previous:
        return f"nothing was spent {when}{'' if amount else ' either'}"
    difference = amount - previous
    if not difference:
        return f"the same as {when}"
    words = ("more than", "up") if difference > 0 else ("less than", "down")
    percent = abs(reports.trend(amount, previous) or 0)
    return f"{usd_label(abs(difference))} {words[0]} {when}, {percent:,.1f} % {words[1]}"


def _cards(chosen: Chosen, days: Sequence[Day], previous: int) -> list[dict[str, str]]:
    total, frame = sum_of(days), chosen.frame
    assert frame is not None
    before = frame.before
    busiest = max(days, key=lambda day: day.total)
    parts = [f"{name} {usd_label(getattr(total, kind))}" for kind, name, _ in KINDS if getattr(total, kind)]
    most_active = max(day.active_swarms for day in days)
    return [
        {
            "title": "Spent",
            "value": usd_label(total.total),
            "detail": f"{usd_text(total.total)} USD in {frame.days} day{'' if frame.days == 1 else 's'}",
        },
        {
            "title": "Trend",
            "value": _percent(total.total, previous),
            "detail": f"{change(total.total, previous, before.name)} ({before}: {usd_label(previous)})",
        },
        {"title": "By kind", "value": f"{total.entries:,} entries", "detail": ", ".join(parts) or "Nothing"},
        {
            "title": "A day",
            "value": usd_label(total.total // len(days)),
            "detail": f"on average; most on {busiest.day:%-d %b}: {usd_label(busiest.total)}. "
            f"At most {most_active:,} swarms active on one day",
        },
    ]


def _percent(amount: int, previous: int) -> str:
    percent = reports.trend(amount, previous)
    return "–" if percent is None else f"{percent:+,.1f} %"


def _table(grouped: Grouped, chosen: Chosen, ledger_url: str, *, most: int) -> Table:
    lines = [_group(group, grouped, chosen, ledger_url) for group in grouped.groups[:most]]
    rest = None
    if grouped.rest:
        rest = _group(grouped.rest, grouped, chosen, ledger_url, name=f"{grouped.others:,} others")
    return Table(NOUNS[grouped.by], lines, rest, grouped.others)


def _group(group: Group, grouped: Grouped, chosen: Chosen, ledger_url: str, *, name: str = "") -> Line:
    by, key = grouped.by, group.key
    if not name:
        # People are shown by their pseudonym: who they are is not a matter of costs.
        label = f"…{key[-8:]}" if by == By.USER and key else group.label
        name = label or key or _NOBODY[by]
    percent = group.amount / grouped.amount * 100 if grouped.amount > 0 else 0.0
    # A net kind has the corrections in it that are entries of another kind: no filter shows just these.
    url = f"{ledger_url}?{chosen.link(by='', **{_PARAMETER[by]: key})}" if key and by in _PARAMETER else ""
    return Line(
        name=name,
        title=key or name,
        url=url,
        amount=usd_label(group.amount),
        exact=f"{usd_text(group.amount)} USD",
        percent=round(min(max(percent, 0.0), 100.0), 1),
        share=f"{percent:.1f} %",
        entries=f"{group.entries:,}",
        tokens=f"{group.input_tokens:,} / {group.output_tokens:,}",
        previous=usd_label(group.previous),
        change=_percent(group.amount, group.previous),
    )


def _day(day: Day, chosen: Chosen, ledger_url: str) -> dict[str, Any]:
    link = {**chosen.query, "period": "", "by": "", "from": str(day.day), "to": str(day.day)}
    return {
        "day": day.day,
        "name": f"{day.day:%a %-d %b %Y}",
        "url": f"{ledger_url}?{urlencode({name: value for name, value in link.items() if value})}",
        "amounts": [usd_label(getattr(day, kind)) for kind, _, _ in KINDS],
        "total": usd_label(day.total),
        "exact": f"{usd_text(day.total)} USD",
        "swarms": f"{day.active_swarms:,}",
        "entries": f"{day.entries:,}",
    }


# -- pictures ----------------------------------------------------------------------------------------------------------


def _stacked(days: Sequence[Day]) -> str:
    """Bars of days by kind, for Chart.js. Its numbers are for the eye: the exact ones are in the table."""
    sets = [
        {
            "label": name,
            "data": [round(getattr(day, kind) / NANO, 6) for day in days],
            "backgroundColor": colour,
            "stack": "spent",
            "maxBarThickness": 40,
            "categoryPercentage": 0.85,
            "barPercentage": 1,
        }
        for kind, name, colour in KINDS
        if any(getattr(day, kind) for day in days)
    ]
    return json.dumps({"labels": _labels(days), "datasets": sets})


def _line(days: Sequence[Day]) -> str:
    active = {
        "label": "Active swarms",
        "data": [day.active_swarms for day in days],
        "borderColor": "#0284c7",
        "backgroundColor": "#0284c7",
        "borderWidth": 2,
        "pointRadius": 2 if len(days) <= 62 else 0,
    }
    return json.dumps({"labels": _labels(days), "datasets": [active]})


def _labels(days: Sequence[Day]) -> list[str]:
    return [f"{day.day:%-d %b}" for day in days]


def chart_options(unit: str, *, stacked: bool = False, legend: bool = True, whole: bool = False) -> str:
    """Options of Chart.js that are readable on a light and on a dark page. ``whole``: there are no halves of a unit."""
    axis: dict[str, Any] = {
        "ticks": {"color": "#8b95a5", "maxRotation": 0, "autoSkipPadding": 12, **({"precision": 0} if whole else {})},
        "border": {"display": False},
    }
    return json.dumps(
        {
            "animation": False,
            "responsive": True,
            "maintainAspectRatio": False,
            "interaction": {"mode": "index", "intersect": False},
            "plugins": {
                "legend": {
                    "display": legend,
                    "position": "bottom",
                    "labels": {"color": "#8b95a5", "boxWidth": 12, "boxHeight": 12},
                }
            },
            "scales": {
                "x": {**axis, "stacked": stacked, "grid": {"display": False}},
                "y": {
                    **axis,
                    "stacked": stacked,
                    "beginAtZero": True,
                    "grid": {"drawTicks": False},
                    "title": {"display": True, "text": unit, "color": "#8b95a5"},
                },
            },
        }
    )
