from apps.costs.models.advice import Advice, AdviceKind, AdviceStatus
from apps.costs.models.alert import BudgetAlert, Cause
from apps.costs.models.budget import Budget, BudgetPeriod, Enforcement, Period, Scope
from apps.costs.models.centre import CentreRule, CostCentre
from apps.costs.models.export import StatementExport
from apps.costs.models.external import ExternalEvent, ExternalReservation, run_id
from apps.costs.models.ledger import Kind, LedgerEntry
from apps.costs.models.price import Price
from apps.costs.models.rate import AccruedHour, Accruing, Rate
from apps.costs.models.reservation import Reservation
from apps.costs.models.rollup import (
    DayTotal,
    Grain,
    HourTotal,
    RolledTenant,
    RollupPosition,
    SubjectTotal,
    SwarmTotal,
    UsageTotal,
)
from apps.costs.models.statement import Statement, StatementLine, StatementStatus

__all__ = [
    "AccruedHour",
    "Accruing",
    "Advice",
    "AdviceKind",
    "AdviceStatus",
    "Budget",
    "BudgetAlert",
    "BudgetPeriod",
    "Cause",
    "CentreRule",
    "CostCentre",
    "DayTotal",
    "Enforcement",
    "ExternalEvent",
    "ExternalReservation",
    "Grain",
    "HourTotal",
    "Kind",
    "LedgerEntry",
    "Period",
    "Price",
    "Rate",
    "Reservation",
    "RolledTenant",
    "RollupPosition",
    "Scope",
    "Statement",
    "StatementExport",
    "StatementLine",
    "StatementStatus",
    "SubjectTotal",
    "SwarmTotal",
    "UsageTotal",
    "run_id",
]
