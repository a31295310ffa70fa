"""The contents of a statement as pages show them: words for codes, USD, lines under their cost centre."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from apps.costs.exports.sums import unit_of
from apps.costs.models import Kind, StatementLine
from apps.costs.statement_contents import Contents, Part
from portal.money import usd_label, usd_text

Write = Callable[[int], str]
"""How an amount is written: for people, or with as many decimals as it takes."""


def exactly(contents: Contents, lines: Sequence[StatementLine]) -> Write:
    """Writes amounts with the decimals that the most exact of them needs, so that they stand under each other."""
    amounts = [line.amount for line in lines] + [part.amount for part in (*contents.by_centre, *contents.by_kind)]
    decimals = max((len(usd_text(nano).partition(".")[2]) for nano in amounts), default=2)
    return lambda nano: f"{Decimal(nano).scaleb(-9):,.{decimals}f}"


def sums(contents: Contents, write: Write = usd_label) -> dict[str, Any]:
    """The totals, by kind and by cost centre."""
    return {
        "total": usd_label(contents.total.amount),
        "total_exact": usd_text(contents.total.amount),
        "entries": contents.total.entries,
        "lines": contents.total.lines,
        "kinds": [
            _part(contents.total, "Total", write),
            *(_part(each, _kind_name(each.key), write) for each in contents.by_kind),
        ],
        "centres": [_part(each, _centre_name(contents, each.key), write) for each in contents.by_centre],
        "has_centres": any(each.key for each in contents.by_centre),
    }


def _part(part: Part, name: str, write: Write) -> dict[str, Any]:
    return {
        "name": name,
        "amount": write(part.amount),
        "exact": usd_text(part.amount),
        "entries": f"{part.entries:,}",
        "input_tokens": f"{part.input_tokens:,}",
        "output_tokens": f"{part.output_tokens:,}",
    }


def _kind_name(kind: str) -> str:
    return str(Kind(kind).label).capitalize()


def _centre_name(contents: Contents, code: str) -> str:
    """Code and name of a cost centre, as they were when the month was closed."""
    return f"{code} {contents.extract.terms.names.get(code, '')}".strip() or "No cost centre"


def _line(line: StatementLine, write: Write) -> dict[str, Any]:
    quantity = line.quantity
    return {
        "kind": _kind_name(line.kind),
        "model": line.model,
        "agent": line.agent,
        "entries": f"{line.entries:,}",
        "tokens": f"{line.input_tokens:,} / {line.output_tokens:,}" if line.input_tokens or line.output_tokens else "",
        "quantity": "" if quantity is None else f"{quantity.normalize():f} {unit_of(line.kind, quantity)}",
        "amount": write(line.amount),
        "exact": usd_text(line.amount),
    }


def grouped(contents: Contents, lines: Sequence[StatementLine], write: Write = usd_label) -> list[dict[str, Any]]:
    """Lines under their cost centre, whose sum is always that of all its lines."""
    sums = {part.key: part for part in contents.by_centre}
    groups: list[dict[str, Any]] = []
    for line in lines:
        if not groups or groups[-1]["code"] != line.cost_centre:
            part = sums[line.cost_centre]
            name = _centre_name(contents, line.cost_centre)
            groups.append({"code": line.cost_centre, "of": part.lines, "lines": [], **_part(part, name, write)})
        groups[-1]["lines"].append(_line(line, write))
    return groups
