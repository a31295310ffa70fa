"""The price book: a tenant's price, else everybody's, else the published one; never zero for want of a price."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from apps.costs.models import Price
from apps.costs.prices import ModelPrice, PriceTier, UnknownModel, price_of, prices_of
from apps.tenants.models import Tenant
from portal.money import NANO

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def _price(tenant: Tenant | None, amount: int, since: dt.datetime, model: str = "small") -> Price:
    return Price.objects.create(
        tenant=tenant,
        provider="simulated",
        model=model,
        input_per_mtok=amount,
        output_per_mtok=2 * amount,
        effective_from=since,
    )


@pytest.mark.django_db
def test_the_tenants_price_goes_before_everybodys_and_the_newest_in_force_before_older(
    acme: Tenant, rival: Tenant
) -> None:  # P9
    _price(None, 1, NOW - 9 * DAY)
    _price(None, 2, NOW - DAY)
    _price(None, 3, NOW + DAY)
    _price(acme, 4, NOW - 5 * DAY)
    _price(acme, 5, NOW - 2 * DAY)
    _price(acme, 6, NOW + 2 * DAY)
    expected = [  # (tenant, at, input price)
        (None, NOW, 2),
        (rival.pk, NOW, 2),
        (rival.pk, NOW - 2 * DAY, 1),
        (rival.pk, NOW - DAY, 2),  # from its first moment on
        (rival.pk, NOW + DAY, 3),
        (acme.pk, NOW, 5),
        (acme.pk, NOW - 3 * DAY, 4),
        (acme.pk, NOW - 6 * DAY, 1),  # before the tenant had one
        (acme.pk, NOW + 3 * DAY, 6),
    ]
    for tenant_id, at, price in expected:
        found = price_of("simulated:small", tenant_id=tenant_id, at=at)
        assert (found.input_per_mtok, found.output_per_mtok) == (price, 2 * price)


@pytest.mark.django_db
def test_an_override_goes_before_the_published_price(acme: Tenant) -> None:
    published = price_of("openai:gpt-4o", tenant_id=acme.pk, at=NOW)
    assert (published.input_per_mtok, published.output_per_mtok) == (5 * NANO // 2, 10 * NANO)
    Price.objects.create(
        provider="openai", model="gpt-4o", input_per_mtok=7, output_per_mtok=8, effective_from=NOW - DAY
    )
    assert price_of("openai:gpt-4o", tenant_id=acme.pk, at=NOW) == ModelPrice("openai:gpt-4o", 7, 8)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("openai:no-such-model", 'No price is known for the model "openai:no-such-model". Add one in the admin'),
        ("simulated:small", '"simulated:small"'),
        ("my-openai-proxy:gpt-4o", '"my-openai-proxy:gpt-4o"'),  # not taken for openai
        ("gpt-4o", 'which is not of the form "provider:model"'),
        (":gpt-4o", "provider:model"),
        ("openai:", "provider:model"),
        ("", "provider:model"),
        ("perplexity:sonar-deep-research", "not priced by input and output tokens alone"),
    ],
)
def test_an_unknown_model_is_an_error_that_names_it_and_says_what_to_do(acme: Tenant, model: str, text: str) -> None:
    with pytest.raises(UnknownModel) as error:
        price_of(model, tenant_id=acme.pk, at=NOW)
    assert text in str(error.value)
    assert "Prices" in str(error.value)
    assert error.value.models == [model]


@pytest.mark.django_db
def test_many_models_take_one_query_and_all_unknown_ones_are_named(
    acme: Tenant, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for n in range(10):
        _price(None, n + 1, NOW - DAY, f"m{n}")
    models = [f"simulated:m{n}" for n in range(10)] + ["anthropic:claude-sonnet-4-5"]
    with django_assert_max_num_queries(1):
        found = prices_of(models, tenant_id=acme.pk, at=NOW)
    assert [found[model].input_per_mtok for model in models] == [*range(1, 11), 3 * NANO]
    with pytest.raises(UnknownModel) as error:
        prices_of([*models, "b:c", "a:b"], tenant_id=acme.pk, at=NOW)
    assert error.value.models == ["a:b", "b:c"]
    assert prices_of([], tenant_id=acme.pk, at=NOW) == {}


@pytest.mark.django_db
def test_published_tiers_price_the_whole_call() -> None:
    price = price_of("google:gemini-2.5-pro", tenant_id=None, at=NOW)
    assert price.cost(200_000, 1_000) == 200_000 * 1_250 + 1_000 * 10_000
    assert price.cost(200_001, 1_000) == 200_001 * 2_500 + 1_000 * 15_000


def test_a_cost_is_rounded_up_once_to_a_whole_nano_dollar() -> None:
    price = ModelPrice("a:b", 1, 1)
    assert price.cost(0, 0) == 0
    assert price.cost(1, 0) == 1
    assert price.cost(500_000, 500_000) == 1
    assert price.cost(500_000, 500_001) == 2


def test_tokens_of_the_cache_have_their_own_price_where_there_is_one() -> None:
    price = ModelPrice("a:b", 1_000_000, 0, cache_read_per_mtok=100_000, cache_write_per_mtok=1_250_000)
    assert price.cost(100, 0, cache_read_tokens=50, cache_write_tokens=40) == 10 + 5 + 50
    assert ModelPrice("a:b", 1_000_000, 0).cost(100, 0, cache_read_tokens=50, cache_write_tokens=40) == 100


_rates = st.integers(0, 10**12)
_prices = st.builds(
    ModelPrice,
    st.just("a:b"),
    _rates,
    _rates,
    st.none() | _rates,
    st.none() | _rates,
    st.lists(st.builds(PriceTier, st.integers(0, 5000), _rates, _rates, st.none() | _rates, st.none() | _rates)).map(
        lambda tiers: tuple(sorted(tiers, key=lambda tier: tier.above))
    ),
)


@given(_prices, st.integers(0, 10_000), st.integers(0, 10_000), st.data())
def test_no_call_costs_more_than_the_highest(price: ModelPrice, size: int, output: int, data: st.DataObject) -> None:
    tokens = data.draw(st.integers(0, size))
    read = data.draw(st.integers(0, tokens))
    write = data.draw(st.integers(0, tokens - read))
    made = data.draw(st.integers(0, output))
    cost = price.cost(tokens, made, cache_read_tokens=read, cache_write_tokens=write)
    assert cost <= price.highest(size, output)
