"""Secrets in the database: a value that shows nothing, and a model field that stores it sealed.

    class Webhook(models.Model):
        id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
        signing_secret = EncryptedTextField()

    hook.signing_secret = "whsec_..."      # text or a Secret
    hook.save()
    hook.signing_secret                    # Secret(********)
    hook.signing_secret.reveal()           # the text; raises CannotOpen

The column holds what ``portal.keyring`` makes of it, bound to table, column and row: sealed text that is copied to
another row does not open there. So the primary key has to be known before the row is written (a default, as
``uuid7``), writes go through ``save``, ``create`` or ``bulk_create``, nothing can be looked up by a secret, and a table
or column that is renamed keeps its old ``purpose="table.column"``. Forms never show a secret; left empty, they keep it.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from django import forms
from django.conf import settings
from django.core import checks
from django.db import models
from django.db.models.query_utils import DeferredAttribute

from portal import redaction
from portal.files import kept_text
from portal.keyring import PREFIX, CannotOpen, Keyring, parse_keys

__all__ = ["CannotOpen", "EncryptedTextField", "Secret", "keyring"]

MASK = "********"
DEVELOPMENT_KEY_FILE = "vault-master-key"


def keyring() -> Keyring:
    """The master keys in force. On a machine of one person without VAULT_MASTER_KEY, one is made and kept in DATA_DIR.

    Raises CannotOpen where there is none.
    """
    global _development
    if settings.VAULT_MASTER_KEY:
        ring: Keyring = settings.VAULT_MASTER_KEY
        return ring
    if not settings.STANDALONE:
        raise CannotOpen("VAULT_MASTER_KEY is not set.")
    path = Path(settings.DATA_DIR) / DEVELOPMENT_KEY_FILE
    if _development is None or _development[0] != path:
        try:
            text = kept_text(path, lambda: os.urandom(32).hex())
            redaction.know(text)
            _development = path, Keyring(parse_keys(text))
        except OSError as error:
            raise CannotOpen(f"{path} cannot be used: {error.strerror}.") from error
        except ValueError as error:
            raise CannotOpen(f"{path} is not a key: {error}.") from None
    return _development[1]


_development: tuple[Path, Keyring] | None = None


class Secret:
    """A text that is shown by no repr, str, format, log, JSON or pickle. ``reveal()`` is the only way to it.

    What comes from the database stays sealed until then.
    """

    __slots__ = ("_place", "_plain", "_purpose", "_sealed")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str) -> None:
        # In a function, so that nothing which walks over attributes meets it.
        self._plain: Callable[[], str] | None = lambda: text
        self._sealed = self._purpose = ""
        self._place: str | None = None

    @classmethod
    def from_sealed(cls, sealed: str, purpose: str, place: str | None = None) -> Secret:
        """A secret that opens in its place: the primary key of its row as text. Without one it does not open."""
        secret = cls("")
        secret._plain, secret._sealed, secret._purpose, secret._place = None, sealed, purpose, place
        return secret

    def of_row(self, place: str | None) -> Secret:
        """The same sealed text, as what a row holds."""
        return self.from_sealed(self._sealed, self._purpose, place)

    @property
    def sealed(self) -> str:
        """What the database holds of it; empty for a secret that was not read from there."""
        return self._sealed

    def reveal(self) -> str:
        """The text. Raises CannotOpen, which says why."""
        if self._plain is not None:
            return self._plain()
        if self._place is None:
            raise CannotOpen("It was read without its row: load the row, and read the secret from it.")
        return keyring().open(self._sealed, purpose=self._purpose, place=self._place)

    def matches(self, text: str) -> bool:
        """Whether it is this text; takes as long whether it is or not."""
        return hmac.compare_digest(self.reveal().encode(), text.encode())

    def __eq__(self, other: object) -> bool:
        return self.matches(other.reveal()) if isinstance(other, Secret) else NotImplemented

    def __bool__(self) -> bool:
        return bool(self._sealed or (self._plain and self._plain()))

    def __str__(self) -> str:
        return MASK if self else ""

    def __format__(self, how: str) -> str:
        return format(str(self), how)

    def __repr__(self) -> str:
        return f"Secret({self})"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A secret is not pickled: pass the id of its row on.")


class SecretInput(forms.PasswordInput):
    """An input that never holds the stored secret, and says so where there is one."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__(attrs={"autocomplete": "new-password", "spellcheck": "false", **(attrs or {})})

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        kept = isinstance(value, Secret) and bool(value)
        told = {"placeholder": "Stored. Leave empty to keep it."} if kept else {}
        context = super().get_context(name, None, {**(attrs or {}), **told})
        if kept:
            context["widget"]["attrs"].pop("required", None)
        return context


class SecretFormField(forms.CharField):
    """What is typed becomes a Secret; nothing typed keeps the one that is stored."""

    widget = SecretInput

    def _clean_bound_field(self, bf: Any) -> Any:
        if bf.data in self.empty_values and isinstance(bf.initial, Secret) and bf.initial:
            return bf.initial
        return self.clean(bf.data)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        return Secret(text) if text else text

    def has_changed(self, initial: Any, data: Any) -> bool:
        return data not in self.empty_values


class SecretAttribute(DeferredAttribute):
    """The attribute of a model: gives Secrets that know their row, takes them or text."""

    def __get__(self, instance: models.Model | None, cls: Any = None) -> Any:
        value = super().__get__(instance, cls)
        if instance is not None and isinstance(value, Secret) and value.sealed:
            return value.of_row(_place(instance))
        return value

    def __set__(self, instance: models.Model, value: Any) -> None:
        instance.__dict__[self.field.attname] = Secret(value) if isinstance(value, str) else value


class EncryptedTextField(models.Field):
    """A text that lies encrypted in the database (see the module). Its value is a Secret, or None."""

    description = "Text, encrypted"
    descriptor_class = SecretAttribute

    def __init__(self, *args: Any, purpose: str = "", **kwargs: Any) -> None:
        self._purpose = purpose
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, {**kwargs, "purpose": self._purpose} if self._purpose else kwargs

    @property
    def purpose(self) -> str:
        """What the key of this column is derived for."""
        return self._purpose or f"{self.model._meta.db_table}.{self.column}"

    def get_internal_type(self) -> str:
        return "TextField"

    def db_check(self, connection: Any) -> str:
        """The database takes nothing but sealed text, or none."""
        column = connection.ops.quote_name(self.column)
        return f"{column} = '' OR left({column}, {len(PREFIX)}) = '{PREFIX}'"

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """portal.E006: the field's model or options do not let it keep its promise."""
        problems = []
        key = self.model._meta.pk
        if not self.model._meta.abstract and (key is None or isinstance(key, models.AutoField)):
            problems.append("its model's primary key is made by the database, and so not known when it is sealed")
        if self.unique or self.db_index:  # type: ignore[attr-defined]
            problems.append("sealed text is another one each time, so it cannot be unique or indexed")
        return [
            *super().check(**kwargs),
            *(checks.Error(f"{problem[0].upper()}{problem[1:]}.", obj=self, id="portal.E006") for problem in problems),
        ]

    def get_lookup(self, lookup_name: str) -> Any:
        return super().get_lookup(lookup_name) if lookup_name == "isnull" else None

    def get_transform(self, lookup_name: str) -> Any:
        return None

    def to_python(self, value: Any) -> Any:
        """A Secret of a text; sealed text (as in a dump of data) stays sealed."""
        if value is None or isinstance(value, Secret) or hasattr(value, "resolve_expression"):
            return value
        text = str(value)
        return Secret.from_sealed(text, self.purpose) if text.startswith(PREFIX) else Secret(text)

    def validate(self, value: Any, model_instance: models.Model | None) -> None:
        super().validate(value if value else None if value is None else "", model_instance)

    def run_validators(self, value: Any) -> None:
        """Validators see the text; what came sealed from the database was valid when it was stored."""
        if not isinstance(value, Secret):
            super().run_validators(value)
        elif not value.sealed:
            super().run_validators(value.reveal())

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Secret | None:
        return None if value is None else self.to_python(value)

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = getattr(model_instance, self.attname)
        if not isinstance(value, Secret) or not value:
            return value
        if value.sealed and add:
            value.reveal()  # a copy of another row would never open again
        if value.sealed and keyring().is_current(value.sealed):
            return value
        place = _place(model_instance)
        if place is None:
            raise CannotOpen("The row has no primary key yet, which its secret is bound to.")
        try:
            # A row that was loaded before its secret was sealed anew must not bring the older key back.
            text = value.reveal()
        except CannotOpen:
            return value  # lost until its key is back; what else is saved of the row is not
        sealed = keyring().seal(text, purpose=self.purpose, place=place)
        value = model_instance.__dict__[self.attname] = Secret.from_sealed(sealed, self.purpose, place)
        return value

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        if isinstance(value, Secret):
            if value and not value.sealed:
                raise TypeError(f"{self.name} is sealed for its row: set it on the row and save that.")
            return value.sealed
        if isinstance(value, str) and value:
            raise TypeError(f"{self.name} is sealed for its row: set it on the row and save that.")
        return value

    def value_to_string(self, obj: models.Model) -> str:
        """For dumps of data: as the database holds it."""
        value = self.pre_save(obj, add=False)
        return value.sealed if isinstance(value, Secret) else ""

    def formfield(self, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().formfield(**{"form_class": SecretFormField, "strip": True, **kwargs})


def _place(row: models.Model) -> str | None:
    return None if row.pk is None else str(row.pk)
