"""Breakers as all workers share them: transitions, events, the provider's health, and what people may do."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.events.models import Event
from apps.providers import health, switching, traffic
from apps.providers.breaker import Failure, State
from apps.providers.directory import Directory
from apps.providers.latency import BOUNDS_S, WINDOW, quantile, quantile_of_histogram
from apps.providers.models import Breaker, HealthStatus, Provider, Region, RegionMinute, RegionWindow, ResidencyRule
from apps.providers.traffic import Tally
from apps.tenants.models import Tenant
from tests.regions import make_provider, region_of

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
BY = trail.Actor("command", "test")
TOKEN = uuid.UUID(int=7)


@pytest.fixture
def provider(db: None) -> Provider:
    return make_provider("east", "west", breaker_failures=3)


def at(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def break_(region: Region, *, now: dt.datetime = NOW) -> State:
    return switching.report_failures(region.pk, [Failure(now)] * 3, error="answered 500", now=now)


def events() -> list[tuple[str, Any]]:
    kept = Event.objects.order_by("pk").values_list("kind", "data")
    return [(kind, data.get("region") or data.get("to") or data.get("reason") or "") for kind, data in kept]


def test_failures_open_a_breaker_and_the_provider_fails_over(provider: Provider) -> None:  # P2 P7
    east = region_of(provider, "east")
    state = switching.report_failures(east.pk, [Failure(NOW)] * 2, error="answered 500", now=NOW)
    assert (state, events()) == (State.CLOSED, [])
    assert break_(east) is State.OPEN
    assert events() == [("breaker.opened", "east"), ("provider.failed_over", "west")]
    opened = Event.objects.get(kind="breaker.opened")
    assert opened.data["cause"] == "3 calls failed within 30 s; the last: answered 500"
    assert (opened.data["before"], opened.data["failures"]) == ("closed", 2)
    provider.refresh_from_db()
    assert (provider.health, provider.serving, provider.health_since) == ("failed_over", "west", NOW)
    # What calls that were under way find out changes nothing, and is announced to nobody.
    break_(east, now=at(1))
    assert len(events()) == 2


def test_without_any_region_it_is_critical_and_recovers_by_probe(provider: Provider) -> None:  # P7
    east, west = region_of(provider, "east"), region_of(provider, "west")
    break_(east)
    break_(west)
    critical = Event.objects.get(kind="provider.critical")
    assert critical.data == {
        "provider": "simulated",
        "before": "failed_over",
        "primary": "east",
        "reason": "no_healthy_regions",
    }
    assert switching.claim_probe(east.pk, TOKEN, lease_s=5, now=at(15))
    assert not switching.claim_probe(east.pk, uuid.uuid4(), lease_s=5, now=at(16)), "one at a time"
    assert switching.probe_answered(east.pk, TOKEN, lease_s=5, now=at(16))
    switching.probe_passed(east.pk, TOKEN, cause="The call that tried it succeeded.", now=at(17))
    assert events()[-3:] == [("breaker.half_opened", "east"), ("breaker.closed", "east"), ("provider.recovered", "")]
    provider.refresh_from_db()
    assert (provider.health, provider.serving) == ("healthy", "")


def test_a_disabled_provider_is_not_announced_as_down(provider: Provider) -> None:
    Provider.objects.update(is_enabled=False)
    for name in ("east", "west"):
        break_(region_of(provider, name))
    assert events() == [("breaker.opened", "east"), ("breaker.opened", "west")]


def test_a_probe_that_fails_is_no_transition_and_puts_the_next_one_off(provider: Provider) -> None:
    east = region_of(provider, "east")
    break_(east)
    switching.claim_probe(east.pk, TOKEN, lease_s=5, now=at(15))
    switching.probe_refused(east.pk, TOKEN, error="answered 503", now=at(16))
    assert len(events()) == 2
    assert region_of(provider, "east").circuit.next_probe_at == at(31)


def test_a_429_slows_a_region_down_for_everybody_and_breaks_nothing(provider: Provider) -> None:
    east = region_of(provider, "east")
    assert switching.slow_down(east.pk, seconds=7, now=NOW) == at(7)
    assert switching.slow_down(east.pk, seconds=2, now=at(1)) == at(7), "the longer one counts"
    assert events() == [("region.slowed", "east")]
    assert switching.slow_down(east.pk, seconds=10**6, now=NOW) == at(600), "not for ever"
    assert region_of(provider, "east").circuit.state is State.CLOSED


HAND: list[tuple[str, Callable[..., None], Callable[..., None], str]] = [
    ("breaker:open", switching.open_by_hand, switching.close_by_hand, "is opened by hand already"),
    ("region:drain", switching.drain, switching.undrain, "is being drained already"),
]


@pytest.mark.parametrize(("action", "do", "undo", "words"), HAND, ids=[row[0] for row in HAND])
def test_what_people_do_is_audited_and_changes_the_providers_health(
    provider: Provider, action: str, do: Callable[..., None], undo: Callable[..., None], words: str
) -> None:
    east = region_of(provider, "east")
    do(east, by=BY, reason="Maintenance tonight.", now=NOW)
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.resource_id, entry.reason) == (action, str(east.pk), "Maintenance tonight.")
    with pytest.raises(switching.CannotSwitch, match=words):
        do(east, by=BY, reason="Again.", now=at(1))
    undo(east, by=BY, reason="Done.", now=at(2))
    with pytest.raises(switching.CannotSwitch):
        undo(east, by=BY, reason="Again.", now=at(3))
    assert AuditEntry.objects.count() == 2
    provider.refresh_from_db()
    assert provider.health == "healthy"


@pytest.mark.parametrize("act", [switching.open_by_hand, switching.drain])
def test_when_the_audit_cannot_be_written_nothing_is_changed(
    provider: Provider, act: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the trail is full")

    monkeypatch.setattr(trail, "record", broken)
    with pytest.raises(RuntimeError):
        act(region_of(provider, "east"), by=BY, reason="Test.", now=NOW)
    east = region_of(provider, "east")
    assert (east.circuit.state, east.is_draining, events()) == (State.CLOSED, False, [])


def test_what_a_person_opened_no_probe_closes(provider: Provider) -> None:
    east = region_of(provider, "east")
    switching.open_by_hand(east, by=BY, reason="It lies.", now=NOW)
    assert not switching.claim_probe(east.pk, TOKEN, lease_s=5, now=at(10**6))
    assert switching.proved(east.pk, now=at(1)) is State.OPEN
    assert Breaker.objects.get().cause == "Opened by hand: It lies."


def test_a_region_that_is_gone_is_no_error(provider: Provider) -> None:
    nobody = uuid.uuid4()
    assert switching.report_failures(nobody, [Failure(NOW)], error="", now=NOW) is State.OPEN
    assert not switching.claim_probe(nobody, TOKEN, lease_s=5, now=NOW)
    assert switching.slow_down(nobody, seconds=1, now=NOW) is None
    traffic.add({nobody: Tally(calls=1)}, now=NOW)
    assert RegionMinute.objects.count() == 0


def test_an_idle_region_is_checked_by_one_process_at_a_time(provider: Provider) -> None:
    east = region_of(provider, "east")
    assert switching.claim_check(east.pk, every_s=30, now=NOW)
    assert not switching.claim_check(east.pk, every_s=30, now=at(29))
    assert switching.claim_check(east.pk, every_s=30, now=at(31))
    break_(east)
    assert not switching.claim_check(east.pk, every_s=30, now=at(99)), "an open one is probed instead"


JUDGED: list[tuple[list[tuple[str, int, str]], tuple[HealthStatus, str], str]] = [
    # regions as (name, order, what is wrong), the verdict and who serves, why
    ([("a", 1, ""), ("b", 2, "")], (HealthStatus.HEALTHY, ""), "all well"),
    ([("a", 1, ""), ("b", 2, "open")], (HealthStatus.HEALTHY, ""), "a backup is down"),
    ([("a", 1, "open"), ("b", 2, ""), ("c", 3, "")], (HealthStatus.FAILED_OVER, "b"), "the next in order serves"),
    ([("a", 1, "open"), ("b", 1, "")], (HealthStatus.HEALTHY, ""), "two primaries, one of them up"),
    ([("a", 1, "open"), ("b", 2, "open")], (HealthStatus.CRITICAL, ""), "none is up"),
    ([("a", 1, "draining"), ("b", 2, "")], (HealthStatus.HEALTHY, ""), "drained on purpose: the next is the primary"),
    ([("a", 1, "off"), ("b", 2, "")], (HealthStatus.HEALTHY, ""), "nor does one count that is disabled"),
    ([("a", 1, "draining")], (HealthStatus.CRITICAL, ""), "nothing takes calls"),
    ([], (HealthStatus.CRITICAL, ""), "there is nothing"),
]


@pytest.mark.parametrize(("regions", "verdict", "why"), JUDGED, ids=[row[2] for row in JUDGED])
def test_how_a_provider_stands(
    regions: list[tuple[str, int, str]], verdict: tuple[HealthStatus, str], why: str
) -> None:  # P7
    made = []
    for name, order, wrong in regions:
        region = Region(name=name, order=order, is_enabled=wrong != "off", is_draining=wrong == "draining")
        region.breaker = Breaker(region=region, state="open" if wrong == "open" else "closed")
        made.append(region)
    judged = health.judge(made)
    assert (judged.status, judged.serving) == verdict


# -- latencies ---------------------------------------------------------------------------------------------------------


def test_the_last_hundred_calls_of_all_processes_make_the_p99(provider: Provider) -> None:  # P4
    east = region_of(provider, "east")
    for process in range(3):
        tally = Tally()
        for number in range(60):
            tally.answered(1.0 + process, NOW.timestamp() + number / 100)
        traffic.add({east.pk: tally}, now=NOW)
    window = RegionWindow.objects.get()
    assert len(window.latencies) == len(window.ended) == WINDOW
    assert (window.latencies.count(1.0), window.latencies.count(2.0), window.latencies.count(3.0)) == (0, 40, 60)
    (standing, other) = Directory.load(now=NOW).providers["simulated"]
    assert (standing.p99_s, standing.samples, other.samples) == (3.0, 100, 0)
    minute = RegionMinute.objects.get()
    assert (minute.calls, minute.errors, minute.minute) == (180, 0, NOW)
    assert sum(minute.latencies) == 180
    # After five minutes without a call it is not known any more how the region is.
    assert Directory.load(now=at(400)).providers["simulated"][0].samples == 0


def test_what_was_measured_before_the_breaker_closed_is_forgotten(provider: Provider) -> None:
    east = region_of(provider, "east")
    tally = Tally()
    tally.answered(5.0, NOW.timestamp())
    traffic.add({east.pk: tally}, now=NOW)
    break_(east, now=at(1))
    switching.close_by_hand(east, by=BY, reason="It is back.", now=at(2))
    assert Directory.load(now=at(3)).providers["simulated"][0].samples == 0


def test_minutes_add_up_and_old_ones_go(provider: Provider) -> None:
    east = region_of(provider, "east")
    for seconds in (0, 30, 60, 3 * 3600):
        tally = Tally(limited=1)
        tally.answered(0.2, at(seconds).timestamp())
        tally.silent(9.0, at(seconds).timestamp())
        traffic.add({east.pk: tally}, now=at(seconds))
    assert list(RegionMinute.objects.order_by("minute").values_list("calls", "errors", "limited")) == [
        (4, 2, 2),
        (2, 1, 1),
        (2, 1, 1),
    ]
    assert traffic.prune(now=at(3 * 3600)) == 2


def test_quantiles() -> None:
    assert quantile([], 0.99) is None
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert quantile([3.0], 0.5) == 3.0
    counts = [0] * (len(BOUNDS_S) + 1)
    assert quantile_of_histogram(counts, 0.5) is None
    counts[2] = 10
    assert quantile_of_histogram(counts, 0.5) == pytest.approx(0.15)
    counts[-1] = 90
    assert quantile_of_histogram(counts, 0.99) == BOUNDS_S[-1]


def test_the_directory_is_three_queries_whatever_its_size(provider: Provider, acme: Tenant) -> None:
    make_provider("one", "two", "three", name="other")
    rule = ResidencyRule.objects.create(tenant=acme, provider=provider)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert Directory.load(now=NOW).pins == {(acme.pk, "simulated"): frozenset()}
    assert len(queries) == 3
    rule.regions.add(region_of(provider, "west"))
    assert Directory.load(now=NOW).pins == {(acme.pk, "simulated"): frozenset({"west"})}
