"""People that swarms run for. Everywhere else they appear only by the id of their DataSubject."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import ClassVar

from django.db import models

from portal.ids import uuid7


class DataSubjectQuerySet(models.QuerySet["DataSubject"]):
    def pseudonym(self, tenant_id: uuid.UUID, reference: str) -> uuid.UUID:
        """The pseudonym of the person a tenant calls ``reference``, made on first sight."""
        subject, _ = self.get_or_create(tenant_id=tenant_id, reference=reference)
        return subject.pk

    def pseudonyms(self, people: Iterable[tuple[uuid.UUID, str]]) -> dict[tuple[uuid.UUID, str], uuid.UUID]:
        """The pseudonyms of people, each a tenant's id and its reference, made on first sight. Three queries at most.

        New ones are made in one order everywhere, so that two callers at once do not wait for each other in a circle.
        """
        wanted = sorted(set(people))
        found = self._find(wanted)
        missing = [person for person in wanted if person not in found]
        if missing:
            new = [self.model(tenant_id=tenant_id, reference=reference) for tenant_id, reference in missing]
            self.bulk_create(new, ignore_conflicts=True)
            found |= self._find(missing)
        return found

    def _find(self, people: Sequence[tuple[uuid.UUID, str]]) -> dict[tuple[uuid.UUID, str], uuid.UUID]:
        if not people:
            return {}
        rows = self.filter(
            tenant_id__in={tenant_id for tenant_id, _ in people}, reference__in=[reference for _, reference in people]
        )
        listed = rows.values_list("tenant_id", "reference", "id")
        return {(tenant_id, reference): id for tenant_id, reference, id in listed}


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
