"""Tokens with which programs act for people."""

from __future__ import annotations

import datetime as dt

from django.db import models
from django.db.models import Q
from knox.models import AbstractAuthToken

from apps.tenants.models.tenant import Tenant
from apps.tenants.roles import Role

USE_NOTED_EVERY = dt.timedelta(minutes=1)


class ApiToken(AbstractAuthToken):
    """A token for the REST API: kept as a hash, bound to one tenant, and to one role unless empty.

    An empty role means every role its user has in that tenant, at the moment of use.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_tokens")
    role = models.CharField(max_length=20, choices=Role, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

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
