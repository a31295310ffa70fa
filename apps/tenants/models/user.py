"""People who log in."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.db import models

from portal.ids import uuid7


class User(AbstractUser):  # type: ignore[django-manager-missing]
    """A person who logs in. A superuser is a platform admin: every tenant, every permission."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
