"""Which cost centre a ledger entry is charged to: the first rule that matches, decided by the database."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from apps.costs.models import CentreRule, CostCentre
from apps.costs.models.centre import words_of

_PATTERNS = ("agent", "model", "run")
_ANYTHING = ("", "*")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is empty matches anything; ``agent``, ``model`` and ``run`` are patterns with * and ?."""

    centre: str
    kind: str = ""
    agent: str = ""
    model: str = ""
    run: str = ""
    subject: str = ""

    @property
    def takes_everything(self) -> bool:
        """Whether every entry matches it."""
        return self.covers(Rule(""))

    def covers(self, other: Rule) -> bool:
        """Whether all that matches the other rule matches this one, as far as names show without comparing patterns."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("kind", *_PATTERNS, "subject")]
        return all(mine in _ANYTHING or mine == its for mine, its in pairs)

    def __str__(self) -> str:
        """What it takes, in words."""
        return words_of(self.kind, self.agent, self.model, self.run, self.subject)


@dataclass(frozen=True, slots=True)
class Terms:
    """A tenant's cost centres, names by code, and its rules in their order. Its JSON is kept in closed statements."""

    names: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> Terms:
        return cls(kept.get("centres", {}), tuple(Rule(**rule) for rule in kept.get("rules", ())))

    def as_json(self) -> dict[str, Any]:
        return {"centres": dict(self.names), "rules": [asdict(rule) for rule in self.rules]}

    def sql(self) -> str:
        """An expression for the code of the cost centre of the ledger entry ``l``, empty where no rule matches."""
        whens = [
            f"WHEN {self._condition(place, rule)} THEN %(centre_{place})s" for place, rule in enumerate(self.rules)
        ]
        return f"(CASE {' '.join(whens)} ELSE '' END)" if whens else "''"

    def place_sql(self) -> str:
        """An expression for the place of the rule that takes the ledger entry ``l``, from 0; null where none does."""
        whens = [f"WHEN {self._condition(place, rule)} THEN {place}" for place, rule in enumerate(self.rules)]
        return f"(CASE {' '.join(whens)} END)" if whens else "NULL::integer"

    def params(self) -> dict[str, str]:
        """What ``sql`` needs, and ``centre_names``, a JSON object of names by code."""
        params = {"centre_names": json.dumps(dict(self.names))}
        for place, rule in enumerate(self.rules):
            params[f"centre_{place}"] = rule.centre
            params |= {f"{name}_{place}": _like(getattr(rule, name)) for name in _PATTERNS}
            params |= {f"kind_{place}": rule.kind, f"subject_{place}": rule.subject}
        return params

    def never_reached(self) -> dict[int, int]:
        """Rules that take nothing, because an earlier one takes all that they would: its place, by theirs."""
        found: dict[int, int] = {}
        for place, rule in enumerate(self.rules):
            earlier = (first for first, other in enumerate(self.rules[:place]) if other.covers(rule))
            if (first := next(earlier, None)) is not None:
                found[place] = first
        return found

    @staticmethod
    def _condition(place: int, rule: Rule) -> str:
        parts = [f"l.{name} LIKE %({name}_{place})s" for name in _PATTERNS if getattr(rule, name)]
        if rule.kind:
            parts.append(f"l.kind = %(kind_{place})s")
        if rule.subject:
            parts.append(f"l.subject_id = %(subject_{place})s::uuid")
        return " AND ".join(parts) or "true"


def terms_of(tenant_id: uuid.UUID) -> Terms:
    """A tenant's cost centres as they are now. Two queries."""
    return terms_of_each([tenant_id])[tenant_id]


def terms_of_each(tenant_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, Terms]:
    """The cost centres of each of these tenants as they are now. Two queries."""
    ids = list(tenant_ids)
    names: dict[uuid.UUID, dict[str, str]] = {tenant_id: {} for tenant_id in ids}
    for centre in CostCentre.objects.filter(tenant_id__in=ids).order_by("code"):
        names[centre.tenant_id][centre.code] = centre.name
    rules: dict[uuid.UUID, list[Rule]] = {tenant_id: [] for tenant_id in ids}
    rows = CentreRule.objects.filter(centre__tenant_id__in=ids).select_related("centre")
    for row in rows.order_by("position", "pk"):
        rules[row.centre.tenant_id].append(rule_of(row))
    return {tenant_id: Terms(names[tenant_id], tuple(rules[tenant_id])) for tenant_id in ids}


def rule_of(row: CentreRule) -> Rule:
    """A row's rule; its cost centre is loaded."""
    return Rule(
        centre=row.centre.code,
        kind=row.kind,
        agent=row.agent,
        model=row.model,
        run=row.run,
        subject=str(row.subject_id or ""),
    )


def _like(pattern: str) -> str:
    """The SQL pattern of one with * and ?."""
    for special in ("\\", "%", "_"):
        pattern = pattern.replace(special, f"\\{special}")
    return pattern.replace("*", "%").replace("?", "_")
