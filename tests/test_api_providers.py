"""Model providers over the API: states, latencies, limits, and who may see them."""

from __future__ import annotations

import datetime as dt

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.providers import switching, traffic
from apps.providers.breaker import Failure
from apps.providers.models import Provider, Region
from apps.providers.traffic import Tally
from apps.tenants.models import User
from tests.api_client import Caller, is_refusal
from tests.regions import make_provider, region_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def provider() -> Provider:
    """East has failed, and west serves."""
    made = make_provider("east", "west")
    now = timezone.now()
    switching.report_failures(
        region_of(made, "east").pk, [Failure(now)] * 5, error="answered 503", now=now - dt.timedelta(seconds=1)
    )
    Region.objects.filter(name="west").update(requests_per_minute=600)
    tally = Tally(limited=2)
    for _ in range(30):
        tally.answered(0.25, now.timestamp())
    tally.silent(9.0, now.timestamp())
    traffic.add({region_of(made, "west").pk: tally}, now=now)
    return made


def test_states_and_latencies_of_regions(provider: Provider, viewer: User) -> None:  # P7
    (found,) = Caller(viewer).get("/providers/").json()["results"]
    assert (found["name"], found["health"]["status"], found["health"]["serving"]) == (
        "simulated",
        "failed_over",
        "west",
    )
    east, west = found["regions"]
    assert (east["state"], east["p99_ms"], east["samples"]) == ("open", None, 0)
    assert east["cause"] == "5 calls failed within 30 s; the last: answered 503"
    assert (west["state"], west["p99_ms"], west["samples"], west["cause"]) == ("closed", 9000.0, 31, "")
    assert west["limits"] == {"requests_per_minute": 600, "tokens_per_minute": None, "concurrency": None}
    assert west["last_hour"] == {
        "calls": 31,
        "failed": 1,
        "limited": 2,
        "error_rate": 0.0323,
        "p50_ms": 250.0,
        "p99_ms": 299.0,
    }
    assert "base_url" not in east, "where it is reached is for those who run the platform"


def test_one_provider(provider: Provider, viewer: User) -> None:
    call = Caller(viewer)
    assert call.get(f"/providers/{provider.pk}/").json() == call.get("/providers/").json()["results"][0]


def test_whoever_may_see_no_swarm_sees_no_provider(provider: Provider, finance: User) -> None:  # A5
    for path in ("/providers/", f"/providers/{provider.pk}/"):
        assert is_refusal(Caller(finance).get(path), 403)


def test_the_outsider_learns_nothing_of_tenants_from_it(provider: Provider, viewer: User, outsider: User) -> None:
    assert Caller(outsider).get("/providers/").json() == Caller(viewer).get("/providers/").json()


def test_the_number_of_queries_does_not_grow(provider: Provider, viewer: User) -> None:
    call = Caller(viewer)
    call.get("/providers/")
    counts = []
    for number in range(2):
        with CaptureQueriesContext(connection) as queries:
            assert call.get("/providers/").status_code == 200
        counts.append(len(queries))
        make_provider("one", "two", name=f"more-{number}")
    assert counts[0] == counts[1]
