"""Acts on webhooks and deliveries: each one transaction with its permission check and its audit entry."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from apps.audit import trail
from apps.events.log import NewEvent, emit
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from apps.webhooks import signing
from apps.webhooks.addresses import UrlRefused, verify_url
from apps.webhooks.kinds import PING, ping_body
from apps.webhooks.models import Delivery, DeliveryAttempt, Webhook
from portal.redaction import redacted

MOST_WEBHOOKS = 50
"""Of one tenant."""


def create_webhook(
    *, tenant: Tenant, name: str, url: str, kinds: Iterable[str] = (), by: Principal
) -> tuple[Webhook, str]:
    """Makes a webhook of a tenant; its row, and its signing secret, which is shown only this once.

    Without ``kinds`` it is told of all events. Raises AccessDenied, or ValidationError with every field that is wrong.
    """
    by.verify(Permission.WEBHOOK_MANAGE, tenant.pk)
    secret = signing.new_secret()
    hook = Webhook(tenant=tenant, name=name.strip(), url=url.strip(), kinds=list(kinds), signing_secret=secret)
    _validate(hook, check_url=True)
    with transaction.atomic():
        Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)  # so that two at once count right
        if Webhook.objects.filter(tenant=tenant).count() >= MOST_WEBHOOKS:
            raise ValidationError(f"A tenant has at most {MOST_WEBHOOKS} webhooks.")
        hook.validate_constraints()
        hook.save(force_insert=True)
        _write_down("create", hook, by=by, details=_facts(hook))
    return hook, secret


def change_webhook(
    hook: Webhook,
    *,
    by: Principal,
    name: str | None = None,
    url: str | None = None,
    kinds: Iterable[str] | None = None,
) -> Webhook:
    """Changes what is given; the webhook as it is now. What waits goes to the new URL.

    Raises AccessDenied, or ValidationError with every field that is wrong.
    """
    by.verify(Permission.WEBHOOK_MANAGE, hook.tenant_id)
    with transaction.atomic():
        locked = _locked(hook)
        before = {"name": locked.name, "url": locked.url, "kinds": locked.kinds}
        given = {
            "name": name and name.strip(),
            "url": url and url.strip(),
            "kinds": kinds if kinds is None else [*kinds],
        }
        for field, value in given.items():
            if value is not None:
                setattr(locked, field, value)
        _validate(locked, check_url=locked.url != before["url"])
        locked.validate_constraints()
        changed = [field for field in before if getattr(locked, field) != before[field]]
        if changed:
            locked.save(update_fields=changed)
            details = {field: [_told(before[field]), _told(getattr(locked, field))] for field in changed}
            _write_down("change", locked, by=by, details=details)
    return locked


def rotate_secret(hook: Webhook, *, by: Principal, now: dt.datetime | None = None) -> tuple[Webhook, str]:
    """Gives it a new signing secret; its row, and the secret, shown only this once. The old one signs for a day more.

    Raises AccessDenied.
    """
    by.verify(Permission.WEBHOOK_MANAGE, hook.tenant_id)
    with transaction.atomic():
        locked = _locked(hook)
        secret = locked.rotate(now=now or timezone.now())
        locked.save(update_fields=["signing_secret", "previous_secret", "previous_until"])
        _write_down("rotate", locked, by=by)
    return locked, secret


def enable_webhook(hook: Webhook, *, by: Principal, now: dt.datetime | None = None) -> Webhook:
    """Sends again, first what waited when it was disabled. Raises AccessDenied or CannotSend."""
    by.verify(Permission.WEBHOOK_MANAGE, hook.tenant_id)
    with transaction.atomic():
        locked = _locked(hook)
        locked.enable()
        _save_state(locked)
        _write_down("enable", locked, by=by)
        _tell("webhook.enabled", locked, now or timezone.now())
    return locked


def disable_webhook(hook: Webhook, *, by: Principal, reason: str = "", now: dt.datetime | None = None) -> Webhook:
    """Sends nothing more until it is enabled; what waits goes on waiting. Raises AccessDenied or CannotSend."""
    by.verify(Permission.WEBHOOK_MANAGE, hook.tenant_id)
    now = now or timezone.now()
    with transaction.atomic():
        locked = _locked(hook)
        locked.disable(cause="person", reason=reason, now=now)
        _save_state(locked)
        _write_down("disable", locked, by=by, reason=reason)
        _tell("webhook.disabled", locked, now, cause="person")
    return locked


def delete_webhook(hook: Webhook, *, by: Principal, reason: str = "") -> None:
    """Ends it with all its deliveries. Raises AccessDenied."""
    by.verify(Permission.WEBHOOK_MANAGE, hook.tenant_id)
    with transaction.atomic():
        locked = Webhook.objects.select_for_update().get(pk=hook.pk)
        rows = Delivery.objects.filter(webhook=locked)
        _write_down("delete", locked, by=by, reason=reason, details={**_facts(locked), "deliveries": rows.count()})
        DeliveryAttempt.objects.filter(delivery__webhook=locked).delete()
        rows._raw_delete(rows.db)  # type: ignore[attr-defined]
        locked.delete()


def ping(hook: Webhook, *, by: Principal, now: dt.datetime | None = None) -> Delivery:
    """Sends a message that tells of nothing, once, to see what comes back. Raises AccessDenied or CannotSend."""
    by.verify(Permission.WEBHOOK_MANAGE, hook.tenant_id)
    now = now or timezone.now()
    with transaction.atomic():
        locked = _locked(hook)
        locked.verify_enabled()
        body = ping_body(locked.tenant.slug, str(locked.pk), now=now)
        delivery = Delivery.objects.create(
            webhook=locked, tenant_id=locked.tenant_id, kind=PING, body=body, next_at=now, created_at=now
        )
        _write_down("ping", locked, by=by, details={"delivery": str(delivery.pk)})
    return delivery


def repeat_delivery(delivery: Delivery, *, by: Principal, now: dt.datetime | None = None) -> Delivery:
    """Sends a delivery that is over once more, with the same ``webhook-id``. Raises AccessDenied or CannotSend."""
    by.verify(Permission.WEBHOOK_MANAGE, delivery.tenant_id)
    with transaction.atomic():
        hook = _locked(delivery.webhook)
        locked = Delivery.objects.select_for_update(no_key=True).get(pk=delivery.pk)
        locked.webhook = hook
        locked.repeat(now=now or timezone.now())
        locked.save(update_fields=["status", "next_at", "finished_at", "tries"])
        _write_down("repeat", hook, by=by, details={"delivery": str(locked.pk), "event": locked.event_id})
    return locked


def _locked(hook: Webhook) -> Webhook:
    return Webhook.objects.select_for_update(no_key=True, of=("self",)).select_related("tenant").get(pk=hook.pk)


def _save_state(hook: Webhook) -> None:
    hook.save(
        update_fields=["is_enabled", "disabled_at", "disabled_cause", "disabled_reason", "failures", "failing_since"]
    )


def _validate(hook: Webhook, *, check_url: bool) -> None:
    problems: dict[str, list[str]] = {}
    try:
        hook.full_clean(validate_constraints=False)
    except ValidationError as error:
        problems.update({field: list(texts) for field, texts in error.message_dict.items()})
    if check_url and "url" not in problems:
        try:
            verify_url(hook.url)
        except UrlRefused as refusal:
            problems["url"] = [str(refusal)]
    if problems:
        raise ValidationError(problems)


def _facts(hook: Webhook) -> dict[str, Any]:
    return {"name": hook.name, "url": _told(hook.url), "kinds": list(hook.kinds)}


def _told(value: Any) -> Any:
    """As the trail keeps it: URLs of receivers can hold tokens."""
    return redacted(value) if isinstance(value, str) else value


def _write_down(
    act: str, hook: Webhook, *, by: Principal, reason: str = "", details: Mapping[str, Any] | None = None
) -> None:
    trail.record(
        by,
        Permission.WEBHOOK_MANAGE,
        hook,
        tenant_id=hook.tenant_id,
        reason=reason,
        details={"act": act, **(details or {})},
    )


def _tell(kind: str, hook: Webhook, now: dt.datetime, **data: str) -> None:
    emit([NewEvent(kind, hook.tenant_id, data={"webhook_id": str(hook.pk), **data})], now=now)
