"""The page of model providers: what it shows to whom, what platform admins do there, and with how many queries."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.events.models import Event
from apps.providers import cache_usage, switching
from apps.providers.breaker import Failure
from apps.providers.cache_usage import Counts
from apps.providers.latency import BOUNDS_S, bucket
from apps.providers.models import (
    BackendState,
    Breaker,
    Cache,
    Provider,
    RefreshOrder,
    Region,
    RegionMinute,
    RegionQuota,
    RegionWindow,
    SecretState,
)
from apps.providers.quota import Quota
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from tests.desk import platform_is_up
from tests.regions import make_provider, region_of
from tests.test_console_pages import logged_in, text_of

pytestmark = pytest.mark.django_db
KEY = "OPENAI_API_KEY"


@pytest.fixture
def provider(db: None) -> Provider:
    return make_provider("east", "west", secret_name=KEY)


@pytest.fixture
def root(platform_admin: User) -> Client:
    return logged_in(platform_admin)


def break_(region: Region, error: str = "answered 503", *, ago_s: float = 0) -> None:
    at = timezone.now() - dt.timedelta(seconds=ago_s)
    switching.report_failures(region.pk, [Failure(at)] * 5, error=error, now=at)


def minute_of(region: Region, *, ago: int, answered: int, seconds: float, errors: int = 0, limited: int = 0) -> None:
    latencies = [0] * (len(BOUNDS_S) + 1)
    latencies[bucket(seconds)] = answered
    RegionMinute.objects.create(
        region=region,
        minute=timezone.now().replace(second=0, microsecond=0) - dt.timedelta(minutes=ago),
        calls=answered + errors,
        errors=errors,
        limited=limited,
        latencies=latencies,
    )


def part(client: Client, name: str, query: str = "") -> str:
    return text_of(client.get(f"/providers/?part={name}{query}"))


def said(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


# -- doors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["owner", "operator", "developer", "viewer"])
def test_who_may_see_a_swarm_sees_how_providers_do_and_can_do_nothing_there(
    who: str, request: pytest.FixtureRequest, provider: Provider
) -> None:
    client = logged_in(request.getfixturevalue(who))
    page = client.get("/providers/").content.decode()
    assert "east" in page
    assert 'href="/providers/" aria-current' in page
    # Keys are the platform's, and so are the buttons.
    assert KEY not in page
    assert "<dialog" not in page
    assert "data-dialog" not in page
    assert client.get("/providers/?part=keys").content.decode().count("part-keys") == 0
    region = region_of(provider, "east")
    for path in (*(f"regions/{region.pk}/{act}" for act in ("open", "close", "drain", "undrain")), "keys/refresh"):
        refused = client.post(f"/providers/{path}/", {"reason": "mischief"})
        assert refused.status_code == 403
        assert "only platform admins" in text_of(refused)
    assert not AuditEntry.objects.filter(success=True, action__regex="^(breaker|region|secret):").exists()
    assert not RefreshOrder.objects.exists()
    assert not Breaker.objects.exists()


def test_who_sees_no_swarm_is_told_what_is_missing(finance: User, provider: Provider) -> None:
    client = logged_in(finance)
    refused = client.get("/providers/")
    assert refused.status_code == 403
    assert "swarm:read" in text_of(refused)
    assert 'href="/providers/"' not in client.get("/").content.decode()


def test_the_outsider_sees_the_platform_and_nothing_of_other_tenants_in_it(
    outsider: User, operator: User, provider: Provider
) -> None:
    # Providers are shared by all tenants: an outsider to acme is a tenant like any other here. Nothing names a tenant.
    page = logged_in(outsider).get("/providers/").content.decode()
    assert "east" in page
    assert "acme" not in page.lower()
    assert KEY not in page
    assert logged_in(outsider).post(f"/providers/regions/{region_of(provider, 'east').pk}/open/").status_code == 403


def test_a_stranger_logs_in_first(provider: Provider) -> None:
    assert Client().get("/providers/")["Location"] == "/login/?next=/providers/"
    assert Client().post("/providers/keys/refresh/").status_code == 302


# -- what it shows ---------------------------------------------------------------------------------------------------


def test_a_region_shows_its_hour(root: Client, provider: Provider) -> None:  # P2 P3
    east = region_of(provider, "east")
    minute_of(east, ago=59, answered=50, seconds=0.15)
    minute_of(east, ago=3, answered=45, seconds=0.15, errors=5, limited=2)
    minute_of(east, ago=61, answered=999, seconds=100)  # older than an hour
    now = timezone.now().timestamp()
    RegionWindow.objects.create(region=east, latencies=[0.2] * 30, ended=[now - 1] * 30)
    shown = part(root, "providers")
    assert "p50 150 ms" in shown
    assert "p99 199 ms" in shown
    assert "Errors 5.0 %" in shown
    assert "Calls 100" in shown
    assert "latency of 95 answered calls, 5 failed, 2 slowed down (429)" in shown
    assert "a p99 of 200 ms over the last 30 calls" in shown
    assert "No calls in the last hour" in shown, "as west has none"
    page = root.get("/providers/").content.decode()
    numbers = re.search(r'data-chart="([^"]+)"', page)
    assert numbers is not None
    chart = numbers[1].replace("&quot;", '"')
    assert '"failed":[' + "0," * 56 + "5,0,0,0]" in chart
    assert '"answered":[50,' in chart


def test_its_table_has_the_same_numbers_in_twelve_rows(root: Client, provider: Provider) -> None:
    east = region_of(provider, "east")
    for ago in range(60):
        minute_of(east, ago=ago, answered=10, seconds=0.15, errors=ago % 2)
    page = root.get("/providers/").content.decode()
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', page)
    assert len(rows) == 12
    cells = [re.sub(r"<[^>]+>", "|", row).split("|") for row in rows]
    failed = sum(int(row[4].split()[0]) for row in cells)
    assert failed == 30
    assert {row[2] for row in cells} <= {"10.4", "10.6"}


def test_states_are_told_in_words_with_why_and_since_when(root: Client, provider: Provider) -> None:  # P2 P7
    east, west = region_of(provider, "east"), region_of(provider, "west")
    break_(east, "answered 503", ago_s=120)
    shown = part(root, "providers")
    assert "Failed over to west since" in shown
    assert "Open since 2 min ago" in shown
    assert "5 calls failed within 30 s; the last: answered 503" in shown
    assert "It was to be tried again 1 min ago : no runner has done so yet" in shown
    assert "Last wrong 2 min ago : answered 503" in shown
    switching.slow_down(west.pk, seconds=90, now=timezone.now())
    switching.drain(west, by=trail.Actor("command", "test"), reason="moved")
    shown = part(root, "providers")
    assert "Critical" in shown
    assert "Draining" in shown
    assert re.search(r"No calls until in (1 min|89 s) , as it asked", shown)


def test_limits_show_what_is_in_use(root: Client, provider: Provider) -> None:
    east = region_of(provider, "east")
    Region.objects.filter(pk=east.pk).update(requests_per_minute=10, concurrency=4)
    now = timezone.now().timestamp()
    quota = Quota({int(now) - 10: (9, 100), int(now) - 90: (5, 50)}, {"a": (4, now + 9), "gone": (3, now - 1)})
    RegionQuota.objects.create(region=east, quota=quota.as_json())
    shown = part(root, "providers")
    assert "requests a minute 9 of 10" in shown
    assert "calls at once 4 of 4 warning full" in shown
    assert "tokens a minute" not in shown


def test_without_a_provider_or_a_region_it_says_what_to_do(root: Client, operator: User, db: None) -> None:
    assert "There is no model provider yet" in text_of(root.get("/providers/"))
    assert "Add a provider with at least one region" in part(root, "providers")
    assert "A platform admin adds providers" in part(logged_in(operator), "providers")
    Provider.objects.create(name="bare")
    shown = text_of(root.get("/providers/"))
    assert "It has no region, so its models cannot be called" in shown
    assert "No key needed" in shown
    assert "None of these providers needs a key" in shown
    assert "Nothing happened so far" in shown


def test_keys_are_shown_by_class_with_age_and_never_a_value(root: Client, provider: Provider) -> None:  # P8
    Provider.objects.filter(pk=provider.pk).update(worker_classes=["agents", "agents-eu", "ops"])
    now = timezone.now()
    SecretState.objects.create(
        name=KEY,
        worker_class="agents",
        backend="vault at https://vault.test",
        fingerprint="0123456789ab",
        version="7",
        loaded_at=now - dt.timedelta(minutes=3),
        rotated_at=now - dt.timedelta(days=3, hours=2),
    )
    SecretState.objects.create(
        name=KEY,
        worker_class="agents-eu",
        backend="vault at https://vault.test",
        last_error="Vault says no.",
        failed_at=now,
        lacking_since=now,
    )
    shown = part(root, "keys")
    assert "class agents" in shown
    assert "01234567" in shown
    assert "0123456789ab" not in shown
    assert "version 7" in shown
    assert "3 d 2 h" in shown
    assert "Key missing" in shown
    assert "Vault says no." in shown
    assert "class ops key Key not read yet" in shown
    # The provider's head tells the worst of it.
    assert "Key missing" in part(root, "providers")


def test_a_backend_that_is_down_is_said_above_the_keys_and_on_the_overview(
    root: Client, operator: User, provider: Provider
) -> None:  # P8
    BackendState.objects.create(name="vault", down_since=timezone.now(), last_error="It does not answer.")
    BackendState.objects.create(name="left behind", down_since=timezone.now(), last_error="Nobody reads from it.")
    SecretState.objects.create(
        name=KEY, worker_class="agents", backend="vault", fingerprint="ab", last_error="It does not answer."
    )
    shown = part(root, "keys")
    assert "The secrets backend vault went down" in shown
    assert "It does not answer." in shown
    assert "Key kept" in shown
    assert "left behind" not in shown
    assert "The secrets backend vault is down" in text_of(root.get("/?part=attention"))
    assert "vault" not in text_of(logged_in(operator).get("/?part=attention"))


def test_the_overview_names_critical_providers_open_breakers_and_keys(
    root: Client, viewer: User, finance: User, provider: Provider
) -> None:
    platform_is_up()
    break_(region_of(provider, "west"))
    shown = text_of(logged_in(viewer).get("/?part=attention"))
    assert "simulated/west gets no calls now 5 calls failed within 30 s; the last: answered 503." in shown
    assert "failed over" not in shown, "the primary is well"
    break_(region_of(provider, "east"))
    SecretState.objects.create(name=KEY, worker_class="agents", backend="env", refused_at=timezone.now())
    shown = text_of(root.get("/?part=attention"))
    assert "No region of simulated answers" in shown
    assert "gets no calls" not in shown, "one finding for one provider"
    assert f"The key {KEY} of class agents is refused" in shown
    seen = text_of(logged_in(viewer).get("/?part=attention"))
    assert "No region of simulated answers" in seen
    assert KEY not in seen
    assert "simulated" not in text_of(logged_in(finance).get("/?part=attention"))
    Provider.objects.update(is_enabled=False)
    assert "simulated" not in text_of(root.get("/?part=attention"))


def test_what_happened_is_paged_and_filtered(root: Client, provider: Provider) -> None:
    east = region_of(provider, "east")
    by = trail.Actor("command", "test")
    for number in range(8):
        switching.open_by_hand(east, by=by, reason=f"turn {number}")
        switching.close_by_hand(east, by=by, reason=f"turn {number}")
    other = make_provider("north", name="other")
    switching.drain(region_of(other, "north"), by=by, reason="spare")
    newest = part(root, "history")
    assert "other/north is being drained: spare" in newest
    assert "other is critical" in newest
    older = re.search(r"before=(\d+)", root.get("/providers/?part=history").content.decode())
    assert older is not None
    seen = set(re.findall(r'data-event="(\d+)"', root.get("/providers/?part=history").content.decode()))
    behind = root.get(f"/providers/?part=history&before={older[1]}").content.decode()
    assert seen.isdisjoint(re.findall(r'data-event="(\d+)"', behind))
    assert "turn 0" in behind
    assert "Newest" in behind
    only = part(root, "history", "&provider=other")
    assert "simulated/" not in only
    assert "Nothing older" in part(root, "history", "&before=1")
    for odd in ("&before=x", "&before=-1", "&before=" + "9" * 40, "&provider=%00", "&page=zzz"):
        assert "other/north" in part(root, "history", odd)


def test_many_providers_take_a_fixed_number_of_queries(
    root: Client, operator: User, provider: Provider, django_assert_max_num_queries: Any
) -> None:
    def more(count: int, prefix: str) -> None:
        for number in range(count):
            made = make_provider("a", "b", "c", name=f"{prefix}{number}", secret_name=f"KEY_{prefix}{number}")
            for region in made.regions.all():
                minute_of(region, ago=1, answered=1, seconds=1)
            SecretState.objects.create(name=made.secret_name, worker_class="agents", backend="env", fingerprint="a")
            break_(region_of(made, "a"))

    more(1, "x")
    with django_assert_max_num_queries(21):
        root.get("/providers/")
    more(10, "y")
    with django_assert_max_num_queries(21):
        assert "12 providers" in text_of(root.get("/providers/"))
    client = logged_in(operator)
    with django_assert_max_num_queries(11):
        client.get("/providers/?part=history")


def test_caches_show_their_rates_as_far_as_somebody_may_read_costs(
    root: Client, viewer: User, outsider: User, acme: Tenant, developer: User, provider: Provider
) -> None:  # P6
    counts = Counts(hits=30, misses=10, degraded=2, saved=1_500_000_000)
    tally = {(Cache.RESPONSES, acme.pk): counts, (Cache.CONFIGURATION, None): Counts(hits=3)}
    cache_usage.add(tally, now=timezone.now())
    shown = part(root, "caches")
    assert "Responses 0 0 bytes 75 % 30 hits, 10 misses, warning 2 older answers" in shown
    assert "$1.50" in shown
    assert "Configuration 2 100 % 3 hits, 0 misses" in shown
    seen = part(logged_in(viewer), "caches")
    assert "75 %" in seen
    assert "Configuration" not in seen
    other = part(logged_in(outsider), "caches")
    assert "nothing looked up" in other
    assert "75 %" not in other
    Membership.objects.filter(user=developer).update(role=Role.COMPLIANCE)  # sees swarms, and no costs
    assert "Caches" not in text_of(logged_in(developer).get("/providers/"))


# -- what platform admins do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "act", "done", "audited"),
    [
        ("", "open", "was opened", "breaker:open"),
        ("open", "close", "was closed", "breaker:close"),
        ("", "drain", "was drained", "region:drain"),
        ("drain", "undrain", "was taken back", "region:undrain"),
    ],
)
def test_a_platform_admin_acts_with_a_reason_and_it_is_audited(
    root: Client, platform_admin: User, provider: Provider, first: str, act: str, done: str, audited: str
) -> None:
    url = f"/providers/regions/{region_of(provider, 'east').pk}"
    if first:
        root.post(f"{url}/{first}/", {"reason": "before"})
    page = root.get("/providers/").content.decode()
    assert f'data-action="{url}/{act}/"' in page
    answer = root.post(f"{url}/{act}/", {"reason": "  maintenance  "}, follow=True)
    assert said(answer) == [f"simulated/east {done}."]
    assert answer.redirect_chain[0][0].startswith("/providers/#region-")
    entry = AuditEntry.objects.get(action=audited)
    assert (entry.reason, entry.success, entry.actor) == ("maintenance", True, str(platform_admin.pk))
    assert f'data-action="{url}/{act}/"' not in answer.content.decode()
    # Again: nothing changes, and the answer says why.
    again = root.post(f"{url}/{act}/", {"reason": "again"}, follow=True)
    assert said(again)[0].startswith("Nothing was changed. ")
    assert AuditEntry.objects.filter(action=audited).count() == 1


@pytest.mark.parametrize(("reason", "why"), [("", "Say why"), (" \x00 ", "Say why"), ("x" * 501, "at most 500")])
def test_without_a_reason_nothing_happens(root: Client, provider: Provider, reason: str, why: str) -> None:
    region = region_of(provider, "east")
    answer = root.post(f"/providers/regions/{region.pk}/drain/", {"reason": reason}, follow=True)
    assert why in said(answer)[0]
    assert not Region.objects.get(pk=region.pk).is_draining
    assert not Event.objects.filter(kind="region.drained").exists()


def test_the_last_region_that_takes_calls_is_said_to_be_that(root: Client, provider: Provider) -> None:
    assert "No other region of simulated takes calls now" not in root.get("/providers/").content.decode()
    break_(region_of(provider, "east"))
    page = root.get("/providers/").content.decode()
    assert page.count('data-warn="No other region of simulated takes calls now') == 2, "at west: open, drain"


def test_what_is_not_there_is_not_found(root: Client, provider: Provider) -> None:
    region = region_of(provider, "east")
    assert root.post(f"/providers/regions/{region.pk}/explode/", {"reason": "x"}).status_code == 404
    assert root.post(f"/providers/regions/{provider.pk}/open/", {"reason": "x"}).status_code == 404
    assert root.get(f"/providers/regions/{region.pk}/open/").status_code == 405


def test_rotating_orders_all_processes_to_read_their_keys_anew(root: Client, provider: Provider) -> None:  # P8
    assert 'data-dialog="dialog-refresh"' in root.get("/providers/").content.decode()
    answer = root.post("/providers/keys/refresh/", {"reason": "leaked"}, follow=True)
    assert said(answer) == ["Every process reads its keys anew now. Below you see when each has."]
    order = RefreshOrder.objects.get()
    entry = AuditEntry.objects.get(action="secret:refresh_all")
    assert (entry.reason, entry.resource_id) == ("leaked", str(order.pk))
