"""What models cost: a tenant's own price, else one set for everybody, else the price data of genai-prices (offline)."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from apps.costs.models import Price
from portal.money import NANO

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, TieredPrices
    from genai_prices.types import ModelPrice as PublishedPrices

MTOK = 1_000_000


class UnknownModel(LookupError):
    """Models without a price. ``models`` lists them; the text says for a person what to do."""

    def __init__(self, models: Iterable[str], *, why: str = "") -> None:
        self.models = sorted(models)
        names = ", ".join(f'"{model}"' for model in self.models)
        noun = "model" if len(self.models) == 1 else "models"
        super().__init__(
            f"No price is known for the {noun} {names}{why}. Add one in the admin under Prices: "
            "for one tenant, or for all."
        )


class Rates(NamedTuple):
    """What a call was priced at, in nano-dollars per million tokens; every rate is known."""

    input_per_mtok: int
    output_per_mtok: int
    cache_read_per_mtok: int
    cache_write_per_mtok: int


@dataclass(frozen=True, slots=True)
class PriceTier:
    """Prices of a whole call whose input has more than ``above`` tokens, in nano-dollars per million tokens."""

    above: int
    input_per_mtok: int
    output_per_mtok: int
    cache_read_per_mtok: int | None = None
    cache_write_per_mtok: int | None = None


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices of a model in nano-dollars per million tokens. ``model`` is "provider:model".

    Without a price of their own, tokens read from or written to the provider's cache cost what other input does.
    ``tiers`` rise with the number of input tokens; the last one that a call is above prices all of its tokens.
    """

    model: str
    input_per_mtok: int
    output_per_mtok: int
    cache_read_per_mtok: int | None = None
    cache_write_per_mtok: int | None = None
    tiers: tuple[PriceTier, ...] = ()

    def cost(
        self, input_tokens: int, output_tokens: int, *, cache_read_tokens: int = 0, cache_write_tokens: int = 0
    ) -> int:
        """Nano-dollars of a call, rounded up once to a whole one. ``input_tokens`` includes those of the cache."""
        rates = self.rates(input_tokens)
        total = (
            (input_tokens - cache_read_tokens - cache_write_tokens) * rates.input_per_mtok
            + cache_read_tokens * rates.cache_read_per_mtok
            + cache_write_tokens * rates.cache_write_per_mtok
            + output_tokens * rates.output_per_mtok
        )
        return -(-total // MTOK)

    def highest(self, request_bytes: int, max_output_tokens: int) -> int:
        """The most that a call can cost, in nano-dollars, whatever the tokeniser: no token is shorter than a byte."""
        sizes = {request_bytes, *(tier.above for tier in self.tiers if tier.above < request_bytes)}
        return max(
            self.cost(size, max_output_tokens, cache_read_tokens=read, cache_write_tokens=write)
            for size in sizes
            for read, write in ((0, 0), (size, 0), (0, size))
        )

    def rates(self, input_tokens: int) -> Rates:
        """What a call with so many input tokens is priced at."""
        found: ModelPrice | PriceTier = self
        for tier in self.tiers:
            if input_tokens > tier.above:
                found = tier
        price, read, write = found.input_per_mtok, found.cache_read_per_mtok, found.cache_write_per_mtok
        return Rates(price, found.output_per_mtok, price if read is None else read, price if write is None else write)


def price_of(model: str, *, tenant_id: uuid.UUID | None, at: dt.datetime) -> ModelPrice:
    """The price of "provider:model" at a time. Raises UnknownModel."""
    return prices_of([model], tenant_id=tenant_id, at=at)[model]


def prices_of(models: Iterable[str], *, tenant_id: uuid.UUID | None, at: dt.datetime) -> dict[str, ModelPrice]:
    """The price of each model at a time. One query. Raises UnknownModel, naming all that have none."""
    found, unknown = _known(models, tenant_id=tenant_id, at=at)
    if unknown:
        raise UnknownModel(unknown, why=next(iter(unknown.values())) if len(unknown) == 1 else "")
    return found


def _known(
    models: Iterable[str], *, tenant_id: uuid.UUID | None, at: dt.datetime
) -> tuple[dict[str, ModelPrice], dict[str, str]]:
    """The prices that are known, and why each other one is not."""
    split = {model: model.partition(":")[::2] for model in models}
    overrides = {
        (price.provider, price.model): price
        for price in (Price.objects.in_force(split.values(), tenant_id=tenant_id, at=at) if split else ())
    }
    found: dict[str, ModelPrice] = {}
    unknown: dict[str, str] = {}
    for model, (provider, name) in split.items():
        if override := overrides.get((provider, name)):
            found[model] = ModelPrice(model, override.input_per_mtok, override.output_per_mtok)
        elif not provider or not name:
            unknown[model] = ', which is not of the form "provider:model"'
        else:
            try:
                found[model] = _published(model, provider, name, at)
            except LookupError as why:
                unknown[model] = str(why)
    return found, unknown


def _published(model: str, provider_id: str, name: str, at: dt.datetime) -> ModelPrice:
    """The price in the package's data. Raises LookupError, with an explanation unless the model is not in it."""
    return published_price(model, published_model(provider_id, name).get_prices(at))


def published_model(provider_id: str, name: str) -> ModelInfo:
    """The model in the package's data. Raises LookupError."""
    from genai_prices import data_snapshot  # takes long to import, and most processes price nothing

    snapshot = data_snapshot.get_snapshot()
    # By its exact id only: a private endpoint must not be taken for the provider that its name resembles.
    provider = next((p for p in snapshot.providers if p.id == provider_id), None)
    info = provider.find_model(name, all_providers=snapshot.providers) if provider else None
    if info is None:
        raise LookupError
    return info


def published_price(model: str, prices: PublishedPrices) -> ModelPrice:
    """What the package's data say of a model at some time, in our terms. Raises LookupError with an explanation."""
    base = [getattr(prices, key) for key in _NAMES]
    if base[0] is None or base[1] is None or any(getattr(prices, key) is not None for key in _OTHER_RATES):
        raise LookupError(", which is not priced by input and output tokens alone")
    tiered = [price for price in base if not isinstance(price, Decimal | None)]
    starts = sorted({tier.start for price in tiered for tier in price.tiers})
    tiers = tuple(PriceTier(start, *_priced(base, start + 1)) for start in starts)
    return ModelPrice(model, *_priced(base, 0), tiers)


_NAMES = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
_OTHER_RATES = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok")


def _priced(prices: Iterable[Any], input_tokens: int) -> tuple[int, int, int | None, int | None]:
    """Nano-dollars per million tokens of a call with so many input tokens, rounded up."""
    price_in, price_out, read, write = (_nano(price, input_tokens) for price in prices)
    return price_in or 0, price_out or 0, read, write


def _nano(price: Decimal | TieredPrices | None, input_tokens: int) -> int | None:
    if price is None:
        return None
    if isinstance(price, Decimal):
        usd, tiers = price, []
    else:
        usd, tiers = price.base, price.tiers
    for tier in tiers:
        if input_tokens > tier.start:
            usd = tier.price
    return int((usd * NANO).to_integral_value(ROUND_CEILING))
