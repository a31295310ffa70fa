"""Webhooks and deliveries in the administration, through its URLs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.tenants.models import Tenant, User
from apps.webhooks.models import Delivery, DeliveryAttempt, Webhook
from tests.test_admin_pages import client_of, url
from tests.test_webhook_addresses import LOOPBACK
from tests.webhooks import due, hook_of

pytestmark = pytest.mark.django_db
HERE = "http://127.0.0.1:9/hooks"


@pytest.fixture(autouse=True)
def _loopback_is_allowed(settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = [LOOPBACK]


@pytest.fixture
def hook(acme: Tenant) -> Webhook:
    return hook_of(acme, HERE)


@pytest.fixture
def client(developer: User) -> Client:
    return client_of(developer)


def act(name: str, hook: Any) -> str:
    model = hook._meta.model_name
    return reverse(f"admin:webhooks_{model}_{name}", args=[hook.pk])


def said(response: Any) -> str:
    return re.sub(r"\s+", " ", response.content.decode())


def over(hook: Webhook, status: str = "failed") -> Delivery:
    """A delivery that is over, with its one attempt."""
    (delivery,) = due(hook)
    Delivery.objects.filter(pk=delivery.pk).update(
        status=status, next_at=None, finished_at=timezone.now(), attempts=1, tries=1
    )
    DeliveryAttempt.objects.create(delivery=delivery, number=1, status_code=503, seconds=0.25, text="busy <b>")
    return Delivery.objects.get(pk=delivery.pk)


def test_a_webhook_is_made_and_its_secret_shown_once(client: Client, acme: Tenant) -> None:
    form = {"tenant": str(acme.pk), "name": "billing", "url": HERE, "kinds": ["budget.alert", "swarm.failed"]}
    response = client.post(url(Webhook, "add"), form)
    hook = Webhook.objects.get()
    secret = hook.signing_secret.reveal()
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    assert secret in said(response)
    assert (hook.name, hook.url, hook.kinds) == ("billing", HERE, ["budget.alert", "swarm.failed"])
    for page in (url(Webhook, "changelist"), url(Webhook, "change", hook.pk)):
        assert "whsec_" not in said(client.get(page))
    (entry,) = AuditEntry.objects.all()
    assert (entry.action, entry.details["act"]) == ("webhook:manage", "create")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"url": "https://10.0.0.1/"}, "cannot be reached from here"),
        ({"url": ""}, "This field is required"),
        ({"name": "hook"}, "already exists"),
        ({"kinds": ["swarm.exploded"]}, "not one of the available choices"),
    ],
)
def test_what_is_wrong_with_the_form_is_said(client: Client, hook: Webhook, wrong: dict[str, Any], says: str) -> None:
    form = {"tenant": str(hook.tenant_id), "name": "billing", "url": HERE, "kinds": [], **wrong}
    response = client.post(url(Webhook, "add"), form)
    assert says in said(response)
    assert Webhook.objects.count() == 1


def test_a_webhook_is_changed_and_the_change_audited(client: Client, hook: Webhook) -> None:
    form = {"name": "renamed", "url": HERE, "kinds": ["swarm.failed"]}
    assert client.post(url(Webhook, "change", hook.pk), form).status_code == 302
    hook.refresh_from_db()
    assert (hook.name, hook.kinds) == ("renamed", ["swarm.failed"])
    entry = AuditEntry.objects.latest("id")
    assert entry.details == {"act": "change", "name": ["hook", "renamed"], "kinds": [[], ["swarm.failed"]]}
    assert entry.actor_kind == "user"


def test_the_buttons_say_what_they_do_and_do_it(client: Client, hook: Webhook) -> None:
    page = said(client.get(url(Webhook, "change", hook.pk)))
    assert "Disable…" in page
    assert "Enable…" not in page
    asked = client.get(act("disable_one", hook))
    assert "Nothing is sent until it is enabled again" in said(asked)
    assert client.post(act("disable_one", hook), {}).status_code == 200, "it asks why"
    assert client.post(act("disable_one", hook), {"reason": "maintenance"}).status_code == 302
    page = said(client.get(url(Webhook, "change", hook.pk)))
    assert "Disabled by a person" in page
    assert "maintenance" in page
    assert client.post(act("enable_one", hook)).status_code == 302
    assert client.post(act("ping_one", hook)).status_code == 302
    assert Delivery.objects.get().kind == "webhook.ping"
    rotated = client.post(act("rotate_one", hook))
    fresh = Webhook.objects.get()
    assert fresh.signing_secret.reveal() in said(rotated)
    assert "no-store" in rotated["Cache-Control"]
    assert fresh.previous_secret == hook.signing_secret
    assert client.get(act("delete_one", hook)).status_code == 200
    assert Webhook.objects.exists(), "nothing changes on a GET"
    gone = client.post(act("delete_one", hook), {"reason": "not needed"})
    assert gone["Location"] == url(Webhook, "changelist")
    told = list(AuditEntry.objects.order_by("id").values_list("details__act", "reason"))
    assert told[1:] == [
        ("disable", "maintenance"), ("enable", ""), ("ping", ""), ("rotate", ""), ("delete", "not needed"),
    ]  # fmt: skip


def test_lists_act_on_what_is_chosen(client: Client, hook: Webhook) -> None:
    other = hook_of(hook.tenant, HERE, "other")
    page = url(Webhook, "changelist")
    chosen = {"_selected_action": [str(hook.pk), str(other.pk)]}
    client.post(page, {"action": "disable_chosen", "confirmed": "yes", "reason": "move", **chosen})
    assert not Webhook.objects.filter(is_enabled=True).exists()
    told = said(client.post(page, {"action": "ping_chosen", **chosen}, follow=True))
    assert "enable it first" in told
    assert "2 webhooks enabled." in said(client.post(page, {"action": "enable_chosen", **chosen}, follow=True))
    first, second = over(hook), over(hook, "delivered")
    chosen = {"_selected_action": [str(first.pk), str(second.pk)]}
    told = said(client.post(url(Delivery, "changelist"), {"action": "repeat_chosen", **chosen}, follow=True))
    assert "2 deliveries to be sent again." in told
    assert set(Delivery.objects.values_list("status", flat=True)) == {"pending"}


def test_a_delivery_shows_what_was_sent_and_what_came_back(client: Client, hook: Webhook) -> None:
    delivery = over(hook)
    page = said(client.get(url(Delivery, "change", delivery.pk)))
    for words in (str(delivery.pk), "503", "250 ms", "busy &lt;b&gt;", "task.succeeded", "Send again…"):
        assert words in page
    assert client.post(act("repeat_one", delivery)).status_code == 302
    page = said(client.get(url(Delivery, "change", delivery.pk)))
    assert "Send again…" not in page


@pytest.mark.parametrize(
    ("query", "names"), [("state=enabled", {"hook"}), ("state=failing", {"bad"}), ("state=disabled", {"off"})]
)
def test_webhooks_are_filtered_by_how_they_fare(client: Client, hook: Webhook, query: str, names: set[str]) -> None:
    now = timezone.now()
    bad, off = hook_of(hook.tenant, HERE, "bad"), hook_of(hook.tenant, HERE, "off")
    Webhook.objects.filter(pk=bad.pk).update(failures=2, failing_since=now)
    off.disable(cause="gone", reason="The receiver answered 410 Gone.", now=now)
    off.save()
    page = said(client.get(f"{url(Webhook, 'changelist')}?{query}"))
    assert {name for name in ("hook", "bad", "off") if re.search(rf">\s*{name}\s*</a>", page)} == names
    assert "Webhooks in trouble" in said(client.get("/admin/"))


def test_the_outsider_reaches_no_act(hook: Webhook, outsider: User, viewer: User) -> None:
    delivery = over(hook)
    for person in (outsider, viewer):
        client = client_of(person)
        for name in ("ping_one", "enable_one", "disable_one", "delete_one", "rotate_one"):
            assert client.post(act(name, hook), {"reason": "x"}).status_code in (302, 403, 404), name
        assert client.post(act("repeat_one", delivery)).status_code in (302, 403, 404)
        for model, row in ((Webhook, hook), (Delivery, delivery)):
            assert client.get(url(model, "change", row.pk)).status_code in (302, 403, 404)
    same = Webhook.objects.get()
    assert (same.is_enabled, same.previous_secret) == (True, None)
    assert Delivery.objects.get().status == "failed"
    assert AuditEntry.objects.filter(success=True).count() == 1, "only its making"
