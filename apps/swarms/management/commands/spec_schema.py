"""``manage.py spec_schema``: the JSON Schema of swarm specs, for editors and other checks."""

from __future__ import annotations

import json
from typing import Any

from apps.swarms.specs import json_schema
from portal import commands


class Command(commands.Command):
    help = "Prints the JSON Schema of swarm specs; docs/reference/swarm-spec.schema.json is its output."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(json.dumps(json_schema(), indent=2))
