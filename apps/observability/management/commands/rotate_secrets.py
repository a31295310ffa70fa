"""Seals the secrets in the database anew with the first key of VAULT_MASTER_KEY."""

from __future__ import annotations

import getpass
from typing import Any

from apps.audit.models import AuditEntry
from portal import rotation
from portal.commands import Command as BaseCommand
from portal.commands import WetRunMixin
from portal.encryption import CannotOpen, EncryptedTextField, keyring


class Command(WetRunMixin, BaseCommand):
    help = (
        "Seals every secret in the database anew with the first key of VAULT_MASTER_KEY, so that older keys can be "
        "taken away. Safe to end at any time, to start again and to run twice at once. Exit 0: no older key is needed; "
        "1: some still are."
    )
    refusals = (CannotOpen,)

    def handle(self, *args: Any, wet_run: bool, **options: Any) -> None:
        ring = keyring()
        self.stdout.write(f"The current key is {ring.current.id}.")
        left = 0
        for field in rotation.encrypted_fields():
            if wet_run:
                self._rotate(field)
            for key_id, rows in rotation.count_by_key(field).items():
                known = key_id in ring.ids
                note = "" if known else " (not in VAULT_MASTER_KEY: they cannot be read)"
                self.stdout.write(f"{field.purpose}: {rows} under the key {key_id}{note}")
                left += rows if key_id != ring.current.id else 0
        if left:
            self.stdout.write(f"{left} secrets need an older key.", self.style.WARNING)
            raise SystemExit(1)
        self.stdout.write("No secret needs an older key.")

    def _rotate(self, field: EncryptedTextField) -> None:
        sealed = 0
        for batch in rotation.rotate(field, recorded=_recorded):
            sealed += batch.sealed
            for pk, problem in batch.problems.items():
                self.stderr.write(f"{field.purpose} of {pk}: {problem}")
        if sealed:
            self.stdout.write(f"{field.purpose}: sealed {sealed} anew")


def _recorded(batch: rotation.Batch) -> None:
    """The audit entry of a batch, in its transaction."""
    if batch.sealed:
        AuditEntry.objects.create(
            actor_kind="command",
            actor=f"rotate_secrets by {_person()}"[:100],
            action="secret:rotate",
            resource_kind=batch.field.model._meta.model_name or "",
            resource_id=batch.field.name[:64],
            details={"sealed": batch.sealed, "key": keyring().current.id},
        )


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return "nobody known"
