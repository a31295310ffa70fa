"""Which calls fit into the budgets that watch them: facts in, decision out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BIGGEST = 2**63 - 1
"""The highest amount that the database can count, in nano-dollars."""


@dataclass(frozen=True, slots=True)
class PeriodState:
    """A budget period under lock. Amounts in nano-dollars; ``is_hard`` periods refuse, soft ones only count."""

    id: int
    is_hard: bool
    limit: int
    spent: int
    reserved: int
    overage: int

    @property
    def owed(self) -> int:
        """What no release can give back."""
        return self.spent + self.overage


@dataclass(frozen=True, slots=True)
class Ask:
    """An amount, and the periods that it must fit into all at once."""

    amount: int
    period_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The period that stands in the way, and whether the ask would fit there were nothing else reserved."""

    period_id: int
    left: int
    may_fit_later: bool


def fit(asks: Sequence[Ask], periods: Mapping[int, PeriodState]) -> list[Refusal | None]:
    """Grants (None) or refuses each ask, in the order given: every period it names must have room, or none is touched.

    An ask that is refused takes nothing, so a smaller one behind it can still fit. A refusal names the period that
    blocks for good before one that blocks only while other calls are in flight.
    """
    taken: dict[int, int] = {}
    answers: list[Refusal | None] = []
    for ask in asks:
        refusal: Refusal | None = None
        for period_id in ask.period_ids:
            period = periods[period_id]
            top = period.limit if period.is_hard else BIGGEST
            left = top - period.owed - period.reserved - taken.get(period_id, 0)
            if ask.amount > left:
                may_fit_later = period.owed + ask.amount <= top
                if refusal is None or (refusal.may_fit_later and not may_fit_later):
                    refusal = Refusal(period_id, max(left, 0), may_fit_later)
        if refusal is None:
            for period_id in ask.period_ids:
                taken[period_id] = taken.get(period_id, 0) + ask.amount
        answers.append(refusal)
    return answers
