"""Identity providers, who people are there, and which of their groups give which role."""

from __future__ import annotations

import datetime as dt
from fnmatch import fnmatchcase
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from apps.tenants.models.tenant import Tenant
from apps.tenants.models.user import User
from apps.tenants.roles import Role
from portal import env
from portal.encryption import EncryptedTextField
from portal.ids import uuid7

PAUSE_AFTER_FAILURE = dt.timedelta(seconds=30)
"""How long a provider that did not answer is left alone, so that it delays one login and not every one."""
KEPT_FOR = dt.timedelta(days=1)
"""How old a copy of what a provider publishes may be, when it cannot be fetched anew."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def validate_issuer(url: str) -> None:
    """Raises ValidationError unless ``url`` is an https:// address (http:// on this machine only)."""
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.query or parts.fragment:
        raise ValidationError("This is not the address of an issuer, such as https://login.example.com/realms/desk.")
    if parts.username or parts.password:
        raise ValidationError("Names and passwords do not belong into an issuer's address.")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValidationError("An issuer must be reached by https://: whoever reads along could log in as anybody.")


class IdentityProviders(models.QuerySet["IdentityProvider"]):
    """Questions about providers."""

    def offered(self) -> IdentityProviders:
        """Those that people may log in with, in order. That of the environment only while it is named there."""
        of_environment = Q(from_environment=True, issuer=settings.OIDC_ISSUER)
        return self.filter(Q(from_environment=False) | of_environment, is_active=True).order_by("order", "name")


class IdentityProvider(models.Model):
    """An OpenID provider that vouches for people.

    ``discovery`` and ``keys`` are the last good copies of what it publishes; ``paused_until`` is set when it did not
    answer.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(unique=True, help_text="Its part in addresses: /login/with/SLUG/.")
    name = models.CharField(max_length=60, help_text='On the button: "Log in with NAME".')
    issuer = models.CharField(max_length=255, unique=True, validators=[validate_issuer])
    client_id = models.CharField(max_length=255)
    stored_secret = EncryptedTextField(
        "client secret",
        blank=True,
        default="",
        help_text="Kept encrypted. Empty: in a variable, or a public client.",
    )
    client_secret_variable = models.CharField(
        max_length=80,
        blank=True,
        # Not any variable: its value is sent to the provider.
        validators=[RegexValidator(r"^OIDC_[A-Z0-9_]+\Z", "It must start with OIDC_, in capitals.")],
        help_text="Instead of storing it: the environment variable that holds it (also as NAME_FILE).",
    )
    scopes = models.CharField(max_length=255, default="openid profile email")
    groups_claim = models.CharField(
        max_length=100, default="groups", help_text="Where the groups are. Dots lead into objects: realm_access.roles."
    )
    creates_accounts = models.BooleanField(
        default=True, help_text="Whoever has a role by a rule gets an account at the first login."
    )
    session_hours = models.PositiveSmallIntegerField(
        default=12,
        validators=[MinValueValidator(1), MaxValueValidator(24 * 30)],
        help_text="A login ends after so many hours, and groups are read again at the next one.",
    )
    order = models.PositiveSmallIntegerField(default=1, help_text="The lowest is offered and tried first.")
    is_active = models.BooleanField(
        default=True, help_text="While it is off, nobody logs in with it, and the sessions it opened end."
    )
    from_environment = models.BooleanField(default=False, editable=False)
    filled_rules = models.JSONField(default=list, editable=False)
    """Entries of OIDC_GROUP_ROLES that were made rules once: those that people removed stay away."""
    discovery = models.JSONField(null=True, editable=False)
    discovered_at = models.DateTimeField(null=True, editable=False)
    keys = models.JSONField(null=True, editable=False)
    keys_at = models.DateTimeField(null=True, editable=False)
    paused_until = models.DateTimeField(null=True, editable=False)
    last_error = models.CharField(max_length=200, blank=True, editable=False)

    objects = IdentityProviders.as_manager()

    class Meta:
        ordering: ClassVar = ["order", "name"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["from_environment"], condition=Q(from_environment=True), name="one_provider_of_environment"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def client_secret(self) -> str:
        """The client's secret, or nothing for a public client. Raises CannotOpen.

        A variable is read each time: a mounted file may change.
        """
        if self.client_secret_variable:
            return env.text(self.client_secret_variable)
        return self.stored_secret.reveal() if self.stored_secret else ""

    @property
    def known_issuer(self) -> str:
        """The issuer as its tokens say it, which may differ from the configured one by a slash at the end."""
        said = str((self.discovery or {}).get("issuer", ""))
        return said if said.rstrip("/") == self.issuer.rstrip("/") else self.issuer

    def is_paused(self, now: dt.datetime) -> bool:
        """Whether it failed to answer a moment ago."""
        return self.paused_until is not None and self.paused_until > now

    def note_failure(self, error: str, *, now: dt.datetime) -> None:
        """It did not answer as it should: it is left alone for a while."""
        self._note(paused_until=now + PAUSE_AFTER_FAILURE, last_error=error[:200])

    def note_discovery(self, document: dict[str, Any], *, now: dt.datetime) -> None:
        """Keeps what it publishes about itself."""
        self._note(discovery=document, discovered_at=now, paused_until=None, last_error="")

    def note_keys(self, keys: dict[str, Any], *, now: dt.datetime) -> None:
        """Keeps the keys that it signs with."""
        self._note(keys=keys, keys_at=now, paused_until=None, last_error="")

    def _note(self, **facts: Any) -> None:
        """Only these columns: the row may be open in the admin."""
        type(self).objects.filter(pk=self.pk).update(**facts)
        for name, value in facts.items():
            setattr(self, name, value)


class Match(models.TextChoices):
    """How a rule's group is compared."""

    EXACT = "exact", "is exactly"
    GLOB = "glob", "matches the pattern"


class GroupRule(models.Model):
    """Members of a group at the provider have a role in a tenant."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.ForeignKey(IdentityProvider, on_delete=models.CASCADE, related_name="rules")
    match = models.CharField(max_length=5, choices=Match, default=Match.EXACT)
    group = models.CharField(max_length=255, help_text="As the provider says it. In patterns, * is any text.")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="group_rules")
    role = models.CharField(max_length=20, choices=Role)

    class Meta:
        ordering: ClassVar = ["group", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["provider", "match", "group", "tenant", "role"], name="one_rule_per_grant")
        ]

    def __str__(self) -> str:
        return f"{self.group} is {self.role} of {self.tenant}"

    def matches(self, group: str) -> bool:
        """Whether a group is the one meant; capitals matter, as they do for most providers."""
        return fnmatchcase(group, self.group) if self.match == Match.GLOB else group == self.group


class Identity(models.Model):
    """Who a user is at a provider: the issuer's name for the person, which it never gives to somebody else.

    An e-mail address is not an identity. Whoever can put somebody else's address into an account at any of the
    providers (many let people type it) would take over that person's account here, and an address that was given to a
    new employee would open the old one's account.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="identities")
    provider = models.ForeignKey(IdentityProvider, on_delete=models.PROTECT, related_name="identities")
    issuer = models.CharField(max_length=255, editable=False)
    subject = models.CharField(max_length=255, help_text='The claim "sub" of the person\'s tokens.')
    created_at = models.DateTimeField(auto_now_add=True)
    last_login_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        verbose_name_plural = "identities"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["issuer", "subject"], name="one_user_per_identity"),
        ]

    def __str__(self) -> str:
        return f"{self.user} at {self.provider}"
