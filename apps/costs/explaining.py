"""A ledger entry in words: how many of what, at which price, and how that makes its amount."""

from __future__ import annotations

from decimal import Decimal

from apps.costs.models import Kind, LedgerEntry
from apps.costs.prices import MTOK
from portal.money import to_usd, usd_text

_UNITS = {Kind.INFRASTRUCTURE: "agent-hour", Kind.STORAGE: "GB-month"}


def explain(entry: LedgerEntry) -> list[str]:
    """Sentences for a person; none where the amount was given as such and nothing was counted."""
    if entry.saved is not None:
        return [_of_cache(entry)]
    if entry.quantity is not None:
        return [_of_quantity(entry)]
    lines = [line for _, line in _of_tokens(entry)]
    exact = [product for product, _ in _of_tokens(entry) if product is not None]
    if entry.unsettled:
        lines.append("What the call cost is not known: it was charged as high as it was reserved.")
    elif exact and len(exact) == len(lines) and sum(exact) <= entry.amount < sum(exact) + 1:
        nano = sum(exact, Decimal())
        rounded = "" if nano == entry.amount else ", rounded up to a whole nano-dollar"
        lines.append(f"Together {_usd(nano)}{rounded}.")
    return lines


def _of_cache(entry: LedgerEntry) -> str:
    saved = f"at today's prices the call would have cost {_usd(Decimal(entry.saved))}" if entry.saved else ""
    return "No model was called and nothing is owed" + (f"; {saved}." if saved else ".")


def _of_quantity(entry: LedgerEntry) -> str:
    assert entry.quantity is not None
    quantity, unit = entry.quantity.normalize(), _UNITS.get(Kind(entry.kind), "unit")
    many = f"{quantity:,f} {unit}{'' if quantity == 1 else 's'}"
    return f"{many} at ${usd_text(entry.unit_price)} each." if entry.unit_price is not None else f"{many}."


def _of_tokens(entry: LedgerEntry) -> list[tuple[Decimal | None, str]]:
    """What each sort of token cost, in nano-dollars where its price is known, and the sentence that says so."""
    cached = entry.cache_read_tokens + entry.cache_write_tokens
    sorts = (
        (entry.input_tokens - cached, entry.input_per_mtok, "input", ""),
        (entry.cache_read_tokens, entry.cache_read_per_mtok, "input", " read from the provider's cache"),
        (entry.cache_write_tokens, entry.cache_write_per_mtok, "input", " written to the provider's cache"),
        (entry.output_tokens, entry.output_per_mtok, "output", ""),
    )
    found: list[tuple[Decimal | None, str]] = []
    for tokens, per_mtok, sort, what in sorts:
        if not tokens:
            continue
        line = f"{tokens:,} {sort} token{'' if tokens == 1 else 's'}{what}"
        if per_mtok is None:
            found.append((None, f"{line}."))
        else:
            product = Decimal(tokens * per_mtok) / MTOK
            found.append((product, f"{line} at ${usd_text(per_mtok)} per million: {_usd(product)}."))
    return found


def _usd(nano: Decimal) -> str:
    """An amount with all of its digits, below a nano-dollar too."""
    if nano == nano.to_integral_value():
        return f"${to_usd(int(nano)):f}"
    return f"${nano.scaleb(-9).normalize():f}"
