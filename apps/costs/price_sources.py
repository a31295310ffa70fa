"""Prices with where they come from, so that a person can check what a call is charged."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Q

from apps.costs.models import Price
from apps.costs.prices import ModelPrice, published_model, published_price


@dataclass(frozen=True, slots=True)
class Priced:
    """A model's price at a time for a tenant. ``price`` None: calls are refused; ``why_not`` says why, for a person.

    ``override`` is the row that sets the price (None: it is the published one), ``coming`` the next row that will.
    """

    model: str
    price: ModelPrice | None
    override: Price | None = None
    coming: Price | None = None
    why_not: str = ""


def priced(models: Iterable[str], *, tenant_id: uuid.UUID, at: dt.datetime) -> list[Priced]:
    """The price of each model, in the order of their names. Two queries."""
    split = {model: model.partition(":")[::2] for model in sorted(set(models))}
    if not split:
        return []
    found = Price.objects.in_force(split.values(), tenant_id=tenant_id, at=at)
    in_force = {(row.provider, row.model): row for row in found}
    coming = _coming(split.values(), tenant_id, at)
    return [
        _priced(model, provider, name, in_force.get((provider, name)), coming, at)
        for model, (provider, name) in split.items()
    ]


def published_version() -> str:
    """Which edition of the published prices is installed."""
    return importlib.metadata.version("genai-prices")


def _coming(
    models: Iterable[tuple[str, str]], tenant_id: uuid.UUID, at: dt.datetime
) -> dict[tuple[str, str], list[Price]]:
    wanted = Q(pk__in=[])
    for provider, model in models:
        wanted |= Q(provider=provider, model=model)
    rows = Price.objects.filter(wanted, Q(tenant=None) | Q(tenant_id=tenant_id), effective_from__gt=at)
    coming: dict[tuple[str, str], list[Price]] = {}
    for row in rows.order_by("effective_from"):
        coming.setdefault((row.provider, row.model), []).append(row)
    return coming


def _priced(
    model: str,
    provider: str,
    name: str,
    override: Price | None,
    coming: dict[tuple[str, str], list[Price]],
    at: dt.datetime,
) -> Priced:
    # A price for everybody changes nothing for a tenant that has its own.
    later = [row for row in coming.get((provider, name), []) if row.tenant_id or not (override and override.tenant_id)]
    following = later[0] if later else None
    if override:
        price = ModelPrice(model, override.input_per_mtok, override.output_per_mtok)
        return Priced(model, price, override, following)
    try:
        if not provider or not name:
            return Priced(model, None, None, following, 'It is not of the form "provider:model".')
        return Priced(model, published_price(model, published_model(provider, name).get_prices(at)), None, following)
    except LookupError as why:
        told = str(why).removeprefix(", which ")
        return Priced(model, None, None, following, f"It {told}." if told else "Neither set here nor published.")
