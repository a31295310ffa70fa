"""Who is behind a request: by password and session, or by the token of the REST API."""

from __future__ import annotations

import datetime as dt
import uuid
from hmac import compare_digest
from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.db import models
from django.utils import timezone
from knox.auth import TokenAuthentication as KnoxTokenAuthentication
from knox.crypto import hash_token
from knox.settings import CONSTANTS
from rest_framework.exceptions import AuthenticationFailed

from apps.tenants.access import those_who_may_enter
from apps.tenants.models import ApiToken, User
from apps.tenants.standing import tokens_that_start
from apps.tenants.token_text import is_whole
from portal.database.prepared import Prepared

_FIELDS = [field.attname for field in User._meta.concrete_fields]


def _entering(user: uuid.UUID, now: dt.datetime) -> models.QuerySet[Any, Any]:
    return those_who_may_enter(User.objects.filter(pk=user), now=now).values_list(*_FIELDS)


_ENTERING = Prepared(_entering, user=uuid.UUID, now=dt.datetime)


class LocalBackend(ModelBackend):
    """Accounts with a password of their own. They need no provider, so they open when every provider is down."""

    def get_user(self, user_id: Any) -> User | None:
        """The user of a session, for as long as they are active and have a role."""
        for row in _ENTERING.rows(user=user_id, now=timezone.now()):
            return User.from_db("default", _FIELDS, row)
        return None


class TokenAuthentication(KnoxTokenAuthentication):
    """``Authorization: Bearer TOKEN``.

    One query, where Knox reads all tokens of the user, and it brings what the token may do as well. An expired token
    stays in the table, so that its owner is told when it expired and the admin still shows it.
    """

    def authenticate_credentials(self, token: bytes) -> tuple[User, ApiToken]:
        """The user and the token row; AuthenticationFailed says what is wrong with the token."""
        text = token.decode("utf-8", errors="replace")
        if not (text.isascii() and text.isprintable()):
            raise AuthenticationFailed("This is not a token: it has characters that no token has.")
        if not is_whole(text):
            raise AuthenticationFailed("This is not a token: it is cut off, mistyped, or something else.")
        digest, now = hash_token(text), timezone.now()
        for row in tokens_that_start(text[: CONSTANTS.TOKEN_KEY_LENGTH], now=now):
            if compare_digest(digest, row.digest):
                return self._admit(row, now)
        raise AuthenticationFailed("This token is not known; it may have been revoked.")

    def _admit(self, token: ApiToken, now: dt.datetime) -> tuple[User, ApiToken]:
        if token.has_expired(now=now):
            raise AuthenticationFailed(f"This token expired on {token.expiry:%Y-%m-%d at %H:%M} UTC.")
        if not token.user.is_active:
            raise AuthenticationFailed("The user of this token is not active.")
        token.note_use(now=now)
        return token.user, token
