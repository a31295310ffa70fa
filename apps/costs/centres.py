"""Which cost centre a ledger entry is charged to: the first rule that matches, decided by the database."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from apps.costs.models import CentreRule, CostCentre

_PATTERNS = ("agent", "model", "run")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is empty matches anything; ``agent``, ``model`` and ``run`` are patterns with * and ?."""

    centre: str
    kind: str = ""
    agent: str = ""
    model: str = ""
    run: str = ""
    subject: str = ""


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

    def params(self) -> dict[str, str]:
        """What ``sql`` needs, and ``centre_names``, a JSON object of names by code."""
        params = {"centre_names": json.dumps(dict(self.names))}
        for place, rule in enumerate(self.rules):
            params[f"centre_{place}"] = rule.centre
            params |= {f"{name}_{place}": _like(getattr(rule, name)) for name in _PATTERNS}
            params |= {f"kind_{place}": rule.kind, f"subject_{place}": rule.subject}
        return params

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
    centres = CostCentre.objects.filter(tenant_id=tenant_id).order_by("code")
    rules = CentreRule.objects.filter(centre__tenant_id=tenant_id).select_related("centre").order_by("position", "pk")
    return Terms(
        {centre.code: centre.name for centre in centres},
        tuple(
            Rule(
                centre=rule.centre.code,
                kind=rule.kind,
                agent=rule.agent,
                model=rule.model,
                run=rule.run,
                subject=str(rule.subject_id or ""),
            )
            for rule in rules
        ),
    )


def _like(pattern: str) -> str:
    """The SQL pattern of one with * and ?."""
    for special in ("\\", "%", "_"):
        pattern = pattern.replace(special, f"\\{special}")
    return pattern.replace("*", "%").replace("?", "_")
