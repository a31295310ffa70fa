"""Files that agents made, and the objects in storage that belong to none of them."""

from __future__ import annotations

import re
import unicodedata
import uuid
from typing import BinaryIO, ClassVar

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Func, Q
from django.utils import timezone

from apps.execution.artifacts.reading import open_artifact
from apps.swarms.models import Swarm, Task
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission, Resource
from portal.ids import uuid7

MAX_NAME = 255
MAX_MEDIA_TYPE = 127
_TOKEN = r"[a-z0-9][a-z0-9!#$&^_.+-]*"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}")
_TURNS_TEXT = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They show "exe.txt" where "txt.exe" is written."""


def clean_name(name: str) -> str:
    """The name of a file as it is kept: plain, or a relative path with ``/``. Raises ValueError with what is wrong."""
    name = unicodedata.normalize("NFC", name)
    if not name.strip():
        raise ValueError("A file needs a name.")
    if len(name) > MAX_NAME:
        raise ValueError(f"A file's name has at most {MAX_NAME} characters; this one has {len(name):,}.")
    if any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or c in _TURNS_TEXT for c in name):
        raise ValueError("A file's name has no control characters or line breaks.")
    if "\\" in name:
        raise ValueError("The folders in a file's name are separated by /, not by a backslash.")
    if name.startswith("/"):
        raise ValueError("A file's name does not start with /: it is relative to its task.")
    if any(part.strip() in {"", ".", ".."} for part in name.split("/")):
        raise ValueError("A file's name has no empty part, and none that is . or ..")
    return name


def clean_media_type(media_type: str) -> str:
    """A media type as it is kept: ``text/csv``, without parameters. Raises ValueError with what is wrong."""
    found = media_type.partition(";")[0].strip().lower()
    if len(found) > MAX_MEDIA_TYPE or not _MEDIA_TYPE.fullmatch(found):
        raise ValueError(f"A media type looks like text/markdown or image/png, not like {media_type[:100]!r}.")
    return found


def validate_name(value: str) -> None:
    try:
        clean_name(value)
    except ValueError as error:
        raise ValidationError(str(error)) from None


def validate_media_type(value: str) -> None:
    try:
        clean_media_type(value)
    except ValueError as error:
        raise ValidationError(str(error)) from None


class ArtifactQuerySet(models.QuerySet["Artifact"]):
    def visible_to(self, principal: Principal, permission: Permission = Permission.SWARM_READ) -> ArtifactQuerySet:
        """The artifacts of swarms on which the principal has the permission.

        A file is of a swarm and what a task made: what access policies deny of either, they deny of it.
        """
        of_swarms = principal.limit(self, permission, swarm_path="swarm_id")
        found: ArtifactQuerySet = principal.limit(of_swarms, permission, swarm_path="swarm_id", resource=Resource.TASK)
        return found

    def named(self) -> ArtifactQuerySet:
        """With what the key of an artifact's task reads."""
        return self.select_related("task__step").defer("content", "task__result", "task__step__prompt")

    def search(self, text: str) -> ArtifactQuerySet:
        """The artifacts whose name contains every word of ``text``, in any order."""
        found = self
        for word in text.split():
            found = found.filter(name__icontains=word)
        return found

    def bytes_by_tenant(self) -> dict[uuid.UUID, int]:
        """How many bytes each tenant's artifacts take, wherever they lie; tenants without any are left out."""
        rows = self.order_by().values_list("tenant_id").annotate(total=models.Sum("size"))
        return {tenant_id: int(total) for tenant_id, total in rows}


class ArtifactManager(models.Manager.from_queryset(ArtifactQuerySet)):  # type: ignore[misc]
    def get_queryset(self) -> ArtifactQuerySet:
        """Without the bytes: a list of files never loads what is in them."""
        found: ArtifactQuerySet = super().get_queryset().defer("content")
        return found


class Artifact(models.Model):
    """A file that an attempt made; it is there as soon as its task has succeeded.

    Its bytes are in ``content`` or, where they are many, in object storage under ``key``: read them by ``open()``.
    ``size`` (bytes) and ``sha256`` (hex) are of the bytes.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    swarm = models.ForeignKey(Swarm, on_delete=models.PROTECT, related_name="artifacts", db_index=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+", db_index=False)
    task = models.ForeignKey(
        Task, on_delete=models.PROTECT, related_name="artifacts", db_index=False, null=True, blank=True
    )
    attempt_id = models.UUIDField(null=True, blank=True, help_text="The attempt that made it.")
    name = models.CharField(max_length=MAX_NAME, validators=[validate_name])
    media_type = models.CharField(max_length=MAX_MEDIA_TYPE, validators=[validate_media_type])
    size = models.BigIntegerField(help_text="In bytes.")
    sha256 = models.CharField(max_length=64)
    content = models.BinaryField(null=True, blank=True)
    key = models.CharField(max_length=200, blank=True, help_text="Where its bytes lie in object storage.")
    created_at = models.DateTimeField(default=timezone.now)

    objects = ArtifactManager()

    class Meta:
        ordering: ClassVar = ["-created_at", "-id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(content__isnull=False, key="") | (Q(content__isnull=True) & ~Q(key="")),
                name="artifact_lies_in_one_place",
            ),
            models.CheckConstraint(
                condition=Q(size__gte=0)
                & (Q(content__isnull=True) | Q(size=Func(F("content"), function="octet_length"))),
                name="artifact_size_is_of_its_bytes",
            ),
            models.CheckConstraint(condition=Q(sha256__regex="^[0-9a-f]{64}$"), name="artifact_sha256_is_hex"),
            models.CheckConstraint(
                condition=~Q(name="") & ~Q(name__regex=r"^/|(^|/)\.{0,2}(/|$)|[[:cntrl:]\\]"),
                name="artifact_name_stays_in_its_folder",
            ),
            models.UniqueConstraint(fields=["task", "name"], name="one_artifact_per_task_and_name"),
            models.UniqueConstraint(
                fields=["swarm", "name"], condition=Q(task__isnull=True), name="one_artifact_per_swarm_and_name"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["swarm", "-created_at"], name="artifacts_of_swarm"),
            models.Index(fields=["tenant", "-created_at"], name="artifacts_of_tenant"),
        ]

    def __str__(self) -> str:
        return self.name

    def open(self) -> BinaryIO:
        """Its bytes as a binary file to read once, front to back; a context manager.

        Raises ArtifactUnreadable, here or while it is read, when they are gone or no longer what they were. The last of
        them is handed out only after all have been compared with ``sha256``.
        """
        return open_artifact(self)

    def content_bytes(self) -> bytes | None:
        """What the database holds of it; None when that is nothing."""
        if "content" in self.__dict__:
            content = self.content
        else:
            content = type(self).objects.filter(pk=self.pk).values_list("content", flat=True).get()
        return None if content is None else bytes(content)


class LooseObject(models.Model):
    """An object in storage that no artifact names: it is about to, or it was left behind and goes.

    Its row is written before its bytes are, and removed in the transaction that records the artifact; so whatever dies
    in between leaves a row behind, and what is to be swept is known without a look into the storage.
    """

    key = models.CharField(max_length=200, primary_key=True)
    attempt_id = models.UUIDField(help_text="The attempt that stores it.")
    since = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering: ClassVar = ["since"]
        indexes: ClassVar = [models.Index(fields=["since"], name="loose_objects_by_time")]

    def __str__(self) -> str:
        return self.key

    @staticmethod
    def new_key(tenant_id: uuid.UUID, swarm_id: uuid.UUID) -> str:
        """A key for a file of a swarm; none is ever used twice."""
        return f"{tenant_id}/{swarm_id}/{uuid7()}"
