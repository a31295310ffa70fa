"""What a past period would have cost under other choices: other models, or a cap that refuses what does not fit.

With nothing changed, the outcome is the ledger, to the nano-dollar: rows that no choice concerns keep their amount.
Calls of a replaced model cost what the other model's price was at the time of the call, for the tokens that were used,
those of the prompt cache included; whether the other model would have used as many tokens, nobody can know.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db.models import Q, Sum
from django.db.models.functions import TruncDate

from apps.costs.models import Kind, LedgerEntry, Period
from apps.costs.models.ledger import LedgerEntryQuerySet
from apps.costs.price_book import PriceBook
from apps.costs.prices import UnknownModel
from apps.tenants.models import Tenant
from portal.money import usd_text

LONGEST = dt.timedelta(days=366)
NO_TOKENS = "No token counts: the amount was given as such, or charged as reserved."
NO_PRICE = "The other model had no price yet when the call was made."
CHUNK = 10_000


class BadScenario(ValueError):
    """A scenario that makes no sense. ``field`` is what is wrong: period, replacements or cap."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True)
class Replacement:
    """Calls of the model ``old`` are made to ``new`` ("provider:model"); of one agent, or of all where it is empty."""

    old: str
    new: str
    agent: str = ""


@dataclass(frozen=True, slots=True)
class Cap:
    """A hard budget of the whole tenant: ``limit`` nano-dollars a day or a month (``per``) in its time zone."""

    limit: int
    per: str = Period.MONTHLY


@dataclass(frozen=True, slots=True)
class Scenario:
    """The days from ``first`` to ``last``, both included, in the tenant's time zone, under other choices."""

    tenant: Tenant
    first: dt.date
    last: dt.date
    replacements: tuple[Replacement, ...] = ()
    cap: Cap | None = None

    def between(self) -> tuple[dt.datetime, dt.datetime]:
        """Its first moment and the first one after it, in UTC."""
        start, end = (
            dt.datetime.combine(day, dt.time(), self.tenant.zone).astimezone(dt.UTC)
            for day in (self.first, self.last + dt.timedelta(days=1))
        )
        return start, end

    def verify(self) -> None:
        """Raises BadScenario for what makes no sense, and for a model without a price at the end of the period."""
        if self.last < self.first:
            raise BadScenario("period", "It ends before it begins.")
        if self.last - self.first >= LONGEST:
            raise BadScenario("period", f"At most {LONGEST.days} days.")
        if self.cap is not None and self.cap.per not in (Period.DAILY, Period.MONTHLY):
            raise BadScenario("cap", "A cap is per day or per month.")
        seen = set()
        for each in self.replacements:
            if (each.old, each.agent) in seen:
                whose = f" of {each.agent}" if each.agent else ""
                raise BadScenario("replacements", f"{each.old}{whose} is replaced twice: leave one of the two out.")
            seen.add((each.old, each.agent))
        end = self.between()[1]
        book = PriceBook((self.tenant.pk, each.new) for each in self.replacements)
        for each in self.replacements:
            try:
                book.price_of(each.new, tenant_id=self.tenant.pk, at=end - dt.timedelta(microseconds=1))
            except UnknownModel as unknown:
                raise BadScenario("replacements", str(unknown)) from unknown


class Cell(NamedTuple):
    """A sum of ledger rows that are alike: of a local day, an agent, a kind, a model and what it is priced as.

    ``model`` and ``priced_as`` are empty for rows that are no model calls. Money in nano-dollars.
    """

    day: dt.date
    agent: str
    kind: str
    model: str
    priced_as: str
    entries: int
    actual: int
    hypothetical: int
    refused: int


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table: what something cost, and would have cost, in nano-dollars."""

    name: str
    actual: int
    hypothetical: int

    @property
    def difference(self) -> int:
        return self.hypothetical - self.actual

    @property
    def percent(self) -> float | None:
        """The difference in percent of what was owed; None where nothing was."""
        return 100 * self.difference / self.actual if self.actual else None


@dataclass(slots=True)
class Refusals:
    """What a cap would have refused in one of its periods (``key``: "2026-10-03" or "2026-10"), and from when."""

    key: str
    first_at: dt.datetime
    calls: int = 0
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a period cost and would have cost.

    ``not_repriced`` says by reason how many calls of replaced models keep their amount, and that amount.
    """

    cells: list[Cell]
    repriced: int
    not_repriced: dict[str, tuple[int, int]]
    refusals: list[Refusals] = field(default_factory=list)

    @property
    def total(self) -> Line:
        return Line("Total", sum(c.actual for c in self.cells), sum(c.hypothetical for c in self.cells))

    @property
    def refused_calls(self) -> int:
        return sum(each.calls for each in self.refusals)

    @property
    def refused_amount(self) -> int:
        """What the refused calls would have cost, in nano-dollars."""
        return sum(each.amount for each in self.refusals)

    def by_model(self) -> list[Line]:
        """Dearest first. A model's own calls are under ``actual``, those priced as it under ``hypothetical``."""
        return _lines(self.cells, lambda c: c.model or _label(c.kind), lambda c: c.priced_as or _label(c.kind))

    def by_agent(self) -> list[Line]:
        """Dearest first; what no agent did has an empty name."""
        return _lines(self.cells, lambda c: c.agent, lambda c: c.agent)

    def by_day(self) -> list[Line]:
        """In the order of days ("2026-10-03"), with those on which anything was owed."""
        lines = _lines(self.cells, lambda c: c.day.isoformat(), lambda c: c.day.isoformat())
        return sorted(lines, key=lambda line: line.name)


CSV_COLUMNS = (
    "day", "agent", "kind", "model", "priced_as", "entries", "refused", "actual_usd", "hypothetical_usd",
    "difference_usd",
)  # fmt: skip


def csv_rows(outcome: Outcome) -> Iterator[Sequence[str]]:
    """The cells as rows of text under CSV_COLUMNS; amounts are exact decimals.

    Names that a spreadsheet would take for formulas are made text.
    """
    for cell in outcome.cells:
        amounts = (cell.actual, cell.hypothetical, cell.hypothetical - cell.actual)
        counts = (str(cell.entries), str(cell.refused))
        names = (f"'{name}" if name[:1] in _FORMULAS else name for name in cell[1:5])
        yield (cell.day.isoformat(), *names, *counts, *map(usd_text, amounts))


_FORMULAS = frozenset("=+@-\t\r")


class _Row(NamedTuple):
    """What is read of a ledger entry."""

    id: int
    at: dt.datetime
    day: dt.date
    kind: str
    model: str
    agent: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    amount: int
    reservation_id: uuid.UUID | None
    corrects: int | None

    @property
    def is_call(self) -> bool:
        """Whether it is a model call, or what corrects one."""
        return self.kind == Kind.LLM or (self.kind == Kind.ADJUSTMENT and self.reservation_id is not None)


def simulate(scenario: Scenario) -> Outcome:
    """Goes once through the ledger of the period, in the order in which calls were charged. Raises BadScenario."""
    scenario.verify()
    start, end = scenario.between()
    pricing = _Pricing(scenario, start, end)
    capping = _Capping(scenario, start)
    sums: dict[tuple[dt.date, str, str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for row in _rows(scenario, start, end):
        is_call = row.is_call
        priced_as, hypothetical = pricing.price(row) if is_call else ("", row.amount)
        cell = sums[row.day, row.agent, row.kind, row.model if is_call else "", priced_as]
        if scenario.cap and capping.refuses(row, hypothetical):
            cell[3] += 1
            hypothetical = 0
        cell[0] += 1
        cell[1] += row.amount
        cell[2] += hypothetical
    cells = [Cell(*key, *counts) for key, counts in sorted(sums.items())]
    return Outcome(cells, pricing.repriced, pricing.not_repriced(), list(capping.refusals.values()))


def _of_period(scenario: Scenario, start: dt.datetime, end: dt.datetime) -> LedgerEntryQuerySet:
    return LedgerEntry.objects.filter(tenant_id=scenario.tenant.pk, at__gte=start, at__lt=end)


def _rows(scenario: Scenario, start: dt.datetime, end: dt.datetime) -> Iterator[_Row]:
    """The ledger of a period, through a cursor of the server."""
    entries = _of_period(scenario, start, end).annotate(day=TruncDate("at", tzinfo=scenario.tenant.zone))
    rows = entries.order_by("at", "id").values_list(*_Row._fields)
    return map(_Row._make, rows.iterator(chunk_size=CHUNK))


class _Pricing:
    """Which rows are priced anew, at what, and which could not be."""

    def __init__(self, scenario: Scenario, start: dt.datetime, end: dt.datetime) -> None:
        self._new = {(each.old, each.agent): each.new for each in scenario.replacements}
        self._old = {each.old for each in scenario.replacements}
        self._tenant_id = scenario.tenant.pk
        self._book = PriceBook((self._tenant_id, each.new) for each in scenario.replacements)
        # Calls charged as reserved, of which the period holds the correction with what they used: what was charged.
        self._charged: dict[uuid.UUID | None, int] = {}
        if self._old:
            late = _of_period(scenario, start, end).filter(
                Q(input_tokens__gt=0) | Q(output_tokens__gt=0), kind=Kind.ADJUSTMENT, reservation_id__isnull=False
            )
            charges = LedgerEntry.objects.filter(kind=Kind.LLM, reservation_id__in=late.values("reservation_id"))
            self._charged = dict(charges.values_list("reservation_id", "amount"))
        self._kept: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.repriced = 0

    def price(self, row: _Row) -> tuple[str, int]:
        """The model that a call is priced as now, and the row's amount then."""
        kept = row.model, row.amount
        if row.model not in self._old:
            return kept
        new = self._new.get((row.model, row.agent)) or self._new.get((row.model, ""))
        if new is None or new == row.model:
            return kept  # what it cost as itself is what the ledger says
        if not row.input_tokens and not row.output_tokens:
            if row.reservation_id in self._charged:
                return new, row.amount  # its correction, which knows the tokens, makes up for it
            if row.kind == Kind.LLM:
                self._keep(row, NO_TOKENS)
            return kept
        try:
            price = self._book.price_of(new, tenant_id=self._tenant_id, at=row.at)
        except UnknownModel:
            self._keep(row, NO_PRICE)
            return kept
        self.repriced += 1
        cost = price.cost(
            row.input_tokens,
            row.output_tokens,
            cache_read_tokens=row.cache_read_tokens,
            cache_write_tokens=row.cache_write_tokens,
        )
        # A correction and the charge it corrects come to the cost, together.
        return new, cost if row.kind == Kind.LLM else cost - self._charged.get(row.reservation_id, 0)

    def _keep(self, row: _Row, reason: str) -> None:
        self._kept[reason][0] += 1
        self._kept[reason][1] += row.amount

    def not_repriced(self) -> dict[str, tuple[int, int]]:
        return {reason: (calls, amount) for reason, (calls, amount) in self._kept.items()}


class _Capping:
    """Which calls a cap would have refused: those that did not fit into what was left. Smaller ones after them may."""

    def __init__(self, scenario: Scenario, start: dt.datetime) -> None:
        self._cap = scenario.cap
        self._spent: dict[str, int] = defaultdict(int)
        self._keys: dict[dt.date, str] = {}
        self._refused: set[uuid.UUID | int] = set()
        self.refusals: dict[str, Refusals] = {}
        if self._cap and self._cap.per == Period.MONTHLY and scenario.first.day > 1:
            # What the month's days before the period cost counts, as it was.
            month = dt.datetime.combine(scenario.first.replace(day=1), dt.time(), scenario.tenant.zone)
            calls = LedgerEntry.objects.filter(
                Q(kind=Kind.LLM) | Q(kind=Kind.ADJUSTMENT, reservation_id__isnull=False),
                tenant_id=scenario.tenant.pk,
                at__gte=month,
                at__lt=start,
            )
            self._spent[f"{scenario.first:%Y-%m}"] = calls.aggregate(total=Sum("amount"))["total"] or 0

    def refuses(self, row: _Row, amount: int) -> bool:
        """Whether a row would not be there; counts what is. A correction goes with what it corrects."""
        assert self._cap
        if row.corrects in self._refused or (row.kind == Kind.ADJUSTMENT and row.reservation_id in self._refused):
            return True
        if not row.is_call:
            return False
        key = self._keys.get(row.day) or self._keys.setdefault(
            row.day, row.day.isoformat() if self._cap.per == Period.DAILY else f"{row.day:%Y-%m}"
        )
        if row.kind == Kind.LLM and self._spent[key] + amount > self._cap.limit:
            self._refused.add(row.id)
            if row.reservation_id:
                self._refused.add(row.reservation_id)
            refusals = self.refusals.setdefault(key, Refusals(key, row.at))
            refusals.calls += 1
            refusals.amount += amount
            return True
        self._spent[key] += amount
        return False


def _label(kind: str) -> str:
    return {Kind.ADJUSTMENT: "Corrections by hand"}.get(Kind(kind), Kind(kind).label)


def _lines(cells: Sequence[Cell], before: Callable[[Cell], str], after: Callable[[Cell], str]) -> list[Line]:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for cell in cells:
        sums[before(cell)][0] += cell.actual
        sums[after(cell)][1] += cell.hypothetical
    lines = [Line(name, *amounts) for name, amounts in sums.items()]
    return sorted(lines, key=lambda line: (-max(line.actual, line.hypothetical), line.name))
