"""People that swarms run for. Everywhere else they appear only by the id of their DataSubject."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from portal.ids import uuid7


class DataSubjectQuerySet(models.QuerySet["DataSubject"]):
    def pseudonym(self, tenant_id: uuid.UUID, reference: str) -> uuid.UUID:
        """The pseudonym of the person a tenant calls ``reference``, made on first sight."""
        subject, _ = self.get_or_create(tenant_id=tenant_id, reference=reference)
        return subject.pk


class DataSubject(models.Model):
    """A person, as one tenant refers to them. ``id`` is the pseudonym used in the ledger, the events and the trail."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField()
    reference = models.CharField(max_length=200, help_text='The tenant\'s own name for the person ("user-8842").')
    created_at = models.DateTimeField(auto_now_add=True)

    objects = DataSubjectQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant_id", "reference"], name="one_subject_per_reference")
        ]

    def __str__(self) -> str:
        return self.reference
