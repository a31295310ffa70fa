"""What can be done to webhooks and deliveries from the administration; pages that ask are those of swarms."""

from __future__ import annotations

from apps.swarms.admin_acts import Act
from apps.tenants.roles import Permission
from apps.webhooks import actions

ENABLE = Act(
    "enable",
    "enabled",
    Permission.WEBHOOK_MANAGE,
    lambda hook: hook.verify_enable(),
    lambda hook, by, reason: actions.enable_webhook(hook, by=by),
    "What waited is sent, and what happens from now on. What happened while it was disabled is not told.",
)
DISABLE = Act(
    "disable",
    "disabled",
    Permission.WEBHOOK_MANAGE,
    lambda hook: hook.verify_disable(),
    lambda hook, by, reason: actions.disable_webhook(hook, by=by, reason=reason),
    "Nothing is sent until it is enabled again, and what happens meanwhile is not told afterwards.",
    asks_reason=True,
    needs_reason=True,
    is_destructive=True,
)
DELETE = Act(
    "delete",
    "deleted",
    Permission.WEBHOOK_MANAGE,
    lambda hook: None,
    lambda hook, by, reason: actions.delete_webhook(hook, by=by, reason=reason),
    "It is gone with all its deliveries, and what waits is not sent. This cannot be undone.",
    asks_reason=True,
    needs_reason=True,
    is_destructive=True,
    ends_row=True,
)
PING = Act(
    "ping",
    "sent a ping",
    Permission.WEBHOOK_MANAGE,
    lambda hook: hook.verify_enabled(),
    lambda hook, by, reason: actions.ping(hook, by=by),
    "A message of type webhook.ping is sent, once. What came of it stands among its deliveries.",
)
REPEAT = Act(
    "repeat",
    "to be sent again",
    Permission.WEBHOOK_MANAGE,
    lambda delivery: delivery.verify_repeat(),
    lambda delivery, by, reason: actions.repeat_delivery(delivery, by=by),
    "It is sent again with the same id and the same body. Receivers that have it already can tell by the id.",
)
