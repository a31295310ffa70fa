from apps.swarms.models.holding import Holding
from apps.swarms.models.override import AgentOverride
from apps.swarms.models.pool import ResourcePool
from apps.swarms.models.swarm import Agent, Priority, Runtime, Step, Swarm, SwarmStatus
from apps.swarms.models.task import FailureCode, Task, TaskStatus

__all__ = [
    "Agent",
    "AgentOverride",
    "FailureCode",
    "Holding",
    "Priority",
    "ResourcePool",
    "Runtime",
    "Step",
    "Swarm",
    "SwarmStatus",
    "Task",
    "TaskStatus",
]
