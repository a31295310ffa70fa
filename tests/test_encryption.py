"""Secrets in the database: what seals opens again, in its place and nowhere else, and nothing shows it."""

from __future__ import annotations

import base64
import copy
import dataclasses
import inspect
import io
import json
import logging
import multiprocessing
import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from django import forms
from django.apps.registry import Apps
from django.contrib.admin.utils import display_for_field
from django.core import serializers
from django.core.exceptions import FieldError
from django.core.management import call_command
from django.db import IntegrityError, connection, models, transaction
from django.views.debug import ExceptionReporter
from hypothesis import given
from hypothesis import strategies as st

from apps.audit.models import AuditEntry
from portal import encryption, rotation
from portal.encryption import CannotOpen, EncryptedTextField, Secret, keyring
from portal.files import kept_text
from portal.ids import uuid7
from portal.keyring import Keyring, parse_keys

TEXT = "whsec_kept-to-ourselves"
OLD, NEW, OTHER = (Keyring([bytes(range(start, start + 32))]) for start in (0, 60, 120))
BOTH = Keyring([bytes(range(60, 92)), bytes(range(32))])


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """Anything that a secret is carried in."""

    name: str
    secret: Secret


some_text = st.text(st.characters(codec="utf-8"), max_size=200)


class Box(models.Model):
    """A row with a secret."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=20, blank=True)
    secret = EncryptedTextField()
    spare = EncryptedTextField(null=True, blank=True)

    objects: ClassVar[models.Manager[Box]] = models.Manager()

    class Meta:
        app_label = "tests"
        apps = Apps()


@pytest.fixture
def boxes(db: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> type[Box]:
    """The table, gone again with the test's transaction; the key OLD is in force."""
    settings.VAULT_MASTER_KEY = OLD
    with connection.schema_editor(atomic=False) as editor:
        editor.create_model(Box)
    fields = [Box._meta.get_field("secret"), Box._meta.get_field("spare")]
    monkeypatch.setattr(rotation, "encrypted_fields", lambda: fields)
    return Box


def stored(box: Box, column: str = "secret") -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {column} FROM tests_box WHERE id = %s", [box.pk])
        return str(cursor.fetchone()[0])


def read(box: Box) -> str:
    return str(Box.objects.get(pk=box.pk).secret.reveal())


# -- the ring --------------------------------------------------------------------------------------------------------


@given(some_text, some_text, some_text)
def test_what_is_sealed_opens_in_its_place(text: str, purpose: str, place: str) -> None:
    sealed = OLD.seal(text, purpose=purpose, place=place)
    assert OLD.open(sealed, purpose=purpose, place=place) == text
    assert BOTH.open(sealed, purpose=purpose, place=place) == text
    assert OLD.seal(text, purpose=purpose, place=place) != sealed


@given(some_text, st.tuples(some_text, some_text), st.tuples(some_text, some_text))
def test_it_opens_nowhere_else(text: str, here: tuple[str, str], there: tuple[str, str]) -> None:
    sealed = OLD.seal(text, purpose=here[0], place=here[1])
    if here != there:
        with pytest.raises(CannotOpen, match="another row or column"):
            OLD.open(sealed, purpose=there[0], place=there[1])


@given(st.text(min_size=1, max_size=40), st.data())
def test_what_was_altered_does_not_open(text: str, data: st.DataObject) -> None:
    sealed = OLD.seal(text, purpose="p", place="1")
    at = data.draw(st.integers(0, len(sealed) - 1))
    character = data.draw(st.characters(codec="ascii").filter(lambda other: other != sealed[at]))
    for altered in (sealed[:at] + character + sealed[at + 1 :], sealed[:at], sealed + character):
        with pytest.raises(CannotOpen):
            OLD.open(altered, purpose="p", place="1")


@given(some_text)
def test_a_key_that_is_gone_is_named(text: str) -> None:
    with pytest.raises(CannotOpen, match=f"master key {OLD.current.id}, which is not in VAULT_MASTER_KEY"):
        OTHER.open(OLD.seal(text, purpose="p", place="1"), purpose="p", place="1")


@given(st.lists(st.binary(min_size=32, max_size=32).filter(lambda k: len(set(k)) > 15), min_size=1, unique=True))
def test_keys_are_read_in_the_usual_spellings(keys: list[bytes]) -> None:
    spellings = (bytes.hex, lambda k: base64.b64encode(k).decode(), lambda k: base64.urlsafe_b64encode(k).decode()[:-1])
    for spell in spellings:
        for joint in (",", ", ", "\n"):
            assert parse_keys(joint.join(map(spell, keys)) + joint) == tuple(keys)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("correct horse battery staple", "key 1 of 4 has"),
        ("hunter2!", "key 1 of 1 is neither base64 nor hexadecimal"),
        (base64.b64encode(bytes(range(16))).decode(), "key 1 of 1 has 16 bytes instead of 32"),
        ("a" * 64, "key 1 of 1 is not random"),
        (f"{bytes(range(32)).hex()},{bytes(range(32)).hex()}", "a key is in it twice"),
        (f"{bytes(range(32)).hex()},changeme", "key 2 of 2 has 6 bytes"),
    ],
)
def test_a_weak_key_is_refused_without_being_told(raw: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        parse_keys(raw)
    assert not any(word in str(refused.value) for word in raw.replace(",", " ").split() if len(word) > 5)


def test_keys_show_their_ids_and_nothing_else() -> None:
    key = bytes(range(32))
    for shown in (repr(OLD), str(OLD), repr(OLD.current), f"{OLD.current}"):
        assert OLD.current.id in shown
        assert key.hex() not in shown
        assert repr(key) not in shown
    for value in (OLD, OLD.current):
        with pytest.raises(TypeError):
            pickle.dumps(value)


# -- the value -------------------------------------------------------------------------------------------------------


def test_a_secret_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(TEXT)
    logging.getLogger("x").warning("%s %r", secret, {"secret": secret}, extra={"secret": secret})
    rows = [str(secret), repr(secret), f"{secret}", "%s" % secret, repr([secret]), caplog.text]  # noqa: UP031
    rows.append(json.dumps({"a": secret}, default=repr))
    rows.append(display_for_field(secret, Box._meta.get_field("secret"), "-"))
    assert not [shown for shown in rows if TEXT in shown]
    for dump in (pickle.dumps, json.dumps):
        with pytest.raises(TypeError):
            dump(secret)
    assert copy.deepcopy(secret).reveal() == copy.copy(secret).reveal() == secret.reveal() == TEXT
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError):
        vars(secret)
    holder = Holder("openai", secret)
    rows = [f"{secret:>20}", str(dataclasses.asdict(holder)), repr(dataclasses.astuple(holder)), repr(holder)]
    rows += [repr(inspect.getmembers(secret)), repr([getattr(secret, name) for name in Secret.__slots__])]
    assert not [shown for shown in rows if TEXT in shown]


def test_an_error_page_shows_no_secret_among_its_variables(rf: Any) -> None:
    def call(secret: Secret, holder: Holder) -> None:
        raise RuntimeError("it failed")

    try:
        call(Secret(TEXT), Holder("openai", Secret(TEXT)))
    except RuntimeError as error:
        reporter = ExceptionReporter(rf.get("/"), type(error), error, error.__traceback__)
        page = reporter.get_traceback_html() + reporter.get_traceback_text()
    assert "it failed" in page
    assert "Secret(********)" in page
    assert TEXT not in page


def test_secrets_are_compared_without_being_shown() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("a").matches("a")
    assert Secret("a")
    assert not Secret("")


# -- the field -------------------------------------------------------------------------------------------------------


def test_the_database_holds_sealed_text_only(boxes: type[Box]) -> None:
    box = boxes.objects.create(secret=TEXT)
    assert stored(box).startswith(f"swd1.{OLD.current.id}.")
    assert TEXT not in stored(box)
    assert read(box) == box.secret.reveal() == TEXT
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE tests_box SET secret = 'in clear' WHERE id = %s", [box.pk])


def test_a_row_that_is_saved_again_keeps_its_sealed_text(boxes: type[Box]) -> None:
    made = boxes.objects.create(secret=TEXT)
    box, before = boxes.objects.get(pk=made.pk), stored(made)
    box.name = "named"
    box.save()
    assert stored(box) == before
    box.secret = "another"
    box.save(update_fields=["secret"])
    assert read(box) == "another"


def test_sealed_text_moved_to_another_row_or_column_does_not_open(boxes: type[Box]) -> None:
    box, other = boxes.objects.create(secret=TEXT), boxes.objects.create(secret="other")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tests_box SET secret = %s, spare = %s WHERE id = %s", [stored(box)] * 2 + [other.pk])
        cursor.execute("UPDATE tests_box SET spare = secret WHERE id = %s", [box.pk])
    found: list[Any] = [boxes.objects.get(pk=other.pk).secret, boxes.objects.get(pk=box.pk).spare]
    for secret in found:
        with pytest.raises(CannotOpen, match="another row or column"):
            secret.reveal()
    clone = boxes.objects.get(pk=box.pk)
    clone.pk = uuid7()
    clone._state.adding = True
    with pytest.raises(CannotOpen):
        clone.save()


def test_writes_that_do_not_know_their_row_are_refused(boxes: type[Box]) -> None:
    [box] = boxes.objects.bulk_create([Box(secret=TEXT)])
    assert read(box) == TEXT
    with pytest.raises(TypeError, match="set it on the row and save"), transaction.atomic():
        boxes.objects.update(secret="x")
    box.secret = "x"
    with pytest.raises(TypeError, match="set it on the row and save"), transaction.atomic():
        boxes.objects.bulk_update([box], ["secret"])
    with pytest.raises(FieldError):
        boxes.objects.filter(secret="x")
    assert boxes.objects.filter(spare__isnull=True).count() == 1
    with pytest.raises(CannotOpen, match="without its row"):
        boxes.objects.values_list("secret", flat=True)[0].reveal()
    assert boxes.objects.defer("secret").get().secret.reveal() == TEXT


def test_nothing_and_empty_stay_what_they_are(boxes: type[Box]) -> None:
    box = boxes.objects.create(secret="", spare=None)
    found = boxes.objects.get(pk=box.pk)
    assert (found.secret.reveal(), found.spare, stored(box)) == ("", None, "")


def test_text_that_looks_sealed_is_a_text_like_others(boxes: type[Box]) -> None:
    text = f"swd1.{OLD.current.id}.AAAA"
    assert read(boxes.objects.create(secret=text)) == text


def test_a_dump_of_data_holds_it_sealed_and_is_loaded_again(boxes: type[Box]) -> None:
    box = boxes.objects.create(secret=TEXT)
    dump = serializers.serialize("python", [box])
    assert dump[0]["fields"]["secret"] == stored(box)
    box.delete()
    loaded: Any = Box(pk=dump[0]["pk"])
    for field in (each for each in Box._meta.concrete_fields if each.name in dump[0]["fields"]):
        setattr(loaded, field.name, field.to_python(dump[0]["fields"][field.name]))
    loaded.save_base(raw=True)
    assert read(loaded) == TEXT


def test_a_field_on_a_key_that_is_not_known_in_time_is_an_error() -> None:
    class Numbered(models.Model):
        secret = EncryptedTextField()
        listed = EncryptedTextField(db_index=True, purpose="old_table.listed")

        class Meta:
            app_label = "tests"
            apps = Apps()

    assert [(found.id, found.obj.name) for found in Numbered.check()] == [
        ("portal.E006", "secret"),
        ("portal.E006", "listed"),
        ("portal.E006", "listed"),
    ]
    listed = Numbered._meta.get_field("listed")
    assert listed.purpose == "old_table.listed" == listed.clone().purpose  # type: ignore[attr-defined]


class BoxForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Box
        fields: ClassVar = ["name", "secret"]


def test_a_form_never_shows_it_and_keeps_it_when_left_empty(boxes: type[Box]) -> None:
    empty = BoxForm({"name": "x", "secret": ""})
    assert "secret" in empty.errors
    form = BoxForm({"name": "x", "secret": TEXT})
    assert form.is_valid()
    box = boxes.objects.get(pk=form.save().pk)
    page = str(BoxForm(instance=box))
    assert TEXT not in page
    assert "Leave empty to keep it" in page
    assert "swd1." not in page
    kept = BoxForm({"name": "y", "secret": ""}, instance=box)
    assert kept.is_valid()
    assert kept.changed_data == ["name"]
    kept.save()
    assert read(box) == TEXT
    changed = BoxForm({"name": "y", "secret": "another"}, instance=box)
    assert "another" not in str(changed)
    assert changed.is_valid()
    changed.save()
    assert read(box) == "another"


# -- rotation --------------------------------------------------------------------------------------------------------


def rotate_secrets(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command("rotate_secrets", *arguments, stdout=out, stderr=out)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    return 0, out.getvalue()


def test_rotation_lets_the_old_key_go(boxes: type[Box], settings: Any) -> None:
    made = [boxes.objects.create(secret=f"{TEXT} {n}", spare="both" if n == 1 else None) for n in range(5)]
    settings.VAULT_MASTER_KEY = BOTH
    code, told = rotate_secrets()
    assert code == 1
    assert f"tests_box.secret: 5 under the key {OLD.current.id}" in told
    assert "6 secrets need an older key" in told
    assert not AuditEntry.objects.exists()
    assert rotate_secrets("--wet-run")[0] == 0
    assert [(entry.resource_id, entry.details["sealed"]) for entry in AuditEntry.objects.order_by("id")] == [
        ("secret", 5),
        ("spare", 1),
    ]
    assert rotate_secrets("--wet-run")[0] == 0
    assert AuditEntry.objects.count() == 2
    settings.VAULT_MASTER_KEY = NEW
    assert [read(box) for box in made] == [f"{TEXT} {n}" for n in range(5)]


def test_rotation_that_was_cut_off_goes_on_where_it_was(boxes: type[Box], settings: Any) -> None:
    made = [boxes.objects.create(secret=f"{n}") for n in range(7)]
    settings.VAULT_MASTER_KEY = BOTH
    field = rotation.encrypted_fields()[0]

    def die(batch: rotation.Batch) -> None:
        raise KeyboardInterrupt

    first = rotation.rotate(field, batch=3)
    assert next(first).sealed == 3
    with pytest.raises(KeyboardInterrupt):
        list(rotation.rotate(field, batch=3, recorded=die))
    assert rotation.count_by_key(field) == {NEW.current.id: 3, OLD.current.id: 4}
    assert [batch.sealed for batch in rotation.rotate(field, batch=3)] == [3, 1]
    assert [read(box) for box in made] == [f"{n}" for n in range(7)]


def test_a_row_loaded_before_rotation_does_not_bring_the_old_key_back(boxes: type[Box], settings: Any) -> None:
    made = boxes.objects.create(secret=TEXT)
    stale = boxes.objects.get(pk=made.pk)
    settings.VAULT_MASTER_KEY = BOTH
    assert rotate_secrets("--wet-run")[0] == 0
    stale.name = "changed"
    stale.save()
    assert rotate_secrets()[0] == 0
    settings.VAULT_MASTER_KEY = OTHER
    stale.name = "again"
    stale.save()  # its secret is lost for now, the row is not
    settings.VAULT_MASTER_KEY = NEW
    assert (read(stale), boxes.objects.get().name) == (TEXT, "again")


def test_rows_that_do_not_open_are_told_and_left(boxes: type[Box], settings: Any) -> None:
    lost, kept = boxes.objects.create(secret="lost"), boxes.objects.create(secret="kept")
    settings.VAULT_MASTER_KEY = OTHER
    boxes.objects.filter(pk=kept.pk).delete()
    kept = boxes.objects.create(secret="kept")
    before = stored(lost)
    settings.VAULT_MASTER_KEY = Keyring([bytes(range(60, 92)), bytes(range(120, 152))])
    code, told = rotate_secrets("--wet-run")
    assert code == 1
    assert f"tests_box.secret of {lost.pk}: It is sealed with the master key {OLD.current.id}" in told
    assert "they cannot be read" in told
    assert stored(lost) == before
    assert read(kept) == "kept"


# -- the key of a machine of one person ------------------------------------------------------------------------------


def _kept(path: Path) -> str:
    return kept_text(path, lambda: os.urandom(32).hex())


def test_a_machine_of_one_person_keeps_a_key_of_its_own(tmp_path: Path, settings: Any) -> None:
    settings.VAULT_MASTER_KEY, settings.STANDALONE, settings.DATA_DIR = None, True, tmp_path / "data"
    sealed = keyring().seal(TEXT, purpose="p", place="1")
    path = tmp_path / "data" / encryption.DEVELOPMENT_KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Keyring(parse_keys(path.read_text())).open(sealed, purpose="p", place="1") == TEXT
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    settings.STANDALONE = False
    with pytest.raises(CannotOpen, match="VAULT_MASTER_KEY is not set"):
        keyring()


def test_many_processes_that_need_it_at_once_get_the_same_one(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_kept, [tmp_path / "key"] * 40))) == 1


@pytest.fixture(autouse=True)
def _fresh_development_key() -> Iterator[None]:
    yield
    encryption._development = None
