"""Webhooks over the API: made, changed, tested, rotated and ended; deliveries read and repeated; by whom."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from apps.api.models import IdempotencyKey
from apps.audit.models import AuditEntry
from apps.tenants.models import Tenant, User
from apps.webhooks.models import Delivery, DeliveryAttempt, Webhook
from apps.webhooks.policies import Answer
from tests.api_client import V1, Caller, attrs, is_refusal
from tests.test_webhook_addresses import LOOPBACK
from tests.webhooks import due, hook_of

pytestmark = pytest.mark.django_db
HERE = "http://127.0.0.1:9/hooks"
NEW = {"tenant": "acme", "name": "billing", "url": HERE, "events": ["budget.alert"]}


@pytest.fixture(autouse=True)
def _loopback_is_allowed(settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = [LOOPBACK]


@pytest.fixture
def hook(acme: Tenant) -> Webhook:
    return hook_of(acme, HERE)


def test_a_developer_makes_changes_and_ends_a_webhook(developer: User) -> None:
    call = Caller(developer)
    made = call.post("/webhooks/", NEW)
    assert made.status_code == 201
    body = made.json()
    path = f"/webhooks/{body['id']}/"
    assert made.headers["Location"] == V1 + path
    assert body["secret"].startswith("whsec_")
    assert Webhook.objects.get().signing_secret.reveal() == body["secret"]
    (listed,) = call.get("/webhooks/").json()["results"]
    assert "secret" not in listed
    read = call.get(path)
    assert read.json() == listed
    assert call.get(path, If_None_Match=read.headers["ETag"]).status_code == 304
    changed = call("PATCH", path, {"name": "all", "events": []})
    assert (changed.json()["name"], changed.json()["events"], changed.json()["url"]) == ("all", [], HERE)
    assert call("DELETE", path).status_code == 204
    assert is_refusal(call.get(path), 404)
    acts = list(AuditEntry.objects.order_by("id").values_list("action", "details__act"))
    assert acts[-3:] == [("webhook:manage", act) for act in ("create", "change", "delete")]


def test_a_secret_is_told_once(developer: User) -> None:
    call = Caller(developer)
    first = call.post("/webhooks/", NEW, Idempotency_Key="k")
    again = call.post("/webhooks/", NEW, Idempotency_Key="k")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == {**first.json(), "secret": None}
    assert first.json()["secret"] not in str(IdempotencyKey.objects.values_list("body", flat=True))
    path = f"/webhooks/{first.json()['id']}/rotate/"
    rotated = call.post(path, {}, Idempotency_Key="r")
    assert rotated.status_code == 200
    assert rotated.json()["secret"] not in (None, first.json()["secret"])
    assert rotated.json()["previous_secret_until"]
    assert call.post(path, {}, Idempotency_Key="r").json()["secret"] is None
    hook = Webhook.objects.get()
    assert hook.secrets(now=timezone.now()) == [rotated.json()["secret"], first.json()["secret"]], "rotated once"


def test_a_webhook_is_disabled_and_enabled(developer: User, hook: Webhook) -> None:
    call, path = Caller(developer), f"/webhooks/{hook.pk}/"
    off = call("PATCH", path, {"enabled": False, "reason": "maintenance"}).json()
    assert (off["status"], off["disabled_cause"], off["disabled_reason"]) == ("disabled", "person", "maintenance")
    assert call("PATCH", path, {"enabled": False}).json() == off, "asked again, nothing changes"
    refused = call.post(f"{path}test/")
    assert is_refusal(refused, 409)
    assert "enable it first" in refused.json()["errors"][0]["detail"]
    assert [row["id"] for row in call.get("/webhooks/?enabled=false").json()["results"]] == [str(hook.pk)]
    assert call("PATCH", path, {"enabled": True}).json()["status"] == "enabled"
    assert call.get("/webhooks/?enabled=false&tenant=acme").json()["results"] == []


@pytest.mark.parametrize(
    ("change", "blames"),
    [
        ({"name": ""}, {"name"}),
        ({"name": "taken"}, {"non_field_errors"}),
        ({"url": "https://169.254.169.254/latest/"}, {"url"}),
        ({"url": "http://1.1.1.1/"}, {"url"}),
        ({"url": "javascript:alert(1)", "events": ["swarm.failed"]}, {"url"}),
        ({"events": ["swarm.exploded"]}, {"events.0"}),
        ({"events": "swarm.failed"}, {"events"}),
        ({"tenant": "rival"}, {"tenant"}),
        ({"secret": "mine"}, {"secret"}),
    ],
)
def test_a_wrong_body_is_told_where(
    developer: User, rival: Tenant, hook: Webhook, change: dict[str, Any], blames: set[str]
) -> None:
    hook_of(hook.tenant, HERE, "taken")
    call = Caller(developer)
    made = call.post("/webhooks/", {**NEW, **change})
    assert is_refusal(made, 400)
    assert attrs(made) == blames
    if "tenant" not in change:
        changed = call("PATCH", f"/webhooks/{hook.pk}/", change)
        assert is_refusal(changed, 400)
        assert attrs(changed) == blames
    assert set(Webhook.objects.values_list("name", "url")) == {("hook", HERE), ("taken", HERE)}


def test_deliveries_are_read_and_repeated(developer: User, hook: Webhook) -> None:
    call = Caller(developer)
    sent = call.post(f"/webhooks/{hook.pk}/test/")
    assert sent.status_code == 201
    path = f"/deliveries/{sent.json()['id']}/"
    assert sent.headers["Location"] == V1 + path
    assert is_refusal(call.post(f"{path}repeat/"), 409)
    delivery = Delivery.objects.get()
    now = timezone.now()
    delivery.tries = delivery.attempts = 1
    delivery.conclude(Answer(500, 0.2, "sorry"), now=now, roll=0)
    delivery.save()
    DeliveryAttempt.of(delivery.pk, 1, Answer(500, 0.2, "sorry"), now=now).save()
    told = call.get(path).json()
    assert (told["status"], told["event"], told["webhook"]) == ("failed", "webhook.ping", str(hook.pk))
    assert told["body"] == delivery.body
    assert [(each["number"], each["status_code"], each["answer"]) for each in told["tried"]] == [(1, 500, "sorry")]
    again = call.post(f"{path}repeat/")
    assert (again.status_code, again.json()["status"], again.json()["id"]) == (200, "pending", told["id"])


def test_the_list_of_deliveries_is_narrowed_and_paged(developer: User, hook: Webhook) -> None:
    due(hook, 5)
    Delivery.objects.filter(event_id__in=[1, 2]).update(
        status="delivered", next_at=None, finished_at=timezone.now(), kind="swarm.failed"
    )
    call, path = Caller(developer), f"/webhooks/{hook.pk}/deliveries/"
    first = call.get(f"{path}?page_size=3").json()
    assert [row["event_id"] for row in first["results"]] == [5, 4, 3]
    assert [row["event_id"] for row in call.get(first["next"]).json()["results"]] == [2, 1]
    assert [row["event_id"] for row in call.get(f"{path}?status=delivered").json()["results"]] == [2, 1]
    assert len(call.get(f"{path}?event=task.succeeded&status=pending").json()["results"]) == 3
    assert attrs(call.get(f"{path}?status=lost")) == {"status"}


def doors(hook: Webhook, delivery: Delivery) -> list[tuple[str, str, Any]]:
    at = f"/webhooks/{hook.pk}/"
    return [
        ("GET", at, None),
        ("PATCH", at, {"name": "mine"}),
        ("DELETE", at, None),
        ("POST", f"{at}rotate/", {}),
        ("POST", f"{at}test/", {}),
        ("GET", f"{at}deliveries/", None),
        ("GET", f"/deliveries/{delivery.pk}/", None),
        ("POST", f"/deliveries/{delivery.pk}/repeat/", {}),
    ]


def test_the_outsider_and_who_may_not_manage_webhooks_find_nothing(
    hook: Webhook, outsider: User, viewer: User, operator: User, finance: User
) -> None:
    (delivery,) = due(hook)
    before = list(Webhook.objects.values("name", "is_enabled", "previous_until"))
    for user in (outsider, viewer, operator, finance):
        call = Caller(user)
        assert call.get("/webhooks/").json()["results"] == []
        for method, path, body in doors(hook, delivery):
            assert is_refusal(call(method, path, body), 404), (user.username, method, path)
    assert is_refusal(Caller(viewer).post("/webhooks/", NEW), 403)
    assert attrs(Caller(outsider).post("/webhooks/", NEW)) == {"tenant"}
    for method, path, _ in doors(hook, delivery):
        assert getattr(Client(), method.lower())(V1 + path).status_code == 401
    assert list(Webhook.objects.values("name", "is_enabled", "previous_until")) == before
    assert Delivery.objects.count() == 1


def test_lists_take_a_fixed_number_of_queries(
    developer: User, acme: Tenant, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    call = Caller(developer)
    for n in range(3):
        due(hook_of(acme, HERE, f"hook {n}"), 5, at=timezone.now() - dt.timedelta(seconds=n))
    hook = Webhook.objects.earliest("pk")
    call.get("/webhooks/")  # the token's last use is noted once a minute
    for path, most in (
        ("/webhooks/", 2),
        (f"/webhooks/{hook.pk}/", 2),
        (f"/webhooks/{hook.pk}/deliveries/", 3),
        (f"/deliveries/{Delivery.objects.earliest('pk').pk}/", 3),
    ):
        with django_assert_max_num_queries(most):
            assert call.get(path).status_code == 200
