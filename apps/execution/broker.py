"""The queue in the database, as django-q2 sees it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django_q.brokers.orm import ORM
from django_q.conf import Conf

from apps.execution import board


def queue_of(cluster: str) -> str:
    """The key under which a cluster's tasks wait. Runners belong to a node, so each node has its own queue of them."""
    return f"agents@{settings.NODE_NAME}" if cluster == "agents" else cluster


class NodeBroker(ORM):
    """django-q2's database broker with a queue of runners per node; tells the board what it pulls."""

    def __init__(self, list_key: str | None = None) -> None:
        super().__init__(queue_of(list_key or Conf.CLUSTER_NAME))

    def dequeue(self) -> Any:
        taken = super().dequeue()
        if taken and board.current is not None:
            for row, _ in taken:
                board.current.pulled(row)
        return taken
