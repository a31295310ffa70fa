"""The page, the command and the job about caches: what they show, to whom, and what they do."""

from __future__ import annotations

import datetime as dt
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.providers import answers, cache_usage
from apps.providers.cache_usage import Counts
from apps.providers.models import Cache, CachedAnswer, CacheUsage
from apps.providers.tasks import prune_caches
from apps.tenants.models import Tenant, User
from tests.regions import make_provider
from tests.test_answer_cache import answer

pytestmark = pytest.mark.django_db


def client_of(user: User) -> Client:
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def kept(acme: Tenant, rival: Tenant) -> None:
    now = timezone.now()
    later = now + dt.timedelta(minutes=5)
    fields: dict[str, Any] = {"began_at": now}
    made = [answer(acme, "a1", **fields), answer(acme, "a2", agent="reader", **fields), answer(rival, "r1", **fields)]
    answers.keep(made, now=now)
    CachedAnswer.objects.update(created_at=now, expires_at=later)
    cache_usage.add(
        {
            (Cache.RESPONSES, acme.pk): Counts(hits=30, misses=10, saved=2_500_000_000, evicted=4),
            (Cache.RESPONSES, rival.pk): Counts(hits=111, misses=222, degraded=333, saved=77_000_000_000),
            (Cache.CONFIGURATION, None): Counts(hits=5555),
        },
        now=now,
    )


def page(user: User) -> str:
    response = client_of(user).get(reverse("admin:providers_caches"))
    assert response.status_code == 200
    return response.content.decode()


def forget(user: User, **data: str) -> Any:
    form = {"cache": "responses", "agent": "*", "model": "*", "reason": "Prices changed.", **data}
    return client_of(user).post(reverse("admin:providers_caches"), form, follow=True)


def test_it_shows_use_and_savings_to_those_who_see_costs(kept: None, viewer: User) -> None:
    text = page(viewer)
    for said in ("Acme", "75%", "$2.50", ">30<", ">10<", ">4<"):
        assert said in text
    for hidden in ("Rival", "$77", ">111<", "5,555", "Configuration", 'id="forget"'):
        assert hidden not in text


def test_an_outsider_sees_nothing_of_it(kept: None, outsider: User) -> None:  # A5
    text = page(outsider)
    assert "Rival" in text
    assert "Acme" not in text
    assert "$2.50" not in text


def test_platform_admins_see_all_of_it_in_a_fixed_number_of_queries(kept: None, platform_admin: User) -> None:
    text = page(platform_admin)
    for said in ("Acme", "Rival", "$79.50", "5,555", "Configuration"):
        assert said in text
    client = client_of(platform_admin)
    with CaptureQueriesContext(connection) as queries:
        client.get(reverse("admin:providers_caches"))
    assert len(queries) <= 12


def test_people_without_any_costs_do_not_open_it(kept: None, acme: Tenant) -> None:
    user = User.objects.create(username="compliance")
    user.memberships.create(tenant=acme, role="compliance")
    assert client_of(user).get(reverse("admin:providers_caches")).status_code == 403


def test_forgetting_is_asked_first_then_done_and_audited(kept: None, acme: Tenant, owner: User) -> None:
    asked = forget(owner, tenant=str(acme.pk), agent="wor*")
    assert "1 answer will be forgotten: Acme, agents wor*, models *." in asked.content.decode()
    assert CachedAnswer.objects.count() == 3
    done = forget(owner, tenant=str(acme.pk), agent="wor*", confirmed="yes")
    assert "1 answer forgotten." in done.content.decode()
    assert set(CachedAnswer.objects.values_list("key", flat=True)) == {"a2", "r1"}
    entry = AuditEntry.objects.get(action="cache:invalidate")
    assert (entry.actor, entry.tenant_id, entry.reason) == (str(owner.pk), acme.pk, "Prices changed.")


@pytest.mark.parametrize("confirmed", [{}, {"confirmed": "yes"}])
def test_nobody_forgets_what_is_not_theirs(
    kept: None, acme: Tenant, rival: Tenant, owner: User, viewer: User, confirmed: dict[str, str]
) -> None:  # A5
    assert forget(viewer, tenant=str(acme.pk), **confirmed).status_code == 403
    for tenant in (str(rival.pk), "*"):
        assert "Select a valid choice" in forget(owner, tenant=tenant, **confirmed).content.decode()
    assert "Select a valid choice" in forget(owner, tenant=str(acme.pk), cache="configuration").content.decode()
    assert CachedAnswer.objects.count() == 3


def test_what_is_no_pattern_is_said_beside_the_field(kept: None, acme: Tenant, owner: User) -> None:
    text = forget(owner, tenant=str(acme.pk), agent="a b", reason="", confirmed="yes").content.decode()
    assert "The pattern of the agent is text with * and ?" in text
    assert "This field is required." in text
    assert CachedAnswer.objects.count() == 3


def test_platform_admins_forget_all_and_have_the_configuration_read_anew(kept: None, platform_admin: User) -> None:
    make_provider("east")
    done = forget(platform_admin, tenant="*", cache="configuration", model="simu*", confirmed="yes")
    assert "Every process reads it anew: simulated." in done.content.decode()
    nothing = forget(platform_admin, tenant="*", cache="configuration", model="other", confirmed="yes")
    assert "Nothing was forgotten. There is no enabled provider" in nothing.content.decode()
    assert CachedAnswer.objects.count() == 3
    assert "3 answers forgotten." in forget(platform_admin, tenant="*", confirmed="yes").content.decode()
    assert AuditEntry.objects.filter(action="cache:invalidate").count() == 2


def told(*arguments: str) -> str:
    out = StringIO()
    call_command("invalidate_cache", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_the_command_is_dry_unless_told_otherwise(kept: None) -> None:
    assert told("acme/*/*").startswith("2 answers would be forgotten.\nDry run")
    assert CachedAnswer.objects.count() == 3
    assert told("acme/*/simulated:*", "--wet-run", "--reason", "Wrong.") == "2 answers forgotten.\n"
    assert set(CachedAnswer.objects.values_list("key", flat=True)) == {"r1"}
    entry = AuditEntry.objects.get(action="cache:invalidate")
    assert (entry.actor, entry.reason) == ("invalidate_cache", "Wrong.")
    make_provider("east")
    assert "of simulated would be read anew" in told("*", "--cache", "configuration")
    assert "of simulated is read anew" in told("sim*", "--cache", "configuration", "--wet-run")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["acme"], "A pattern is TENANT/AGENT/PROVIDER:MODEL"),
        (["nobody/*/*"], "There is no tenant 'nobody'"),
        (["none", "--cache", "configuration"], "There is no enabled provider 'none'"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(kept: None, arguments: list[str], words: str) -> None:
    with pytest.raises(CommandError, match=words) as refusal:
        told(*arguments)
    assert refusal.value.returncode == 2


def test_the_job_removes_what_is_over(kept: None) -> None:
    CachedAnswer.objects.filter(key="a1").update(expires_at=timezone.now())
    CacheUsage.objects.filter(cache="configuration").update(starts_at=timezone.now() - cache_usage.KEPT * 2)
    assert prune_caches() == {"answers": 1, "usage": 1, "orders": 0}
    assert CachedAnswer.objects.count() == 2
