"""What a person does to regions in the administration: open, close, drain, bind a tenant to some."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from django.test import Client

from apps.audit.models import AuditEntry
from apps.events.models import Event
from apps.providers.models import Breaker, Provider, Region, ResidencyRule
from apps.tenants.models import Tenant, User
from tests.regions import make_provider, region_of

REGIONS = "/admin/providers/region/"


def client_of(user: User) -> Client:
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def text_of(response: Any) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", response.content.decode())))


@pytest.fixture
def root(platform_admin: User) -> Client:
    return client_of(platform_admin)


@pytest.fixture
def provider(db: None) -> Provider:
    return make_provider("east", "west")


ACTS = [
    # the button, what is then true of east, the audited action, the kind of event
    ("open", {"breaker__state": "open", "breaker__is_held": True}, "breaker:open", "breaker.opened"),
    ("drain", {"is_draining": True}, "region:drain", "region.drained"),
]


@pytest.mark.parametrize(("verb", "then", "action", "kind"), ACTS, ids=[row[0] for row in ACTS])
def test_an_act_says_what_it_does_asks_why_and_can_be_taken_back(
    root: Client, provider: Provider, verb: str, then: dict[str, Any], action: str, kind: str
) -> None:
    east = region_of(provider, "east")
    url = f"{REGIONS}{east.pk}/"
    undo = {"open": "close", "drain": "undrain"}[verb]
    assert f"/{verb}" in root.get(f"{url}change/").content.decode()
    page = root.get(f"{url}{verb}", follow=True)
    assert "Calls under way go on" in text_of(page) or "those under way go on" in text_of(page)
    assert Event.objects.count() == 0, "nothing is done by looking"
    assert "Say why" in text_of(root.post(page.request["PATH_INFO"], {"reason": " "}))
    done = root.post(page.request["PATH_INFO"], {"reason": "Moving house."}, follow=True)
    assert "Moving house." in text_of(done) or verb == "drain"
    assert Region.objects.filter(pk=east.pk, **then).exists()
    assert AuditEntry.objects.get(action=action).reason == "Moving house."
    assert Event.objects.filter(kind=kind).count() == 1
    assert "already" in text_of(root.get(page.request["PATH_INFO"]))
    back = root.get(f"{url}{undo}", follow=True).request["PATH_INFO"]
    root.post(back, {"reason": "Back."})
    assert not Region.objects.filter(pk=east.pk, **then).exists()


def test_nobody_but_the_platforms_admins_reaches_regions(provider: Provider, owner: User, outsider: User) -> None:  # A5
    east = region_of(provider, "east")
    for user in (owner, outsider):
        client = client_of(user)
        for page in ("", f"{east.pk}/change/", f"{east.pk}/open", f"{east.pk}/open/", f"{east.pk}/try"):
            answer = client.post(f"{REGIONS}{page}", {"reason": "Mine now."}, follow=True)
            assert answer.status_code in (403, 404)
    assert not Breaker.objects.filter(state="open").exists()
    assert not AuditEntry.objects.filter(success=True, action__startswith="breaker:").exists()


def test_disabling_the_primary_on_its_page_announces_nothing_false(root: Client, provider: Provider) -> None:
    east = region_of(provider, "east")
    fields = {"base_url": east.base_url, "order": "1", "name": "east", "requests_per_minute": "100"}
    assert root.post(f"{REGIONS}{east.pk}/change/", fields).status_code == 302
    provider.refresh_from_db()
    east.refresh_from_db()
    assert (east.is_enabled, east.requests_per_minute, provider.health) == (False, 100, "healthy")
    fields["requests_per_minute"] = "0"
    assert "greater than or equal to 1" in text_of(root.post(f"{REGIONS}{east.pk}/change/", fields))


def test_a_residency_rule_takes_only_regions_of_its_provider(root: Client, provider: Provider, acme: Tenant) -> None:
    other = make_provider("north", name="other")
    fields = {"tenant": str(acme.pk), "provider": str(provider.pk), "note": "Contract 7"}
    wrong = root.post("/admin/providers/residencyrule/add/", {**fields, "regions": [str(region_of(other, "north").pk)]})
    assert "Not a region of simulated: other/north." in text_of(wrong)
    right = root.post(
        "/admin/providers/residencyrule/add/", {**fields, "regions": [str(region_of(provider, "west").pk)]}
    )
    assert right.status_code == 302
    rule = ResidencyRule.objects.get()
    assert [region.name for region in rule.regions.all()] == ["west"]
    assert AuditEntry.objects.filter(action="residencyrule:create").exists()
