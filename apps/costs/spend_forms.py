"""What people choose on the pages about spending: whose, of which days, and of the ledger which entries."""

from __future__ import annotations

import datetime as dt
import uuid
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlencode

from django import forms
from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Exists, OuterRef, Q
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from apps.costs import frames
from apps.costs.frames import Frame, Named
from apps.costs.lines import Sums
from apps.costs.models import Kind, LedgerEntry, run_id
from apps.costs.models.ledger import LedgerEntryQuerySet
from apps.costs.searching import LedgerFilter
from apps.costs.totals import totals_by_kind, totals_of_entries
from apps.privacy.models import DataSubject
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission

ANY_TIME = "any_time"
MOST_SWARMS = 500
"""Of one name; more must be told apart by their ids."""


_DAYS_OF_ONES_OWN = f"$el.form.elements.period.value = '{Named.CUSTOM}'"
_NAMED_ONE = f"if ($el.value !== '{Named.CUSTOM}') {{ $el.form.elements.from.value = $el.form.elements.to.value = '' }}"
"""Typed days and a named frame exclude each other: choosing one takes the other back."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen: ``filter`` is the part that roll-ups may know, the rest only the ledger does.

    ``tenants`` are the chosen ones, each visible to the person. ``frame`` None is any time. ``unsettled`` is "", "yes",
    "no" or "open" (no adjustment puts it right yet); ``swarm_ids`` are several swarms of one name; ``of_id`` finds
    entries by an id. ``query`` are the parameters that say all of this again.
    """

    filter: LedgerFilter
    tenants: tuple[Tenant, ...]
    frame: Frame | None
    unsettled: str = ""
    swarm_ids: tuple[uuid.UUID, ...] = ()
    of_id: Q | None = None
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def tenant(self) -> Tenant | None:
        """The tenant, when it is one."""
        return self.tenants[0] if len(self.tenants) == 1 else None

    def link(self, **changes: str) -> str:
        """A query string with all that was chosen, and these changes; an empty one takes a choice away."""
        return urlencode({name: value for name, value in {**self.query, **changes}.items() if value})

    def entries(self, *, enough: int | None = None) -> LedgerEntryQuerySet:
        """The ledger entries, the latest first; maybe not many more than ``enough`` of them (None: all)."""
        only_in_ledger = self.swarm_ids or self.of_id is not None
        rows = self.filter.entries(enough=None if only_in_ledger else enough)
        if self.unsettled == "open":
            rows = rows.exclude(Exists(LedgerEntry.objects.filter(corrects=OuterRef("pk")).order_by()))
        if self.swarm_ids:
            rows = rows.filter(swarm_id__in=self.swarm_ids)
        return rows if self.of_id is None else rows.filter(self.of_id)

    def totals(self) -> dict[str, Sums]:
        """What the entries add up to, by their kind; kinds that have none are left out."""
        only_in_ledger = self.unsettled == "open" or self.swarm_ids or self.of_id is not None
        return totals_of_entries(self.entries()) if only_in_ledger else totals_by_kind(self.filter)


class SpendForm(forms.Form):
    """Tenant and days. Bound to a query string; ``chosen`` is there when it is valid.

    Day and month are those of the tenant's calendar. Where tenants of several time zones are looked at together, each
    one's days are its own, and "today" is that of UTC.
    """

    any_time = False
    defaults: ClassVar[dict[str, str]] = {"period": Named.THIS_MONTH}

    def __init__(self, data: Mapping[str, Any], *, principal: Principal, now: dt.datetime) -> None:
        given = {name: value for name, value in data.items() if value != ""}
        # Days that are named are meant, whatever else is not.
        days = {"period": Named.CUSTOM} if given.keys() & {"from", "to"} else {}
        super().__init__({**self.defaults, **days, **given})
        self.given = given
        self.now = now
        rows = principal.tenants(Permission.COST_READ).only("pk", "slug", "name", "time_zone").order_by("name", "slug")
        self.tenants = list(rows)
        self.everything = principal.everything
        self._make_fields()

    def _make_fields(self) -> None:
        tenants = [(str(tenant.pk), tenant.name) for tenant in self.tenants]
        choices = [*Named.choices, (ANY_TIME, "Any time")] if self.any_time else Named.choices
        self.fields["tenant"] = choice_field(
            "Tenant", [("", "All of them"), *tenants], "one of the tenants you may see"
        )
        if len(self.tenants) < 2:
            self.fields["tenant"].widget = forms.HiddenInput()
        self.fields["period"] = choice_field("Days", choices, "one of the time frames on offer")
        self.fields["period"].widget.attrs["x-on:change"] = _NAMED_ONE
        self.fields["from"] = day_field("From")
        self.fields["to"] = day_field("To")
        for name in ("from", "to"):
            self.fields[name].widget.attrs["x-on:change"] = _DAYS_OF_ONES_OWN

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        self.chosen_tenants = [t for t in self.tenants if given.get("tenant") in ("", None, str(t.pk))]
        given["frame"] = self._frame(given)
        return given

    def _frame(self, given: Mapping[str, Any]) -> Frame | None:
        if self.errors.keys() & {"tenant", "period", "from", "to"}:
            return None
        first: dt.date | None = given.get("from")
        last: dt.date | None = given.get("to")
        name: str = given["period"]
        if name != Named.CUSTOM and (first or last):
            self.add_error("period", f"To look at days of your own, choose “{Named.CUSTOM.label}”.")
            return None
        if name == ANY_TIME:
            return None
        if name != Named.CUSTOM:
            return frames.named(name, today=self.today)
        if not first and not last:
            self.add_error("from", "Say from which day, or to which, or both.")
            return None
        if last is None:
            last = max(self.today, first) if first else self.today
        if first is None:
            first = last.replace(day=1)
        if first > last:
            self.add_error("to", f"The last day ({last}) is before the first ({first}): swap them.")
            return None
        return Frame(first, last, "these days")

    @property
    def today(self) -> dt.date:
        zones = {tenant.time_zone for tenant in self.chosen_tenants}
        return self.now.astimezone(zoneinfo.ZoneInfo(zones.pop()) if len(zones) == 1 else dt.UTC).date()

    def chosen(self) -> Chosen:
        """What a valid form says."""
        frame: Frame | None = self.cleaned_data["frame"]
        swarms: list[uuid.UUID] = self.cleaned_data.get("swarm") or []
        return Chosen(
            filter=LedgerFilter(
                tenants=None if self.everything and not self.cleaned_data["tenant"] else self._tenant_ids(),
                first=frame.first if frame else None,
                last=frame.last if frame else None,
                **self._narrowed(),
            ),
            tenants=tuple(self.chosen_tenants),
            frame=frame,
            unsettled=self.cleaned_data.get("unsettled", ""),
            swarm_ids=tuple(swarms) if len(swarms) > 1 else (),
            of_id=self.cleaned_data.get("id") or None,
            query={name: str(self.given[name]) for name in self.fields if name in self.given},
        )

    def _tenant_ids(self) -> list[uuid.UUID]:
        return [tenant.pk for tenant in self.chosen_tenants]

    def _narrowed(self) -> dict[str, Any]:
        return {}


class LedgerForm(SpendForm):
    """The filter of the ledger."""

    any_time = True

    def _make_fields(self) -> None:
        super()._make_fields()
        self.fields["kind"] = choice_field("Kind", [("", "Any"), *Kind.choices], "one of the kinds on offer")
        self.fields["model"] = text_field("Model", "Its full name, such as openai:gpt-4o")
        self.fields["agent"] = text_field("Agent", "The agent's name")
        self.fields["swarm"] = text_field("Swarm", "Name or id of a swarm or run")
        self.fields["user"] = text_field("End user", "Your name for the person, or the pseudonym")
        choices = [("", "Any"), ("open", "Unsettled, to be put right"), ("yes", "Unsettled"), ("no", "Settled")]
        self.fields["unsettled"] = choice_field("State", choices, "one of the states on offer")
        self.fields["id"] = text_field("Id", "Of an entry, a call or a task")

    def clean(self) -> dict[str, Any]:
        given = super().clean()
        if text := given.get("user"):
            given["user"] = _uuid(text) or self._person(text)
        if text := given.get("swarm"):
            given["swarm"] = [_uuid(text)] if _uuid(text) else self._swarms(text)
        return given

    def clean_id(self) -> Q | None:
        text: str = self.cleaned_data["id"]
        if not text:
            return None
        if text.isdecimal() and len(text) < 19:
            return Q(pk=int(text)) | Q(corrects=int(text))
        if not (wanted := _uuid(text)):
            raise ValidationError(f"“{text}” is no id: entries have a number, calls and tasks a UUID.")
        swarms = apps.get_model("swarms.Task")._default_manager.filter(pk=wanted).values_list("swarm_id", flat=True)
        # With the swarm of a task, because there is an index on that.
        return Q(reservation_id=wanted) | Q(task_id=wanted, swarm_id__in=list(swarms))

    def _person(self, text: str) -> uuid.UUID | None:
        people = DataSubject.objects.filter(tenant_id__in=self._tenant_ids(), reference=text)[:2]
        found = list(people.values_list("pk", flat=True))
        if len(found) == 1:
            return found[0]
        self.add_error(
            "user",
            f"More than one tenant knows a “{text}”: choose the tenant, too."
            if found
            else f"Nobody is known as “{text}” here. Give your own name for the person, as it was sent with the work, "
            "or the pseudonym that the ledger shows.",
        )
        return None

    def _swarms(self, text: str) -> list[uuid.UUID]:
        swarms = apps.get_model("swarms.Swarm")._default_manager.filter(tenant_id__in=self._tenant_ids(), name=text)
        found = list(swarms.order_by("-pk").values_list("pk", flat=True)[: MOST_SWARMS + 1])
        runs = [run_id(tenant_id, text.removesuffix(" (elsewhere)")) for tenant_id in self._tenant_ids()]
        known = LedgerEntry.objects.filter(swarm_id__in=runs).order_by().values_list("swarm_id", flat=True).distinct()
        found += [swarm_id for swarm_id in known if swarm_id]
        if not found:
            self.add_error("swarm", f"No swarm or run is called “{text}” here. Give its whole name, or its id.")
        elif len(found) > MOST_SWARMS:
            self.add_error("swarm", f"More than {MOST_SWARMS} swarms are called “{text}”: give the id of one.")
        return found

    def _narrowed(self) -> dict[str, Any]:
        given = self.cleaned_data
        return {
            "kind": given["kind"] or None,
            "model": given["model"] or None,
            "agent": given["agent"] or None,
            "swarm": given["swarm"][0] if len(given["swarm"] or ()) == 1 else None,
            "user": given["user"] or None,
            "unsettled": given["unsettled"] != "no" if given["unsettled"] else None,
        }


def choice_field(
    label: str, choices: Iterable[tuple[str, str]], wanted: str, *, required: bool = False
) -> forms.ChoiceField:
    """A choice whose refusal quotes what was given and says that it is not ``wanted``."""
    return forms.ChoiceField(
        label=label,
        choices=list(choices),
        required=required,
        widget=UnfoldAdminSelectWidget(),
        error_messages={"invalid_choice": f"“%(value)s” is not {wanted}."},
    )


def text_field(label: str, hint: str) -> forms.CharField:
    widget = UnfoldAdminTextInputWidget(attrs={"placeholder": hint, "title": hint, "autocomplete": "off"})
    return forms.CharField(label=label, required=False, max_length=200, widget=widget)


class DayField(forms.DateField):
    """A day as ISO 8601 writes it; the refusal quotes what was typed, as a date picker cannot show it."""

    def to_python(self, value: Any) -> dt.date | None:
        if value in self.empty_values:
            return None
        try:
            day = dt.date.fromisoformat(str(value).strip())
        except ValueError:
            raise ValidationError(f"“{value}” is not a day: write it like 2026-11-24.", code="invalid") from None
        if not 2000 <= day.year <= 9000:
            raise ValidationError(f"{day} is outside the years that can be asked for.", code="invalid")
        return day


def day_field(label: str) -> forms.DateField:
    widget = UnfoldAdminTextInputWidget(attrs={"type": "date"})
    return DayField(label=label, required=False, widget=widget)


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
