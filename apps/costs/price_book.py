"""Prices for many costs of many times: read once, asked for each."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.db.models import Q

from apps.costs.models import Price
from apps.costs.prices import ModelPrice, UnknownModel, published_model, published_price

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo


class PriceBook:
    """What some models cost some tenants, at any time. One query, when it is made."""

    def __init__(self, wanted: Iterable[tuple[uuid.UUID, str]]) -> None:
        """For each tenant's id and "provider:model"."""
        pairs = set(wanted)
        split = [model.partition(":")[::2] for _, model in pairs]
        rows = Price.objects.none()
        if pairs:
            rows = Price.objects.filter(
                Q(tenant=None) | Q(tenant_id__in={tenant_id for tenant_id, _ in pairs}),
                provider__in={provider for provider, _ in split},
                model__in={name for _, name in split},
            ).order_by("-effective_from")
        self._own: dict[tuple[uuid.UUID | None, str], list[tuple[dt.datetime, ModelPrice]]] = {}
        for row in rows:
            price = ModelPrice(str(row), row.input_per_mtok, row.output_per_mtok)
            self._own.setdefault((row.tenant_id, str(row)), []).append((row.effective_from, price))
        self._infos: dict[str, ModelInfo | None] = {}
        self._published: dict[tuple[str, int], ModelPrice] = {}

    def price_of(self, model: str, *, tenant_id: uuid.UUID, at: dt.datetime) -> ModelPrice:
        """As :func:`apps.costs.prices.price_of`, without a query. Raises UnknownModel."""
        for owner in (tenant_id, None):
            for since, price in self._own.get((owner, model), ()):
                if since <= at:
                    return price
        provider, _, name = model.partition(":")
        if not provider or not name:
            raise UnknownModel([model], why=', which is not of the form "provider:model"')
        try:
            return self._publicly(model, provider, name, at)
        except LookupError as why:
            raise UnknownModel([model], why=str(why)) from None

    def _publicly(self, model: str, provider: str, name: str, at: dt.datetime) -> ModelPrice:
        if model not in self._infos:
            try:
                self._infos[model] = published_model(provider, name)
            except LookupError:
                self._infos[model] = None
        info = self._infos[model]
        if info is None:
            raise LookupError
        prices = info.get_prices(at)
        # The package's data outlive this book, so the identity of a price in them tells it from others.
        key = (model, id(prices))
        if key not in self._published:
            self._published[key] = published_price(model, prices)
        return self._published[key]
