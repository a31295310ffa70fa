from apps.costs.models.budget import Budget, BudgetPeriod, Enforcement, Period, Scope
from apps.costs.models.external import ExternalEvent, ExternalReservation, run_id
from apps.costs.models.ledger import Kind, LedgerEntry
from apps.costs.models.price import Price
from apps.costs.models.rate import AccruedHour, Accruing, Rate
from apps.costs.models.reservation import Reservation

__all__ = [
    "AccruedHour",
    "Accruing",
    "Budget",
    "BudgetPeriod",
    "Enforcement",
    "ExternalEvent",
    "ExternalReservation",
    "Kind",
    "LedgerEntry",
    "Period",
    "Price",
    "Rate",
    "Reservation",
    "Scope",
    "run_id",
]
