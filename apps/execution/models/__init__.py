from apps.execution.models.archive import Archive, ArchiveReason
from apps.execution.models.artifact import Artifact, LooseObject
from apps.execution.models.running import Attempt, Outcome, Runner, Tick
from apps.execution.models.trying import RegionTry, TryStatus

__all__ = [
    "Archive",
    "ArchiveReason",
    "Artifact",
    "Attempt",
    "LooseObject",
    "Outcome",
    "RegionTry",
    "Runner",
    "Tick",
    "TryStatus",
]
