"""Tokens with which programs act for people."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils import timezone
from knox.crypto import hash_token
from knox.models import AbstractAuthToken, AuthTokenManager
from knox.settings import CONSTANTS, knox_settings

from apps.tenants.models.tenant import Tenant
from apps.tenants.models.user import User
from apps.tenants.roles import Role
from apps.tenants.token_text import new_text
from portal.ids import uuid7

LIFE: dt.timedelta = knox_settings.TOKEN_TTL
USE_NOTED_EVERY = dt.timedelta(minutes=1)


class ApiTokenManager(AuthTokenManager):
    """Makes tokens as Knox does, with a text of our own."""

    def create(self, user: User, expiry: dt.timedelta = LIFE, **fields: Any) -> tuple[ApiToken, str]:
        """A token's row, and its text, which is kept nowhere. ``expiry`` counts from now."""
        text = new_text()
        digest, start = hash_token(text), text[: CONSTANTS.TOKEN_KEY_LENGTH]
        row = ApiToken(user=user, digest=digest, token_key=start, expiry=timezone.now() + expiry, **fields)
        row.save(force_insert=True)
        return row, text


class ApiToken(AbstractAuthToken):
    """A token for the REST API: kept as a hash, bound to one tenant, and to one role unless empty.

    An empty role means every role its user has in that tenant, at the moment of use; ``permissions``, when there are
    any, are all that is left of them.
    """

    uid = models.UUIDField(unique=True, default=uuid7, editable=False, help_text="What the API knows it by.")
    name = models.CharField(max_length=100, blank=True, help_text="What it is for.")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_tokens")
    role = models.CharField(max_length=20, choices=Role, blank=True)
    permissions = ArrayField(models.CharField(max_length=40), default=list, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ApiTokenManager()

    def __str__(self) -> str:
        return f"{self.token_key}… of {self.user}"

    def has_expired(self, *, now: dt.datetime) -> bool:
        """Whether its time is over. Without an expiry it never is."""
        return self.expiry is not None and self.expiry <= now

    def note_use(self, *, now: dt.datetime) -> bool:
        """Keeps when it was last used, to the minute: whether this use was written."""
        stale = now - USE_NOTED_EVERY
        if self.last_used_at is not None and self.last_used_at > stale:
            return False
        # The condition again, for requests that read the row together: one of them writes.
        unnoted = Q(last_used_at__isnull=True) | Q(last_used_at__lte=stale)
        noted = bool(ApiToken.objects.filter(unnoted, pk=self.pk).update(last_used_at=now))
        self.last_used_at = now
        return noted
